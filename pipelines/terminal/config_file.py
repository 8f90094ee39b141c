"""The file of `--config`: read with the line of what is wrong, and written with a comment on every setting."""

import textwrap
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from components.core.errors import InputError
from components.core.settings import OPTIONS, Hyperparameters, Settings

WIDTH = 100
END = "...\n"  # of a YAML document that is one plain value
HEAD = """\
Settings of Thawline. Use this file with: thawline run SOURCE --config {name}
Remove the # in front of a setting and change its value. What stays a comment has its default,
which is shown; the command line overrides this file. Dashes and underscores are the same."""


def read_config(config: Path) -> dict[str, Any]:
    """The values of a config file by name; a name without a value is not given.

    Raises:
        InputError: It can't be read.
    """
    try:
        text = config.read_text()
        values = yaml.safe_load(text)
        doubled = [name for name, count in Counter(name for name, _ in _lines(text)).items() if count > 1]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"The config file {config} can't be read: {reason}.", "Fix it, or leave out --config."
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{config}{where} is not YAML: {reason}.", "Fix it, or leave out --config.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"The config file {config} is not a mapping of options.", "Write one `name: value` per line.")
    if doubled:
        lines = " and ".join(str(line) for name, line in _lines(text) if name == doubled[0])
        raise InputError(f"{config} has {option_name(doubled[0])} in the lines {lines}.", "Leave one of them.")
    return {_field(name): value for name, value in values.items() if value is not None}


def place(config: Path, field: str) -> str:
    """Return the place of a field in a config file, as `FILE, line 3`."""
    line = dict(_lines(config.read_text())).get(field)
    return f"{config}, line {line}" if line else str(config)


def option_name(field: str) -> str:
    """A field's name as it is typed."""
    return field.replace("_", "-")


def text_of(given: Mapping[str, Any], name: str) -> str:
    """A config file with all settings: those that are given with their values, the others as comments.

    Args:
        given: Values by field.
        name: Of the file, for its first lines.
    """
    lines = _comment(HEAD.format(name=name))
    panel = ""
    for field, mark in OPTIONS.items():
        if mark.panel != panel:
            panel = mark.panel
            lines += ["", f"# ---- {panel} ".ljust(WIDTH, "-")]
        lines += ["", *_comment(_explained(field))]
        lines.append(_entry(field, given[field]) if field in given else f"# {_entry(field, _default(field))}")
    return "\n".join(lines) + "\n"


def _explained(field: str) -> str:
    description = str(Settings.model_fields[field].description)
    if field not in Settings.SEARCHED:
        return f"{description} (default: the name of the source)" if field == "model" else description
    return f"{description} If not set, the search chooses it; without a search {_without_search()[field]:g}."


@cache
def _without_search() -> Mapping[str, float]:
    return Hyperparameters().model_dump()


def _default(field: str) -> Any:  # noqa: ANN401 - of any setting
    """Return the default value as a line shows it; nothing if there is none."""
    return None if field == "model" else Settings.model_fields[field].default


def _entry(field: str, value: Any) -> str:  # noqa: ANN401 - of any setting
    if value is None:
        return f"{option_name(field)}:"
    written = yaml.safe_dump(value, allow_unicode=True, default_flow_style=True, width=10_000)
    return f"{option_name(field)}: {str(written).removesuffix(END).strip()}"


def _comment(text: str) -> list[str]:
    return [
        f"# {line}" for part in text.splitlines() for line in textwrap.wrap(part, WIDTH - 2, break_on_hyphens=False)
    ]


def _field(name: object) -> str:
    return str(name).replace("-", "_")


def _lines(text: str) -> list[tuple[str, int]]:
    """The fields of a mapping in YAML, each with its line."""
    node = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode):
        return []
    return [(_field(key.value), key.start_mark.line + 1) for key, _ in node.value]
