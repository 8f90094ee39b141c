"""The best trial of a search."""

from components.core.data.dataset_info import DatasetInfo
from components.core.searching.studies import open_study
from components.search import study_name
from tests.support.plain import PlainRun


def test_the_winner_has_the_lowest_loss(toy_run: PlainRun) -> None:
    """select_trial takes the hyperparameters of the best complete trial."""
    study = open_study(study_name(toy_run.settings, DatasetInfo.read(toy_run.folder / "dataset")))
    assert toy_run.hyperparameters == study.best_trial.user_attrs["hyperparameters"]
    assert study.best_value == min(t.value for t in study.trials if t.value is not None)
