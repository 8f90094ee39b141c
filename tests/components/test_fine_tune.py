"""The thawed phase as a step."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.core.contract.listener import Deadline
from components.core.fitting.training_state import StateFiles, TrainingState
from components.core.tracking import queries
from components.core.tracking.service import connection
from components.core.training import deadlines, thawing
from components.core.training.checkpoints import read_facts, weights_digest
from components.fine_tune import fine_tune
from components.train_head import train_head
from tests.support.plain import PlainRun


class CutOffError(Exception):
    """Stands for a kill."""


def tune(run: PlainRun, target: Path, key: str, **changes: float) -> float:
    chosen = json.dumps({**run.hyperparameters, **changes})
    text = run.settings.to_json()
    return fine_tune(text, key, run.folder / "dataset", chosen, run.folder / "head", target)


def test_both_phases_are_in_the_history(toy_run: PlainRun) -> None:
    """The checkpoint tells the epochs of the head phase and of the thawed phase."""
    history = read_facts(toy_run.folder / "tuned")["history"]
    assert [figures["phase"] for figures in history] == sorted(figures["phase"] for figures in history)
    assert {figures["phase"] for figures in history} == {"head", "thaw"}


def test_the_better_model_goes_on(toy_run: PlainRun) -> None:
    """The model that goes on is the one with the lower validation loss."""
    facts = read_facts(toy_run.folder / "tuned")
    best = min(facts["history"], key=lambda figures: figures["loss"])
    assert (facts["thawed"] > 0) == (best["phase"] == "thaw")


def test_where_thawing_does_not_help_the_head_goes_on(toy_home: PlainRun, tmp_path: Path) -> None:
    """A thawed phase that only does harm leaves the head-only weights, and says so."""
    loss = tune(toy_home, tmp_path / "tuned", "harm", thaw=3, thaw_learning_rate=50.0, thaw_epochs=1)
    facts, head = read_facts(tmp_path / "tuned"), read_facts(toy_home.folder / "head")
    assert facts["thawed"] == 0
    assert facts["stage_digests"] == head["stage_digests"]
    assert loss == min(figures["loss"] for figures in head["history"])


def test_without_time_the_head_goes_on(toy_home: PlainRun, tmp_path: Path) -> None:
    """When the deadline has passed before the thaw, the head-only model is handed on, and the run says so."""
    toy_home = replace(toy_home, settings=toy_home.settings.model_copy(update={"step_max_minutes": 1e-9}))
    tune(toy_home, tmp_path / "tuned", "late", thaw=2)
    assert read_facts(tmp_path / "tuned") == read_facts(toy_home.folder / "head")
    [pipeline] = queries.find_runs("toy", "late", "pipeline")
    told = "No stage was thawed, so the head-only model is kept: --step-max-minutes 1e-09 was used up."
    assert deadlines.cuts(pipeline.data.tags) == told


def test_a_deadline_within_the_thaw_leaves_the_best_so_far(
    toy_home: PlainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after an epoch, the better of head and thawed model goes on."""
    times = iter([False, True])
    monkeypatch.setattr(Deadline, "reached", lambda self, _ahead=0.0: setattr(self, "hit", h := next(times)) or h)
    tune(toy_home, tmp_path / "tuned", "late", thaw=2, thaw_epochs=5)
    history = read_facts(tmp_path / "tuned")["history"]
    assert [figures["phase"] for figures in history].count("thaw") == 1
    [pipeline] = queries.find_runs("toy", "late", "pipeline")
    assert "The thawed training stopped after 1 of 5 epochs" in deadlines.cuts(pipeline.data.tags)


@pytest.mark.slow
def test_what_cross_validation_found_is_recorded(toy_home: PlainRun, tmp_path: Path) -> None:
    """Above a solved head the folds' epochs are metrics of the step, and the checkpoint says how sure the result is."""
    toy_home = replace(toy_home, settings=toy_home.settings.model_copy(update={"head_solver": "auto"}))
    dataset, chosen = toy_home.folder / "dataset", json.dumps(toy_home.hyperparameters)
    train_head(toy_home.settings.to_json(), "cv", dataset, chosen, tmp_path / "head")
    toy_home = replace(toy_home, folder=tmp_path)
    (tmp_path / "dataset").symlink_to(dataset)
    loss = tune(toy_home, tmp_path / "tuned", "cv", thaw=2, thaw_epochs=3, thaw_learning_rate=0.02, layer_decay=1.0)
    facts = read_facts(tmp_path / "tuned")
    epochs = [figures for figures in facts["history"] if figures["phase"] == "thaw"]
    [run] = [run for run in queries.find_runs("toy", "cv", "step") if run.info.run_name == "fine_tune"]
    logged = connection.client().get_metric_history(run.info.run_id, "val/loss")
    assert [metric.value for metric in logged] == [figures["loss"] for figures in epochs]
    assert "3-fold cross-validation" in facts["thawing"]
    kept_head = facts["calibration"] == read_facts(tmp_path / "head")["calibration"]
    assert set(facts["calibration"]) == {"temperature"}
    assert kept_head != bool(facts["thawed"])  # each model is calibrated by its own held-out answers
    assert loss == next(e["loss"] for e in (epochs if facts["thawed"] else facts["history"]) if e["best"])


def test_a_step_that_was_cut_off_goes_on(toy_home: PlainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off within the second epoch, the step goes on after that batch, and gives the weights that it would have."""
    changes = {"thaw": 2, "thaw_epochs": 4, "dropout": 0.3}
    tune(toy_home, tmp_path / "undisturbed", "undisturbed", **changes)
    offered: list[tuple[int, int]] = []
    offer = StateFiles.offer

    def cut(states: StateFiles, state: TrainingState) -> None:
        states._saved = -1e9  # due at once
        offer(states, state)
        offered.append((state.epoch, state.batches))
        if len(offered) == 7:
            raise CutOffError

    monkeypatch.setattr(StateFiles, "offer", cut)
    with pytest.raises(CutOffError):
        tune(toy_home, tmp_path / "tuned", "cut", **changes)
    tune(toy_home, tmp_path / "tuned", "cut", **changes)
    assert len(set(offered)) == len(offered) == 4 * max(batches for _, batches in offered)
    assert weights_digest(tmp_path / "tuned") == weights_digest(tmp_path / "undisturbed")
    shown = [run for run in queries.find_runs("toy", "cut", "step") if run.info.status == "FINISHED"]
    assert len(connection.client().get_metric_history(shown[0].info.run_id, "val/loss")) == 4


@pytest.mark.slow
def test_folds_that_were_trained_are_not_trained_again(
    toy_home: PlainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in the third fold, the cross-validation trains that one alone, with the same result."""
    toy_home = replace(toy_home, settings=toy_home.settings.model_copy(update={"head_solver": "auto"}))
    dataset, chosen = toy_home.folder / "dataset", json.dumps(toy_home.hyperparameters)
    train_head(toy_home.settings.to_json(), "head", dataset, chosen, tmp_path / "head")
    (tmp_path / "dataset").symlink_to(dataset)
    toy_home, folds, fold = replace(toy_home, folder=tmp_path), [0], thawing._fold

    def cut(*arguments: Any) -> Any:
        folds[-1] += 1
        if folds == [3, 3]:
            raise CutOffError
        return fold(*arguments)

    monkeypatch.setattr(thawing, "_fold", cut)
    changes = {"thaw": 2, "thaw_epochs": 2, "dropout": 0.3}
    tune(toy_home, tmp_path / "undisturbed", "undisturbed", **changes)
    folds.append(0)
    with pytest.raises(CutOffError):
        tune(toy_home, tmp_path / "tuned", "cut", **changes)
    folds.append(0)
    tune(toy_home, tmp_path / "tuned", "cut", **changes)
    assert folds == [3, 3, 1]
    assert read_facts(tmp_path / "tuned")["thawing"] == read_facts(tmp_path / "undisturbed")["thawing"]
    assert weights_digest(tmp_path / "tuned") == weights_digest(tmp_path / "undisturbed")


def test_thawed_stages_move_and_frozen_ones_stay(toy_home: PlainRun, tmp_path: Path) -> None:
    """With two of three stages thawed, the first keeps its digest and the others change."""
    tune(toy_home, tmp_path / "tuned", "two", thaw=2, thaw_learning_rate=0.02, layer_decay=1.0, thaw_epochs=8)
    facts, head = read_facts(tmp_path / "tuned"), read_facts(toy_home.folder / "head")
    same = [a == b for a, b in zip(facts["stage_digests"], head["stage_digests"], strict=True)]
    assert facts["thawed"] == 2
    assert same == [True, False, False, False]


@pytest.mark.parametrize("thaw", [0])
def test_thaw_zero_hands_the_head_on(thaw: int, toy_home: PlainRun, tmp_path: Path) -> None:
    """--thaw 0 trains nothing more."""
    tune(toy_home, tmp_path / "tuned", "none", thaw=thaw)
    assert read_facts(tmp_path / "tuned") == read_facts(toy_home.folder / "head")
