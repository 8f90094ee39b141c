"""Options of one kind of problem: a model of the task's own, given as `--option NAME=VALUE`.

They are part of the settings and so of their digest. What the data decide, and nobody fixed, joins them once the data
are prepared: every later step then sees the same values.
"""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.errors import InputError
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
            known = ", ".join(model.model_fields)
            hint = f"Use one of: {known}." if known else "Leave out --option."
            raise InputError(f"The task {settings.task} has no option {name!r}.", hint) from None
        raise InputError(
            f"--option {name}={first['input']} can't be used: {first['msg'].lower()}.", "Use another value."
        ) from None


def with_measured(settings: Settings, measured: Mapping[str, str]) -> Settings:
    """The settings with the options that the data decided; what the user gave wins.

    Args:
        settings: Of the run.
        measured: Options that the data decided, of the dataset's facts.
    """
    return settings.model_copy(update={"option": {**measured, **settings.option}}) if measured else settings
