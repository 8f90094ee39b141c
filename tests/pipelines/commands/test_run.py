"""What `thawline run` prints before its steps, and at its end."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from components.core.run_result import RunResult
from components.core.settings import Settings
from pipelines.cli import app
from pipelines.commands.options import merge
from pipelines.commands.run import _print_settings, _print_summary
from tests.fakes.toy import write_points


@pytest.mark.parametrize(
    ("task", "searched"),
    [("image", "layer_decay, "), ("speech", "dropout, head_learning_rate, label_smoothing, layer_decay, ")],
)
def test_what_is_searched_depends_on_the_head(task: str, searched: str) -> None:
    """A head that is solved for leaves three options out of the search, and one of transcripts is not solved for."""
    printed = io.StringIO()
    _print_settings(Console(file=printed, width=200), "data", merge({"task": task}, None, "data"), "")
    assert f"searched: {searched}thaw, " in printed.getvalue()


@pytest.mark.parametrize(
    ("facts", "what", "then"),
    [
        ({"promoted": True}, "its numbers and mistakes", "predict --model toy FILE  ask the champion"),
        (
            {"promoted": True, "compared_with": "1"},
            "its numbers and mistakes",
            "predict --model toy FILE  ask the champion",
        ),
        ({"compared_with": "1"}, "where it differs from the champion", "predict --model toy FILE  ask the champion"),
        ({"compared_with": "2"}, "its numbers and mistakes", "predict --model toy FILE  ask the champion"),
        ({}, "its numbers and mistakes", "predict --model toy@challenger FILE  ask this version"),
        ({"pending": "thawline promote 2 --model toy"}, "its numbers and mistakes", "promote 2 --model toy"),
    ],
)
def test_the_summary_ends_with_what_to_do(
    facts: dict[str, Any], what: str, then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last lines are commands that work here: the report, and the answers of the champion or how to get one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THAWLINE_HOME", str(tmp_path / ".thawline"))
    monkeypatch.setattr("sys.argv", [str(tmp_path / "bin/thawline")])
    report = str(tmp_path / ".thawline/report.html")
    result = RunResult.model_validate(
        {"status": "succeeded", "metric": "micro_f1", "version": "2", "report": report, **facts}
    )
    printed = io.StringIO()
    _print_summary(Console(file=printed, width=200), result, Settings(model="toy"))
    lines = printed.getvalue().splitlines()
    assert lines[1].startswith("Micro F1 ")
    assert "Report      .thawline/report.html" in lines
    assert "Tracking    bin/thawline ui" in lines
    first, second = lines[lines.index("Tracking    bin/thawline ui") + 1 :]
    assert first.split("  ")[0] == "Next"
    assert first.endswith(what)
    assert "bin/thawline report toy" in first
    assert second.strip().startswith(f"bin/thawline {then}")


def test_quiet_prints_nothing_about_the_run(home: Path, tmp_path: Path) -> None:
    """With --quiet stderr stays empty; what was asked for is on stdout."""
    source = write_points(tmp_path / "points", per_class=4)
    arguments = ["run", str(source), "--task", "tests.fakes.toy", "--dry-run"]
    assert "Fine-tuning on" in CliRunner().invoke(app, arguments).stderr
    quiet = CliRunner().invoke(app, [*arguments, "-q"])
    assert quiet.stderr == ""
    assert quiet.stdout.startswith("Would train: ")
