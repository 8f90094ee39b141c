"""When training has to stop."""

import math
import time
from pathlib import Path
from typing import Any

import pytest

from components.core.contract.listener import Deadline
from components.core.settings import Settings
from components.core.tracking import queries, runs, tag_names
from components.core.training import deadlines
from tests.support.plain import PlainRun

NOW = 1_700_000_000.0


def started(key: str, ago: float, **limits: float) -> Settings:
    """Settings of a run that began so many seconds ago."""
    settings = Settings(task="tests.fakes.toy", model="toy", **limits)
    runs.create(key, key, "toy", "pipeline", None, int((time.time() - ago) * 1000))
    return settings


def left(step: str, key: str, settings: Settings) -> tuple[float, str]:
    """Seconds that a step has from now on, and the name of what limits it."""
    with runs.step(step, key, settings.to_json()) as run:
        deadline = deadlines.of(run)
    return deadline.at - time.time(), deadline.name


def test_without_limits_there_is_no_deadline(tracked_home: Path) -> None:
    """By default nothing stops."""
    assert left("search", "k", started("k", 1e6)) == (math.inf, "")


@pytest.mark.parametrize(("step", "share"), [("search", 0.7), ("train_head", 0.85), ("fine_tune", 1.0)])
def test_all_steps_share_the_runs_budget(step: str, share: float, tracked_home: Path) -> None:
    """The budget counts from the run's start; 15% is left for evaluation and registration."""
    seconds, name = left(step, "k", started("k", 600, max_minutes=60))
    assert seconds == pytest.approx(share * 0.85 * 3600 - 600, abs=30)
    assert name == "its share of --max-minutes 60"


@pytest.mark.slow
def test_a_step_may_have_a_limit_of_its_own(tracked_home: Path) -> None:
    """The earlier of the two limits holds, and is named."""
    settings = started("k", 600, max_minutes=60, step_max_minutes=5)
    assert left("search", "k", settings) == (pytest.approx(300, abs=30), "--step-max-minutes 5")
    late = started("late", 40 * 60, max_minutes=60, step_max_minutes=55)
    assert left("fine_tune", "late", late) == (pytest.approx(11 * 60, abs=30), "its share of --max-minutes 60")


def test_the_reserve_is_learnt_from_the_last_run(toy_home: PlainRun) -> None:
    """A run whose evaluation took long last time stops training sooner, but never before half of the budget."""
    took = queries.seconds_from("evaluate", "toy")
    assert took > toy_home.result["steps"]["evaluate"]
    for budget, reserved in ((1000 * took, 0.15 * 1000 * took), (4 * took, 1.2 * took), (took, 0.5 * took)):
        key = f"{budget}"
        seconds, _ = left("fine_tune", key, started(key, 0, max_minutes=budget / 60))
        assert seconds == pytest.approx(budget - reserved, abs=10)


def test_what_was_cut_is_a_tag_and_a_note(tracked_home: Path) -> None:
    """Each step that stops early says so on its own run and on the pipeline's; they are told in the DAG's order."""
    text = Settings(task="tests.fakes.toy", model="toy").to_json()
    for step in ("fine_tune", "search"):
        with runs.step(step, "k", text) as run:
            run.deadline = Deadline(NOW, "--step-max-minutes 5")
            deadlines.cut(run, f"The {step} stopped")
    [pipeline] = queries.find_runs("toy", "k", "pipeline")
    told = (
        "The search stopped: --step-max-minutes 5 was used up. The fine_tune stopped: --step-max-minutes 5 was used up."
    )
    assert deadlines.cuts(pipeline.data.tags) == told
    notes = {r.info.run_name: r.data.tags["thawline.notes"] for r in queries.find_runs("toy", "k", "step")}
    assert notes["search"] == pipeline.data.tags[f"{tag_names.CUT}search"]
    assert deadlines.cuts({}) == ""


@pytest.mark.parametrize(
    ("limits", "seconds", "running", "told"),
    [
        ({}, 1e9, {"search": 1e9}, ""),
        ({"max_minutes": 10}, 600 + 299, {}, ""),
        ({"max_minutes": 10}, 600 + 301, {}, "--max-minutes 10 plus"),
        ({"max_minutes": 60}, 3600 + 899, {}, ""),
        ({"max_minutes": 60}, 3600 + 901, {}, "--max-minutes 60 plus"),
        ({"step_max_minutes": 10}, 1e9, {"search": 899}, ""),
        ({"step_max_minutes": 10}, 1e9, {"register": 901}, "The step register did not end within"),
    ],
)
def test_what_hangs_is_overdue(limits: dict[str, Any], seconds: float, running: dict[str, float], told: str) -> None:
    """A run or a step counts as hung five minutes, or a quarter of its limit, beyond it."""
    reason = deadlines.overdue(Settings(**limits), seconds, running)
    assert (told in reason) if told else reason == ""
