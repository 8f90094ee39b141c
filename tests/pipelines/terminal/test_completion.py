"""What the shell completes."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.terminal.completion import model_names


def write_runs(home: Path, *models: str) -> None:
    for number, model in enumerate(models):
        folder = home / f"runs/{number}"
        folder.mkdir(parents=True)
        (folder / "settings.json").write_text(json.dumps({"model": model}))


def test_models_with_runs_are_offered(home: Path) -> None:
    """Names that begin with what is typed, each once; a file that is being written is passed over."""
    assert model_names("") == []
    write_runs(home, "stamps", "birds", "stamps", "stones", "damaged")
    (home / "runs/0/settings.json").write_text('{"mod')
    (home / "runs/4/settings.json").write_text("[]")
    assert model_names("") == ["birds", "stamps", "stones"]
    assert model_names("sta") == ["stamps"]


NAMED = [
    "run",
    "submit",
    "report",
    "ui",
    "status",
    "models",
    "promote",
    "rollback",
    "export",
    "serve",
    "explain",
    "predict",
]


@pytest.mark.parametrize("command", NAMED)
def test_every_command_that_takes_a_model_offers_names(command: str, home: Path) -> None:
    """The argument or option that names a model is completed."""
    write_runs(home, "stamps")
    found: Any = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]  # a group
    context = found.make_context(command, [], resilient_parsing=True)
    names = ("model", "name") if command in ("run", "submit") else ("name", "model")
    parameter = next(one for name in names for one in found.params if one.name == name)
    assert [one.value for one in parameter.shell_complete(context, "st")] == ["stamps"]


def test_the_shell_is_told(home: Path) -> None:
    """What bash gets behind `thawline report` are the names."""
    write_runs(home, "stamps")
    words = {"_ROOT_COMPLETE": "complete_bash", "COMP_WORDS": "root report s", "COMP_CWORD": "2"}
    assert CliRunner().invoke(app, [], env=words, prog_name="root").output.split() == ["stamps"]
