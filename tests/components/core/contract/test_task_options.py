"""Options of one kind of problem."""

import pytest
from pydantic import BaseModel, ConfigDict, Field

from components.core.contract.task_options import NoOptions, parse_options, with_measured
from components.core.errors import InputError
from components.core.settings import Settings


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    seconds: float = Field(2.0, gt=0)
    mono: bool = True


def test_texts_become_the_types_that_the_task_declares() -> None:
    """What the user did not give keeps its default."""
    options = parse_options(Settings(option=["seconds=1.5"]), Options)
    assert (options.seconds, options.mono) == (1.5, True)
    assert parse_options(Settings(option={"mono": False}), Options).mono is False


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("second=1", "has no option 'second'. Use one of: seconds, mono"),
        ("seconds=-1", "--option seconds=-1 can't be used: it should be greater than 0"),
        ("seconds=long", "--option seconds=long can't be used"),
    ],
)
def test_a_wrong_option_is_one_sentence(option: str, sentence: str) -> None:
    """An unknown name is told with the known ones, a wrong value with its reason."""
    with pytest.raises(InputError, match=sentence):
        parse_options(Settings(option=[option]), Options)


def test_a_task_without_options_takes_none() -> None:
    """An option for another task does not pass unseen."""
    with pytest.raises(InputError, match="image_classification has no option 'seconds'. Leave out --option"):
        parse_options(Settings(option=["seconds=1"]), NoOptions)


def test_what_the_data_decided_gives_way_to_the_user() -> None:
    """Measured options fill in what nobody gave."""
    measured = {"seconds": "3", "mono": "false"}
    assert with_measured(Settings(option=["seconds=1"]), measured).option == {"seconds": "1", "mono": "false"}
    assert with_measured(Settings(), {}) == Settings()
