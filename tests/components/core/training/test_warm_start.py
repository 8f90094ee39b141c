"""Starting from the champion's weights: what is taken, what is shared in the store, and what is remembered."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from components.core.activations.spaces import spaces
from components.core.contract.listener import Callbacks
from components.core.contract.task import complete_target
from components.core.data.examples import START, Examples
from components.core.errors import InputError
from components.core.fitting.data import open_data
from components.core.networks.network import Network
from components.core.settings import Hyperparameters, Settings
from components.core.targets.classification import Classification
from components.core.training.checkpoints import (
    load_checkpoint,
    read_training_rows,
    save_checkpoint,
    save_training_rows,
)
from components.core.training.phase import base_network, build_network
from components.core.training.warm_start import start_from
from tests.conftest import TOY
from tests.fakes.toy import build
from tests.support.plain import PlainRun

CLASSES = ["ape", "bee", "cow"]


def network(classes: list[str], seed: int, hidden: int = 0) -> Network:
    torch.manual_seed(seed)
    layers = [nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, len(classes))] if hidden else []
    return Network([nn.Linear(2, 4), nn.Linear(4, 8)], nn.Sequential(*layers or [nn.Linear(8, len(classes))]), {}, "w")


def champion(folder: Path, classes: list[str], hidden: int = 0) -> tuple[Network, Path]:
    kept = network(classes, 1, hidden)
    save_checkpoint(folder, kept, Settings(**TOY), Hyperparameters(), classes, {"thawed": 1, "history": []})
    return kept, folder


@pytest.mark.parametrize("hidden", [0, 3, 5])
def test_with_the_same_classes_all_weights_are_taken(hidden: int, tmp_path: Path) -> None:
    """Stages and head are the champion's, and so is the digest of what training starts from, beside the base's."""
    kept, folder = champion(tmp_path, CLASSES, hidden)
    started = network(CLASSES, 2, hidden)
    assert start_from(started, folder, CLASSES) == "all stages, and its head for 3 of 3 classes"
    for name, tensor in started.state_dict().items():
        assert torch.equal(tensor, kept.state_dict()[name]), name
    assert started.weights_digest not in ("w", kept.weights_digest)
    same = network(CLASSES, 3, hidden)
    start_from(same, folder, CLASSES)
    assert same.weights_digest == started.weights_digest


def test_a_class_keeps_its_row_of_the_head(tmp_path: Path) -> None:
    """Classes that both know are found by name; a new class starts anew, one that went is dropped."""
    kept, folder = champion(tmp_path, CLASSES, 5)
    started, fresh = network(["bee", "cow", "dog", "emu"], 2, 5), network(["bee", "cow", "dog", "emu"], 2, 5)
    assert start_from(started, folder, ["bee", "cow", "dog", "emu"]).endswith("its head for 2 of 4 classes")
    assert torch.equal(started.head[0].weight, kept.head[0].weight)
    assert torch.equal(started.head[2].weight[:2], kept.head[2].weight[1:])
    assert torch.equal(started.head[2].bias[:2], kept.head[2].bias[1:])
    assert torch.equal(started.head[2].weight[2:], fresh.head[2].weight[2:])


def test_another_head_starts_anew(tmp_path: Path) -> None:
    """A head of another form, or without any common class, is not the champion's; the stages are."""
    kept, folder = champion(tmp_path, CLASSES, 5)
    for classes, hidden in ((CLASSES, 0), (CLASSES, 6), (["dog", "emu"], 5)):
        started, fresh = network(classes, 2, hidden), network(classes, 2, hidden)
        assert start_from(started, folder, classes) == "all stages, and no head"
        assert torch.equal(started.stages[1].weight, kept.stages[1].weight)
        assert torch.equal(started.head[0].weight, fresh.head[0].weight)


def test_rows_that_are_not_the_classes_own_start_anew(tmp_path: Path) -> None:
    """A head with a blank before its characters: of as many other characters, none may take another one's row."""

    def scoring(characters: list[str], seed: int) -> Network:
        torch.manual_seed(seed)
        return Network([nn.Linear(2, 8)], nn.Sequential(nn.Linear(8, 1 + len(characters))), {}, "w")

    kept, before = scoring([" ", "b", "c"], 1), [" ", "b", "c"]
    save_checkpoint(tmp_path, kept, Settings(**TOY), Hyperparameters(), before, {"thawed": 1, "history": []})
    same, other = scoring(before, 2), scoring([" ", "a", "b"], 2)
    assert start_from(same, tmp_path, before).endswith("its head for 3 of 3 classes")
    assert torch.equal(same.head[0].weight, kept.head[0].weight)
    assert start_from(other, tmp_path, [" ", "a", "b"]) == "all stages, and no head"
    assert torch.equal(other.stages[0].weight, kept.stages[0].weight)
    assert torch.equal(other.head[0].weight, scoring([" ", "a", "b"], 2).head[0].weight)


def test_other_stages_are_refused(tmp_path: Path) -> None:
    """The weights of another backbone fit nowhere: one sentence."""
    _, folder = champion(tmp_path, CLASSES)
    other = Network([nn.Linear(2, 5), nn.Linear(5, 8)], nn.Linear(8, 3), {})
    with pytest.raises(InputError, match="don't fit this network"):
        start_from(other, folder, CLASSES)


def test_frozen_stages_share_the_store(tmp_path: Path) -> None:
    """Below the champion's thawed stages its activations are those of the pretrained network; above they are others."""
    settings = Settings(**TOY)
    base, kept = build(settings, CLASSES, 0.0), build(settings, CLASSES, 0.0)
    with torch.no_grad():
        kept.stages[2][0].weight += 0.1  # what thawing one stage does
    save_checkpoint(tmp_path, kept, settings, Hyperparameters(), CLASSES, {"thawed": 1, "history": []})
    started = build(settings, CLASSES, 0.0)
    start_from(started, tmp_path, CLASSES)
    ours, theirs, the_champions = (spaces(one, "float32") for one in (started, base, kept))
    assert ours[:3] == theirs[:3]
    assert ours[3] != theirs[3]
    assert ours == the_champions


def test_all_of_a_run_starts_from_what_lies_beside_its_data(toy_run: PlainRun, tmp_path: Path) -> None:
    """Every step and trial opens the data and finds the checkpoint there; features for drift stay the base's."""
    dataset = tmp_path / "dataset"
    shutil.copytree(toy_run.folder / "dataset", dataset)
    shutil.copytree(toy_run.folder / "tuned", dataset / START)
    data, chosen = open_data(dataset, toy_run.settings), Hyperparameters()
    expected = load_checkpoint(dataset / START)[0].state_dict()
    said: list[str] = []
    state = build_network(data, chosen, Callbacks(note=said.append)).state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert said == ["Started from the champion: all stages, and its head for 3 of 3 classes"]
    plain = open_data(toy_run.folder / "dataset", toy_run.settings)
    base = base_network(data, chosen).state_dict()
    assert all(torch.equal(base[name], t) for name, t in build_network(plain, chosen).state_dict().items())


def test_it_has_seen_what_the_other_was_trained_on(toy_run: PlainRun, tmp_path: Path) -> None:
    """Rows that are gone from the data stay known: no test of a later champion may ask them."""
    dataset = tmp_path / "dataset"
    shutil.copytree(toy_run.folder / "dataset", dataset)
    shutil.copytree(toy_run.folder / "tuned", dataset / START)
    before = set(read_training_rows(dataset / START).fingerprints)
    examples = Examples(dataset)
    examples.index = examples.index.slice(0, 20)
    save_training_rows(tmp_path, examples, complete_target(Classification()))
    found = read_training_rows(tmp_path)
    assert set(found.fingerprints) == before
    assert sum(found.labels.values()) < 20
