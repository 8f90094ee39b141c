"""Whether thawing helps."""

import math
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.core.contract.listener import Callbacks
from components.core.contract.task import complete_target
from components.core.fitting import folds
from components.core.fitting.calibration import calibrated_losses
from components.core.fitting.data import Data, open_data
from components.core.fitting.head_phase import solve_head
from components.core.fitting.loop import Batches
from components.core.settings import Hyperparameters, Settings
from components.core.targets.classification import Classification
from components.core.training import phase, thawing
from components.core.training.phase import build_network
from components.core.training.thawing import Judgment, cross_validated, paired, thaw
from tests.conftest import TOY
from tests.support.command import ROOT

SETTINGS = Settings(**{**TOY, "head_solver": "auto"})
HELPS = Hyperparameters(thaw=3, thaw_learning_rate=0.05, layer_decay=1.0, thaw_epochs=6, dropout=0.0)
HARMS = Hyperparameters(thaw=3, thaw_learning_rate=20.0, thaw_epochs=2, dropout=0.0)


def trained(dataset: Path, chosen: Hyperparameters, **changes: Any) -> tuple[Data, torch.nn.Module]:
    data = open_data(dataset, SETTINGS.model_copy(update=changes))
    network = build_network(data, chosen)
    solve_head(network, data, chosen, whole=True)
    return data, network


def test_a_gain_has_to_exceed_its_standard_error() -> None:
    """What is better by less than one standard error stays out, and so does what is as good as equal."""
    assert Judgment(0.03, 0.02, 100, "", [], 1).helps
    assert not Judgment(0.02, 0.03, 100, "", [], 1).helps
    assert not Judgment(1e-4, 1e-5, 100, "", [], 1).helps
    assert not Judgment(-math.inf, math.inf, 0, "", [], 0).helps


def test_the_standard_error_is_that_of_a_mean() -> None:
    """Rows that stand alone have the textbook's standard error."""
    found = np.random.default_rng(0).normal(0.5, 2.0, 400)
    gain, error = paired(found, [str(i) for i in range(400)])
    assert gain == pytest.approx(found.mean())
    assert error == pytest.approx(found.std(ddof=1) / 20)


def test_copies_of_a_row_make_nothing_surer() -> None:
    """Each row ten times in a group of its own gives the same standard error."""
    found = np.random.default_rng(0).normal(0.5, 2.0, 50)
    once = paired(found, [str(i) for i in range(50)])
    tenfold = paired(np.repeat(found, 10), [str(i) for i in range(50) for _ in range(10)])
    assert tenfold == pytest.approx(once)


def test_one_group_tells_nothing() -> None:
    """A single group has no spread, so no gain exceeds its error."""
    assert paired(np.ones(5), ["a"] * 5) == (1.0, math.inf)


@pytest.mark.slow
def test_judging_leaves_the_network_as_it_was(home: Path, toy_dataset: Path) -> None:
    """Cross-validation trains copies: weights before and after are the same."""
    data, network = trained(toy_dataset, HELPS)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    judged = cross_validated(network, data, HELPS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert judged.rows == len(data.rows["train"]) + len(data.rows["validation"])
    assert len(judged.history) == HELPS.thaw_epochs


def test_no_test_row_is_asked_for(home: Path, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither judging nor training on all labels reads a test row."""
    data, network = trained(toy_dataset, HELPS)
    test, asked = set(data.rows["test"]), set[int]()
    contents = data.examples.contents
    monkeypatch.setattr(data.examples, "contents", lambda rows: asked.update(rows) or contents(rows))
    thaw(network, replace(data, settings=data.settings.model_copy(update={"activations": "recompute"})), HELPS)
    assert asked
    assert not asked & test


def last_training(monkeypatch: pytest.MonkeyPatch, epochs: int) -> list[tuple[int, int]]:
    """Have thawing judged as helpful for two epochs; list the rows and epochs that the final training is given."""
    seen: list[tuple[int, int]] = []

    def fit(_network: object, _line: int, batches: Batches, *_: object, **given: Any) -> list[dict[str, float]]:
        seen.append((sum(len(targets) for _, targets in batches(0, 0)), given["epochs"]))
        return [{"loss": 1.0}] * epochs

    monkeypatch.setattr(thawing, "cross_validated", lambda *_: Judgment(0.5, 0.1, 9, "", [{"loss": 1.0}], 2))
    monkeypatch.setattr(phase, "fit", fit)
    return seen


def test_what_helps_is_trained_on_all_labels(home: Path, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the judgment the thawed network sees every row that does not test, for the epochs that were judged."""
    data, network = trained(toy_dataset, HELPS)
    seen = last_training(monkeypatch, epochs=2)
    assert thaw(network, data, HELPS).helps
    assert seen == [(sum(len(data.rows[split]) for split in ("train", "validation", "calibrate")), 2)]


def test_the_head_is_as_sure_as_held_out_rows_say(
    home: Path, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the final training the head's outputs are divided by the temperature of the judgment."""
    data, network = trained(toy_dataset, HELPS)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    seen = last_training(monkeypatch, epochs=2)
    judged = Judgment(0.5, 0.1, 9, "", [{"loss": 1.0}], 2, temperature=2.5)
    monkeypatch.setattr(thawing, "cross_validated", lambda *_: judged)
    thaw(network, data, HELPS)
    assert seen
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name] / (2.5 if name.startswith("head") else 1.0))


@pytest.mark.slow
def test_held_out_rows_calibrate_only_where_no_others_are_left(home: Path, toy_dataset: Path) -> None:
    """The rows that calibrate judge and train along; if they are left apart, they still calibrate."""
    data, network = trained(toy_dataset, HELPS)
    joined = cross_validated(network, folds.joined(data), HELPS)
    assert set(joined.calibration or {}) == {"temperature"}
    assert joined.rows == sum(len(data.rows[split]) for split in ("train", "validation", "calibrate"))
    assert cross_validated(network, data, HELPS).calibration is None


def test_the_last_epoch_is_judged() -> None:
    """The epoch with the lowest loss of the held-out rows is not chosen: they would flatter it."""
    target, targets = complete_target(Classification()), torch.tensor([0, 1, 0, 1] * 20)
    right = torch.nn.functional.one_hot(targets, 2) * 2.0
    right[::5] = right[::5].flip(1)  # wrong, so that a temperature can be fitted
    noise = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
    answers = [right + share * noise for share in (3.0, 0.0, 1.0)]  # the head's, and two epochs'
    history = [{"epoch": float(epoch), "loss": 0.0, "best": 0.0} for epoch in range(2)]
    found = thawing._judged(target, [answers], targets, [str(row) for row in range(80)], [history], 2)
    losses = [calibrated_losses(target, answers[epoch], targets).mean() for epoch in (0, 2)]
    assert found.gain == pytest.approx(losses[0] - losses[1])
    assert (found.epochs, [one["best"] for one in found.history]) == (2, [0.0, 1.0])
    cut = thawing._judged(target, [answers[:2]], targets, [str(row) for row in range(80)], [history[:1]], 2)
    assert (cut.helps, cut.how) == (False, thawing.DIVERGED)


def test_a_final_training_that_diverges_leaves_the_head_only_model(
    home: Path, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What trained for fewer epochs than were judged is not what was judged."""
    data, network = trained(toy_dataset, HELPS)
    last_training(monkeypatch, epochs=1)
    assert str(thaw(network, data, HELPS)) == "Thawing was not judged: it diverged"


@pytest.mark.slow
def test_what_harms_leaves_the_head_only_model(home: Path, toy_dataset: Path) -> None:
    """A rate that destroys the stages is not taken."""
    data, network = trained(toy_dataset, HARMS)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert not thaw(network, data, HARMS).helps
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_many_rows_are_judged_by_the_validation_rows(
    home: Path, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the validation split is large enough nothing is trained twice, and its rows are compared in pairs."""
    monkeypatch.setattr(folds, "ENOUGH", 1)
    data, network = trained(toy_dataset, HELPS)
    judged = thaw(network, data, HELPS)
    assert (judged.rows, judged.how) == (len(data.rows["validation"]), thawing.VALIDATION)


def test_the_way_to_backward_is_short(home: Path, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is at most four calls away from it: `thaw`, `train_phase`, `fit`, and `backward` itself."""
    monkeypatch.setattr(folds, "ENOUGH", 1)
    ways, backward = set[tuple[str, ...]](), torch.Tensor.backward

    def seen(loss: torch.Tensor) -> None:
        frames = traceback.extract_stack()
        ways.add(tuple(frame.name for frame in frames if frame.filename.startswith(str(ROOT / "components"))))
        backward(loss)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    monkeypatch.setattr(torch.Tensor, "backward", seen)
    data, network = trained(toy_dataset, HELPS)
    thaw(network, data, HELPS)
    assert ways == {("thaw", "train_phase", "fit")}


def test_a_third_of_more_rows_is_held_out_once(home: Path, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 1,000 rows on one fold judges, and what helps still learns from all rows."""
    monkeypatch.setattr(folds, "FEW", 1)
    data, network = trained(toy_dataset, HELPS)
    judged = cross_validated(network, data, HELPS)
    fitted = len(data.rows["train"]) + len(data.rows["validation"])
    assert judged.how == thawing.HELD_OUT
    assert judged.rows == pytest.approx(fitted / thawing.FOLDS, abs=5)
    seen = last_training(monkeypatch, epochs=2)
    thaw(network, data, HELPS)
    assert seen == [(fitted + len(data.rows["calibrate"]), 2)]


def test_without_time_nothing_is_decided(home: Path, toy_dataset: Path) -> None:
    """A deadline within the cross-validation leaves the head-only model, and says so."""
    data, network = trained(toy_dataset, HELPS)
    judged = thaw(network, data, HELPS, Callbacks(should_stop=lambda _seconds: True))
    assert not judged.helps
    assert str(judged) == "Thawing was not judged: time ran out"
