"""The command that a run with some settings is started by."""

import shlex
from typing import Any

from components.core.settings import Settings


def command_of(settings: Settings, source: str, command: str = "run") -> str:
    """Return `thawline run SOURCE …` with an option for each setting that is not the default."""
    words = ["thawline", command, source]
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if value != field.default:
            words += _option(name.replace("_", "-"), value)
    return shlex.join(words)


def _option(name: str, value: Any) -> list[str]:  # noqa: ANN401 - of any setting
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, dict):
        return [word for key, text in value.items() for word in (f"--{name}", f"{key}={text}")]
    return [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
