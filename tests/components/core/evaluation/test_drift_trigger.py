"""New data that differ from the champion's are not held back by --min-new."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.core import run_folder
from components.core.activations import caching_plan
from components.core.activations.requests import RowRequest
from components.core.fitting.data import open_data
from components.core.fitting.thaw_line import rows_of_split
from components.core.registry import versions
from components.core.tracking import queries, runs
from components.core.tracking.metric_groups import plain
from components.core.tracking.service import connection
from components.core.training.phase import base_network
from components.detect_changes import Decision, look
from tests.fakes.toy import write_points
from tests.support.plain import PlainRun


@pytest.fixture
def source(toy_source: Path, tmp_path: Path) -> Path:
    """The points that the champion was trained on, in a folder that may grow."""
    return Path(shutil.copytree(toy_source, tmp_path / "points"))


def grow(source: Path, per_class: int, spread: float, offset: str = "") -> None:
    """More points in every class; with an offset, of another place."""
    more = write_points(source.parent / "more", per_class, spread=spread, seed=5)
    for path in more.rglob("*.txt"):
        x, y = path.read_text().split(",")
        (source / path.parent.name / f"new{path.name}").write_text(f"{float(x) + float(offset or 0):.6f},{y}")


def decided(source: Path, run: PlainRun, **changes: Any) -> tuple[Decision, dict[str, float]]:
    """What is decided, and the metrics of that run."""
    rules = {"min_new": 500, "drift_trigger": 0.2, **changes}
    key, settings = run_folder.new_run_key(), run.settings.model_copy(update=rules)
    decision = look(str(source), settings, key)
    [pipeline] = queries.find_runs("toy", key, "pipeline")
    runs.close_running("toy", key, failed=True)  # the next one takes the lease
    return decision, {plain(name): value for name, value in pipeline.data.metrics.items()}


def test_new_data_of_another_kind_train(toy_home: PlainRun, source: Path) -> None:
    """Fewer than --min-new, but told from the champion's data: trained, with share and interval in the reason."""
    grow(source, 12, 0.5, offset="6")
    decision, metrics = decided(source, toy_home)
    assert decision.change == "train"
    assert decision.reason.startswith("36 of at least 500 changes since the run toy ")
    assert "of 36 new ones can be told apart from the training data of the champion, version 1" in decision.reason
    assert decision.reason.endswith(": above --drift-trigger 0.2.")
    assert 0.2 < metrics["drift_low"] <= metrics["drift"] <= metrics["drift_high"]


def test_rows_are_shared_with_training(
    toy_home: PlainRun, toy_dataset: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking for drift asks for the very rows that a training keeps."""
    asked, real = list[set[bytes]](), caching_plan.rows_at

    def noted(request: RowRequest, *rest: Any) -> Any:
        asked.append(set(request.keys))
        return real(request, *rest)

    monkeypatch.setattr(caching_plan, "rows_at", noted)
    grow(source, 12, 0.5, offset="6")
    decided(source, toy_home)
    data = open_data(toy_dataset, toy_home.settings)
    rows_of_split(base_network(data, data.settings.defaults()), data, {3: 1.0}, "train")
    looked, trained = asked
    assert trained <= looked


def test_new_data_of_the_same_kind_wait(toy_home: PlainRun, source: Path) -> None:
    """They are held back as before, and the reason says how little they differ."""
    grow(source, 12, 0.5)
    decision, metrics = decided(source, toy_home)
    assert decision.change == "skip"
    assert decision.reason.endswith(": not above --drift-trigger 0.2.")
    assert metrics["drift_low"] <= 0.2
    assert decided(source, toy_home, min_new=36)[0].reason.endswith(": 36 new examples.")


def test_what_the_last_training_had_is_not_new(toy_home: PlainRun, source: Path) -> None:
    """Test rows, which no champion was trained on, are no newcomers: without new examples nothing is asked."""
    next((source / "class0").iterdir()).unlink()
    decision, metrics = decided(source, toy_home)
    assert decision.reason.endswith(": 1 gone example.")
    assert "drift" not in metrics


def test_too_few_say_nothing(toy_home: PlainRun, source: Path) -> None:
    """Below twenty new examples there is no statement; what the task can't use does not count."""
    grow(source, 6, 0.5, offset="6")
    for number in range(10):
        (source / "class0" / f"broken{number}.txt").write_text(f"broken {number}")
    decision, metrics = decided(source, toy_home)
    assert decision.change == "skip"
    assert decision.reason.endswith("They are too few for --drift-trigger, which takes 20, in five groups.")
    assert "drift" not in metrics


def test_without_a_champion_nothing_differs_from_it(toy_home: PlainRun, source: Path) -> None:
    grow(source, 12, 0.5, offset="6")
    connection.client().delete_registered_model_alias("toy", "champion")
    assert versions.current("toy", "champion") == ""
    assert decided(source, toy_home)[0].reason.endswith("--drift-trigger needs a champion.")


@pytest.mark.slow
def test_torch_is_loaded_only_where_a_run_would_wait(toy_home: PlainRun, source: Path) -> None:
    """With the trigger on, a run without changes and one with enough of them stay cheap."""
    code = f"""
import sys
from components.core.settings import Settings
from components.core.tracking.runs import close_running
from components.detect_changes import look
settings = Settings.from_json({toy_home.settings.to_json()!r}).model_copy(update={{"drift_trigger": 0.2, "min_new": 3}})
print(look({str(source)!r}, settings, "same").change)
close_running("toy", "same", failed=False)
for i in range(5):
    open({str(source / "class0")!r} + f"/another{{i}}.txt", "w").write(f"1.{{i}},9.0")
print(look({str(source)!r}, settings, "enough").change, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["skip", "train False"], done.stderr
