"""What a run would do."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from components.core.settings import Settings
from components.core.tracking.service import connection
from components.detect_changes import Decision
from pipelines.cli import app
from pipelines.commands import dry_run
from pipelines.commands.dry_run import foreseen, steps
from tests.fakes.toy import write_points
from tests.support.plain import PlainRun


@pytest.mark.parametrize(
    ("changed", "change", "reason", "count"),
    [
        ({}, "skip", "Nothing has changed since the run", 0),
        ({"gate_alpha": 0.1}, "judge", "is judged again: gate: gate_alpha.", 3),
        ({"patience": 3}, "train", "Changed since the run", 7),
        ({"force": True}, "train", "Training was forced.", 7),
        ({"trials": 0}, "train", "Changed since the run", 5),
        ({"model": "other"}, "train", "There is no earlier successful run of 'other'.", 7),
    ],
)
def test_a_run_is_foreseen(
    changed: dict[str, Any], change: str, reason: str, count: int, toy_run: PlainRun, toy_source: Path
) -> None:
    """The decision and its reason are those of detect_changes, and nothing is written to MLflow."""
    client = connection.client()
    before = [len(client.search_experiments()), len(client.search_runs(["1"]))]
    settings = toy_run.settings.model_copy(update=changed)
    decision = foreseen(str(toy_source), settings, None, Console(quiet=True))
    assert (decision.change, len(steps(decision, settings))) == (change, count)
    assert reason in decision.reason
    assert [len(client.search_experiments()), len(client.search_runs(["1"]))] == before


def test_the_expected_time_is_printed(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step that will take a second or more has its time beside it, and the sum is below; JSON has the seconds."""
    expected = {"search": 36.4, "evaluate": 12.0}
    monkeypatch.setattr(dry_run, "expected_seconds", lambda _: expected)
    would = Decision("train", "Forced.")
    dry_run.print_foreseen(would, Settings(model="stamps"), None, as_json=False)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "Steps: prepare_data, search ~36 s, select_trial, train_head, fine_tune, evaluate ~12 s, register",
        "Time: ~48 s, as in the last run of stamps with these settings",
    ]
    dry_run.print_foreseen(would, Settings(model="stamps"), None, as_json=True)
    assert json.loads(capsys.readouterr().out)["expected_seconds"] == expected


@pytest.mark.parametrize("options", [["--json"], []])
def test_without_runs_it_would_train(options: list[str], home: Path, tmp_path: Path) -> None:
    """`thawline run --dry-run` of a new model says that it would train, and leaves no home behind."""
    source = write_points(tmp_path / "points", per_class=4)
    arguments = ["run", str(source), "--task", "tests.fakes.toy", "--dry-run", *options]
    printed = CliRunner().invoke(app, arguments).stdout
    reason = "There is no earlier successful run of 'points'."
    if options:
        assert json.loads(printed)["reason"] == reason
    else:
        assert printed.splitlines()[0] == f"Would train: {reason}"
    assert not home.exists()


def test_the_config_is_printed(home: Path, tmp_path: Path) -> None:
    """`--print-config` prints what is given as values and the rest as comments, and runs nothing."""
    source = write_points(tmp_path / "points", per_class=4)
    arguments = ["run", str(source), "--task", "tests.fakes.toy", "--trials", "0", "--print-config"]
    lines = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert {"task: tests.fakes.toy", "model: points", "trials: 0", f"# patience: {Settings().patience}"} <= {*lines}
    assert not home.exists()
