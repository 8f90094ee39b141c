"""Options of one kind of problem: a model of the task's own, given as `--option NAME=VALUE`.

They are part of the settings and so of their digest. What the data decide, and nobody fixed, joins them once the data
are prepared: every later step then sees the same values.
"""

from collections.abc import Collection, Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.errors import InputError, plainly
from components.core.settings import Settings


class NoOptions(BaseModel):
    """The options of a task that has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_Options = TypeVar("_Options", bound=BaseModel)


def parse_options(settings: Settings, model: type[_Options]) -> _Options:
    """The settings' options as the task declares them.

    Raises:
        InputError: One of them is unknown to the task, or has a value that it can't have.
    """
    try:
        return model.model_validate(settings.option)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise unknown_option(settings.task, name, model.model_fields) from None
        raise unusable_option(name, first["input"], plainly(first["msg"]).lower()) from None


def unknown_option(task: str, name: str, known: Collection[str]) -> InputError:
    """The error for an option that a task does not have, with those that it has."""
    hint = f"Use one of: {', '.join(known)}." if known else "Leave out --option."
    return InputError(f"The task {task} has no option {name!r}.", hint)


def unusable_option(name: str, value: object, reason: str) -> InputError:
    """The error for an option's value."""
    return InputError(f"--option {name}={value} can't be used: {reason}.", "Use another value.")


def with_measured(settings: Settings, measured: Mapping[str, str]) -> Settings:
    """The settings with the options that the data decided; what the user gave wins.

    Args:
        settings: Of the run.
        measured: Options that the data decided, of the dataset's facts.
    """
    return settings.model_copy(update={"option": {**measured, **settings.option}}) if measured else settings
