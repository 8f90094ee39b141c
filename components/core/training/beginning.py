"""The beginning of a training step: its choice of hyperparameters, its data and its deadline."""

from pathlib import Path

from components.core.contract.task_sources import default_hyperparameters
from components.core.data.dataset_info import DatasetInfo
from components.core.errors import InputError
from components.core.fitting.data import Data, open_data
from components.core.settings import Hyperparameters, Settings
from components.core.tracking.runs import StepRun
from components.core.training import deadlines


def begin(run: StepRun, dataset: Path, hyperparameters: str) -> tuple[Hyperparameters, Data]:
    """Open the data of a training step; record what it trains with, and set its deadline.

    Args:
        run: The step.
        dataset: Folder that `prepare_data` wrote.
        hyperparameters: See `read_hyperparameters`.
    """
    chosen = read_hyperparameters(hyperparameters, run.settings, dataset)
    run.params(chosen.model_dump())
    run.tags(DatasetInfo.read(dataset).tags())
    run.deadline = deadlines.of(run)
    return chosen, open_data(dataset, run.settings)


def read_hyperparameters(hyperparameters: str, settings: Settings, dataset: Path) -> Hyperparameters:
    """Read what the search chose; where the DAG has no search, take the defaults for the data.

    Args:
        hyperparameters: As `select_trial` returned them, JSON; empty without a search.
        settings: The run's.
        dataset: Folder that `prepare_data` wrote.

    Raises:
        InputError: The settings ask for trials, and the DAG has no search.
    """
    if hyperparameters:
        return Hyperparameters.model_validate_json(hyperparameters)
    if settings.trials:
        raise InputError(
            f"The settings ask for {settings.trials} trials, but this run was started without a search.",
            "Start it with `thawline submit`, or set trials to 0.",
        )
    return default_hyperparameters(settings, DatasetInfo.read(dataset).fitted())
