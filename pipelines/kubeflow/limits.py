"""Limits on the length of names and texts in Kubeflow's tables, checked before anything is sent.

A recurring run that the tables do not hold is refused, but has been started by then: it fires, and no list shows it.
"""

from typing import NamedTuple

from components.core.errors import InputError

TEXT = 255  # characters of a description, a display name or a cron expression, in every table that Thawline writes


class Limit(NamedTuple):
    """The limit of a column."""

    what: str
    most: int
    unit: str  # Kubeflow counts in bytes what it checks itself; its database counts in characters
    hint: str


LIMITS = {
    "experiment": Limit("The experiment's name", 128, "bytes", "Use a shorter --experiment."),
    "run": Limit("The run's name", TEXT, "characters", "Use a shorter --model."),
    "recurring run": Limit("The schedule's name", TEXT, "characters", "Use a shorter one."),
    "cron": Limit("The cron expression", TEXT, "characters", "Write ranges and steps, such as */5, for lists."),
    "pipeline": Limit("The pipeline's name", 128, "bytes", "Rename it."),
    "version": Limit("The name of the pipeline's version", 127, "bytes", "Rename it."),
}


def check(**texts: str) -> None:
    """Refuse a text that is too long for where it is to stand; `_` stands for a blank in the key.

    Raises:
        InputError: One of them is too long.
    """
    for key, text in texts.items():
        limit = LIMITS[key.replace("_", " ")]
        length = len(text.encode()) if limit.unit == "bytes" else len(text)
        if length > limit.most:
            sentence = f"{limit.what}, {_shown(text)}, has {length} {limit.unit}"
            raise InputError(f"{sentence}, {length - limit.most} more than Kubeflow keeps.", limit.hint)


def cut(text: str) -> str:
    """A text as Kubeflow keeps it, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= TEXT else f"{line[: TEXT - 1]}…"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…")  # noqa: PLR2004 - it stands in a sentence
