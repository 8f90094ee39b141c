"""Trials of a search."""

import time
from pathlib import Path

import optuna

from components.core.data.dataset_info import DatasetInfo
from components.core.searching.studies import open_study
from components.core.searching.trials import suggest, work
from components.core.settings import Hyperparameters, Settings
from components.search import study_name
from tests.conftest import TOY

SETTINGS = Settings(**TOY, trials=3, search_workers=1)


def asked(settings: Settings, count: int = 30) -> list[Hyperparameters]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest(study.ask(), settings, stages=3) for _ in range(count)]


def test_given_options_are_fixed_and_the_rest_is_searched() -> None:
    """An option that is given has one value in all trials; the others vary."""
    found = asked(Settings(dropout=0.25, thaw=2))
    assert {h.dropout for h in found} == {0.25}
    assert {h.thaw for h in found} == {2}
    assert len({h.weight_decay for h in found}) == len(found)


def test_a_solved_head_leaves_the_search() -> None:
    """Rate, dropout and smoothing of a solved head stay at their defaults, or at what is given."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = [suggest(study.ask(), Settings(dropout=0.25), stages=3, solved=True) for _ in range(5)]
    assert {(h.head_learning_rate, h.dropout, h.label_smoothing) for h in found} == {(3e-3, 0.25, 0.0)}
    assert len({h.thaw_learning_rate for h in found}) == len(found)


def test_both_phases_are_searched() -> None:
    """Rate, decay, dropout and smoothing of the head, and depth, rate, decay and epochs of the thaw all vary."""
    found = asked(Settings())
    assert all(len({getattr(h, name) for h in found}) > 1 for name in Hyperparameters.model_fields)
    assert {h.thaw for h in found} == {1, 2, 3}


def test_few_rows_are_judged_by_the_last_epoch(tracked_home: Path, toy_dataset: Path) -> None:
    """Above a solved head a trial is worth its last epoch, as the final model is judged, and none stops it earlier."""
    given = {"trials": 1, "head_solver": "auto", "patience": 1, "thaw_epochs": 6, "thaw_learning_rate": 0.3}
    settings = SETTINGS.model_copy(update=given)  # so high a rate that the last epoch is not the best
    name = study_name(settings, DatasetInfo(classes=[], digest="d"))
    work(name, str(toy_dataset), settings.to_json(), 3, 1, "step")
    [trial] = open_study(name).trials
    losses = [epoch["loss"] for epoch in trial.user_attrs["history"] if epoch["phase"] == "thaw"]
    assert len(losses) == 6
    assert trial.value == losses[-1] > min(losses)


def test_the_best_trial_is_left_its_time(tracked_home: Path, toy_dataset: Path) -> None:
    """No trial starts when the best one so far could not be trained once more before all training has to end."""
    settings = SETTINGS.model_copy(update={"trials": 3})
    name, text = study_name(settings, DatasetInfo(classes=[], digest="d")), settings.to_json()
    study = open_study(name)
    for value, seconds in ((0.5, 600.0), (0.9, 1.0)):
        trial = study.ask()
        trial.set_user_attr("seconds", seconds)
        study.tell(trial, value)
    work(name, str(toy_dataset), text, 3, 1, "step", end=time.time() + 700)
    assert len(open_study(name).trials) == 2
    work(name, str(toy_dataset), text, 3, 1, "step", end=time.time() + 800)
    assert [trial.state.name for trial in open_study(name).trials] == ["COMPLETE"] * 3
