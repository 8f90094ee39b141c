"""The beginning of a training step."""

from pathlib import Path

import pytest

from components.core.contract.task_sources import default_hyperparameters
from components.core.errors import InputError
from components.core.settings import Settings
from components.core.training.beginning import read_hyperparameters
from tests.conftest import TOY


def test_without_a_search_the_defaults_are_taken(toy_dataset: Path) -> None:
    """What the search chose is read; without one, the defaults for the data, unless trials were asked for."""
    settings = Settings(**TOY, trials=0)
    given = settings.defaults().model_copy(update={"thaw_epochs": 77})
    assert read_hyperparameters(given.model_dump_json(), settings, toy_dataset) == given
    assert read_hyperparameters("", settings, toy_dataset) == default_hyperparameters(settings, 180)
    with pytest.raises(InputError, match="4 trials, but this run was started without a search"):
        read_hyperparameters("", settings.model_copy(update={"trials": 4}), toy_dataset)
