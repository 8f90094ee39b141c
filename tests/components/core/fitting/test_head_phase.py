"""The head phase of a linear head."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from components.core.contract.optional_members import Overlay
from components.core.errors import InputError
from components.core.fitting import folds, linear_head
from components.core.fitting.data import Data, open_data
from components.core.fitting.head_phase import is_solved, solve_head
from components.core.fitting.linear_head import Loss
from components.core.networks.network import Network
from components.core.settings import Hyperparameters, Settings
from components.core.training.phase import build_network, outputs, train_phase
from tests.conftest import TOY

SETTINGS = Settings(**{**TOY, "head_solver": "auto"})
CHOSEN = Hyperparameters(thaw=1)


def opened(dataset: Path, **changes: Any) -> tuple[Data, Network]:
    data = open_data(dataset, SETTINGS.model_copy(update=changes))
    return data, build_network(data, CHOSEN)


def test_the_solved_head_is_as_good_as_the_trained_one(home: Path, toy_dataset: Path) -> None:
    """No training of the head in epochs ends with a lower penalized loss on the training rows."""
    data, network = opened(toy_dataset)
    solved = solve_head(network, data, CHOSEN).figures
    slow, other = opened(toy_dataset, head_solver="sgd", head_epochs=60, patience=99)
    trained = min(
        figures["loss"]
        for figures in train_phase(other, slow, Hyperparameters(head_learning_rate=0.05, thaw=1), thaw=0)
    )
    assert solved["loss"] < trained + 0.05


@pytest.mark.parametrize("views", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_kept_and_recomputed_features_give_the_same_head(views: int, home: Path, toy_dataset: Path) -> None:
    """Features from the store give the head that computed ones give; with views, all views are rows."""
    changes: dict[str, Any] = {"views": views, "augment": "basic"} if views else {}
    heads = []
    for activations in ("keep", "recompute"):
        data, network = opened(toy_dataset, activations=activations, **changes)
        solve_head(network, data, CHOSEN)
        heads.append(network.head[1].weight.clone())
    torch.testing.assert_close(heads[0], heads[1], rtol=1e-3, atol=1e-4)


def test_the_whole_head_knows_the_validation_rows(home: Path, toy_dataset: Path) -> None:
    """A validation label changes the head that is fitted on both splits, and no other."""
    for whole in (False, True):
        data, network = opened(toy_dataset)
        solve_head(network, data, CHOSEN, whole=whole)
        before = network.head[1].weight.clone()
        moved = (data.targets["validation"] + 1) % len(data.examples.classes)
        solve_head(network, replace(data, targets={**data.targets, "validation": moved}), CHOSEN, whole=whole)
        assert torch.equal(before, network.head[1].weight) != whole


def test_the_figures_are_of_rows_that_the_head_did_not_see(home: Path, toy_dataset: Path) -> None:
    """On the validation rows the figures are those of the network's own outputs."""
    data, network = opened(toy_dataset)
    figures = solve_head(network, data, CHOSEN).figures
    found = data.target.validate(outputs(network, data, 0, "validation"), data.targets["validation"])
    assert {name: pytest.approx(value) for name, value in found.items()} == {name: figures[name] for name in found}


def test_how_unsure_a_penalty_makes_a_head_does_not_matter(
    home: Path, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strengths are judged by outputs that are as sure as they should be, and the head comes out so."""
    judges, choose = list[Loss](), linear_head.choose

    def spied(*arguments: Any) -> linear_head.Choice:
        judges.append(arguments[5])
        return choose(*arguments)

    monkeypatch.setattr(linear_head, "choose", spied)
    data, network = opened(toy_dataset)
    solve_head(network, data, CHOSEN)
    (fitted,), judge = data.heads.values(), judges[0]
    right = float(judge(fitted.outputs, fitted.targets))
    assert float(judge(0.3 * fitted.outputs, fitted.targets)) == pytest.approx(right, rel=0.05)
    assert float(functional.cross_entropy(fitted.outputs, fitted.targets)) == pytest.approx(right, rel=0.05)
    assert float(functional.cross_entropy(0.3 * fitted.outputs, fitted.targets)) > 2 * right
    assert float(judge(30 * fitted.outputs, fitted.targets)) > 1.5 * right  # too sure is no scale, but an overfit


def test_held_out_outputs_calibrate_a_head_that_knows_all_rows(home: Path, toy_dataset: Path) -> None:
    """Where the rows that calibrate are fitted too, the outputs that cross-validation held out calibrate instead."""
    data, network = opened(toy_dataset)
    joined = folds.joined(data)
    assert solve_head(network, data, CHOSEN, whole=True).calibration is None
    found = solve_head(network, joined, CHOSEN, whole=True)
    fitted = list(data.heads.values())[-1]
    assert len(fitted.targets) == sum(len(data.rows[split]) for split in ("train", "validation", "calibrate"))
    assert found.calibration == data.target.calibrate(fitted.outputs.float(), fitted.targets)


def test_stages_stay_as_they_are(home: Path, toy_dataset: Path) -> None:
    """Solving changes the head alone."""
    data, network = opened(toy_dataset)
    before = [parameter.clone() for parameter in network.stages.parameters()]
    solve_head(network, data, CHOSEN)
    assert all(torch.equal(a, b) for a, b in zip(before, network.stages.parameters(), strict=True))


def test_a_solved_head_is_the_same_bit_for_bit(home: Path, toy_dataset: Path) -> None:
    """Two runs, whatever their seeds, end in the same head."""
    heads = []
    for seed in (0, 1):
        data, network = opened(toy_dataset, seed=seed)
        solve_head(network, data, CHOSEN)
        heads.append(network.head[1].weight.clone())
    assert torch.equal(*heads)


@pytest.mark.parametrize(
    "changes",
    [{"head_solver": "sgd"}, {"augment": "basic"}, {"mixup": 0.2}],
)
def test_what_differs_in_each_epoch_is_trained_in_epochs(changes: dict[str, Any], toy_dataset: Path) -> None:
    """Augmentation afresh, mixed rows and --head-solver sgd bring the epochs back."""
    data, network = opened(toy_dataset, **changes)
    assert not is_solved(network, data)


@pytest.mark.parametrize(
    ("member", "reason"), [("head", "the head is not linear"), ("target", "the loss of this task is not convex")]
)
def test_what_has_no_optimum_is_refused(member: str, reason: str, toy_dataset: Path) -> None:
    """--head-solver lbfgs with a head or a loss that can't be solved for is an error that says why."""
    data, network = opened(toy_dataset, head_solver="lbfgs")
    if member == "head":
        network.head = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
    else:
        data = replace(data, target=Overlay(data.target, convex=False))
    with pytest.raises(InputError, match=reason):
        is_solved(network, data)


def test_a_class_with_a_single_row_is_learned(home: Path, toy_dataset: Path) -> None:
    """One row of a class is in every fold's training rows, and ends nothing."""
    data, network = opened(toy_dataset)
    rows, targets = data.rows["train"], data.targets["train"]
    kept = [i for i in range(len(rows)) if int(targets[i]) != 0 or i == int((targets == 0).nonzero()[0])]
    few = replace(
        data, rows={**data.rows, "train": [rows[i] for i in kept]}, targets={**data.targets, "train": targets[kept]}
    )
    assert solve_head(network, few, CHOSEN).figures["train_loss"] < 1
