"""The result of a run, as `--json` prints it and `result.json` holds it."""

import json
from pathlib import Path

from components.core import run_folder
from components.core.run_result import RunResult


def test_a_result_is_read_as_it_was_written(home: Path) -> None:
    """The file in the run's folder holds all facts, and a run without one has no result yet."""
    result = RunResult(status="succeeded", model="toy", version="1", metrics={"mae": 2.5}, steps={"search": 1.0})
    assert RunResult.read("k") is None
    result.write("k")
    assert RunResult.read("k") == result
    text = (run_folder.run_folder("k") / "result.json").read_text()
    assert json.loads(text).keys() == RunResult.model_fields.keys()


def test_results_of_earlier_versions_are_read(home: Path) -> None:
    """A result that lacks facts of this version, or has one that it lacks, is read all the same."""
    (run_folder.run_folder("k") / "result.json").write_text('{"status": "skipped", "melted": 1}')
    assert RunResult.read("k") == RunResult(status="skipped")


def test_a_changed_result_keeps_the_rest() -> None:
    """Another reason is another result; the first one stays as it is."""
    result = RunResult(reason="It was lost.", model="toy")
    assert result.but(reason="It was interrupted.") == RunResult(reason="It was interrupted.", model="toy")
    assert result.reason == "It was lost."
