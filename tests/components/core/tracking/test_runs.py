"""A step's run in MLflow."""

from pathlib import Path

import pytest

from components.core import run_folder
from components.core.settings import Settings
from components.core.tracking import queries, runs
from components.core.training import deadlines


def test_a_helper_of_torchrun_records_nothing(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the first process have a step that takes everything, knows no deadline, and leaves no trace."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    settings = Settings(model="toy", step_max_minutes=1e-9)
    with runs.step("train_head", "k", settings.to_json()) as run:
        run.deadline = deadlines.of(run)
        run.params({"thaw": 1})
        run.tags({"a": "b"}, pipeline=True)
        run.note("kept")
        run.progress(1, 1)
        run.epoch({"loss": 1.0})
        run.metrics({"loss": 1.0})
        run.saved(1.0)
        run.text("text", "a/name.txt")
        run.dataset("points", "d" * 64, "here")
        run.figure("loss 1.0")
        assert not run.should_stop(1e12)
        assert run.pipeline_tags() == {}
        assert run.settings == settings
    assert queries.find_runs("toy", "k") == []
    assert not (run_folder.run_folder("k") / "events.jsonl").exists()
