"""How the runs of a model ended."""

from pathlib import Path

import pytest

from components.core import run_folder
from components.core.reporting import status as outcomes
from components.core.reporting.status import Outcome
from components.core.tracking import canary, runs, tag_names
from components.core.tracking.service import connection
from tests.support.plain import PlainRun

START = 1_700_000_000


def ended(key: str, start: int, status: str, model: str = "toy", **tags: str) -> str:
    """A pipeline run that began so many seconds after `START` and took a minute; RUNNING ones go on."""
    run_id = runs.create(key, key, model, "pipeline", None, (START + start) * 1000)
    runs.record(run_id, {}, {name.replace("_", "."): value for name, value in tags.items()})
    if status != "RUNNING":
        connection.client().set_terminated(run_id, status, (START + start + 60) * 1000)
    return run_id


def test_nothing_yet_is_no_error(tracked_home: Path) -> None:
    """A model that nobody trained has no outcome, and asking makes no experiment."""
    assert outcomes.of("nobody") == Outcome("nobody")
    assert outcomes.models() == []
    assert connection.client().get_experiment_by_name("nobody") is None


def test_the_last_run_and_the_last_good_one(tracked_home: Path) -> None:
    """A failure is the last outcome, with its reason; the last good run is the one before it."""
    ended("a", 0, "FINISHED", thawline_decision="First version.")
    run_id = ended("b", 1000, "FAILED", thawline_failure="The folder is empty.")
    found = outcomes.of("toy")
    assert (found.status, found.reason, found.run_id) == ("failed", "The folder is empty.", run_id)
    assert (found.started, found.ended, found.succeeded) == (START + 1000, START + 1060, START + 60)
    assert not found.running


def test_a_skipped_run_is_a_good_one(tracked_home: Path) -> None:
    """Where nothing had changed, the model is fresh."""
    ended("a", 0, "FINISHED")
    ended("b", 1000, "FINISHED", thawline_skipped="true", thawline_decision="Nothing has changed.")
    found = outcomes.of("toy")
    assert (found.status, found.reason, found.succeeded) == ("skipped", "Nothing has changed.", START + 1060)


def test_a_run_under_way_hides_no_outcome(tracked_home: Path) -> None:
    """The last run that has ended is told, and that another one runs; before the first end only the latter."""
    ended("a", 0, "RUNNING")
    assert (outcomes.of("toy").status, outcomes.of("toy").running, outcomes.of("toy").succeeded) == ("running", True, 0)
    ended("b", 1000, "KILLED")
    found = outcomes.of("toy")
    assert (found.status, found.running) == ("terminated", False)  # what began before the last end was left by a kill
    ended("c", 2000, "RUNNING")
    assert (outcomes.of("toy").status, outcomes.of("toy").running) == ("terminated", True)


def test_a_killed_run_is_not_in_progress(tracked_home: Path) -> None:
    """Its process on this machine is gone, so it counts as terminated before anything closes it."""
    ended("a", 0, "FINISHED")
    ended("b", 1000, "RUNNING")
    lease = run_folder.run_folder("b") / run_folder.LEASE
    lease.write_text('{"pid": 999999999, "started": "1"}')
    found = outcomes.of("toy")
    assert (found.status, found.running, found.ended) == ("terminated", False, 0)
    assert "The same command resumes" in found.reason
    run_folder.take_lease("b")
    assert (outcomes.of("toy").status, outcomes.of("toy").running) == ("succeeded", True)


def test_a_run_that_was_cut_short_is_told(tracked_home: Path) -> None:
    """A deadline's cut is a success that says so."""
    run_id = ended("a", 0, "FINISHED")
    runs.record(run_id, {}, {f"{tag_names.CUT}search": "The search stopped."})
    assert (outcomes.of("toy").status, outcomes.of("toy").cut) == ("succeeded", True)


def test_runs_in_another_experiment_count(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubeflow's plugin brings an experiment of its own: a monitor that knows nothing of it finds the runs."""
    shared = connection.own_experiment("kubeflow")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_EXPERIMENT_ID", shared)
        ended("a", 0, "FINISHED")
        ended("b", 0, "FAILED", model="other")
    assert (outcomes.of("toy").status, outcomes.of("other").status) == ("succeeded", "failed")
    assert outcomes.models() == ["other", "toy"]


def test_a_canary_is_no_model(tracked_home: Path) -> None:
    """Trying a cluster out leaves runs in MLflow, which no monitor waits for again."""
    ended("a", 0, "FINISHED", canary.MODEL)
    ended("b", 0, "FINISHED")
    assert outcomes.models() == ["toy"]


def test_the_champion_is_told(toy_run: PlainRun) -> None:
    """Version and accuracy of the champion, and the work of the last run."""
    found = outcomes.of("toy")
    assert (found.status, found.champion, found.pending) == ("succeeded", "1", "")
    assert found.accuracy == pytest.approx(toy_run.result["metrics"]["accuracy"])
    assert found.seconds == pytest.approx(sum(toy_run.result["steps"].values()))


def test_age_and_staleness() -> None:
    """A model is stale when its last good run is longer ago than allowed, or there never was one."""
    fresh = Outcome("toy", succeeded=1000.0)
    assert fresh.age(1500.0) == 500.0
    assert not fresh.stale(1500.0, 500.0)
    assert fresh.stale(1501.0, 500.0)
    assert Outcome("toy").stale(1500.0, 1e9)
    assert Outcome("toy").age(1500.0) is None
