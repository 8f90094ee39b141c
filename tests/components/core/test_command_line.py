"""The command that made a run."""

import shlex
from typing import Any

from typer.main import get_command

from components.core.command_line import command_of
from components.core.settings import Settings
from pipelines.cli import app
from pipelines.commands.options import merge


def test_the_command_makes_the_same_settings() -> None:
    """Parsed by the command line, the command gives the settings that it was made of."""
    given: dict[str, Any] = {"model": "stamps", "trials": 0, "weights": "package:efficientnet-lite0", "force": True}
    given |= {"thaw": 3, "gate_alpha": 0.1, "option": {"units": "words", "beam": "4"}, "near_duplicates": -1}
    settings = Settings.model_validate(given)
    words = shlex.split(command_of(settings, "my photos"))
    command: Any = get_command(app).commands["run"]  # type: ignore[attr-defined]  # a group
    parsed = command.make_context("run", words[2:]).params
    assert words[:2] == ["thawline", "run"]
    assert parsed["source"] == "my photos"
    options = {name: value for name, value in parsed.items() if name in Settings.model_fields}
    assert merge(options, None, "my photos") == settings
