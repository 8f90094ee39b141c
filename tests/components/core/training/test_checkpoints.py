"""Checkpoints."""

import json
from pathlib import Path

import pytest
import torch

from components.core.networks.network import Network
from components.core.settings import Hyperparameters, Settings
from components.core.training.checkpoints import FACTS, WEIGHTS, load_checkpoint, read_facts, save_checkpoint
from tests.fakes import toy

SETTINGS = Settings(task="tests.fakes.toy")
CLASSES = ["a", "b", "c"]


@pytest.fixture
def network() -> Network:
    return toy.build(SETTINGS, CLASSES, 0.2)


def save(network: Network, folder: Path) -> Path:
    save_checkpoint(folder, network, SETTINGS, Hyperparameters(), CLASSES, {"history": [], "thawed": 1})
    return folder


def test_round_trip(network: Network, tmp_path: Path) -> None:
    """A network comes back with its weights, its preprocessing and its facts."""
    network.preprocessing = {"scale": 3.0}
    loaded, facts = load_checkpoint(save(network, tmp_path))
    same = [torch.equal(a, b) for a, b in zip(network.parameters(), loaded.parameters(), strict=True)]
    assert all(same)
    assert loaded.preprocessing == {"scale": 3.0}
    assert loaded.weights_digest == network.weights_digest
    assert (facts["classes"], facts["thawed"]) == (CLASSES, 1)


def test_a_digest_per_stage_and_for_the_head(network: Network, tmp_path: Path) -> None:
    """Training a stage changes its digest and no other."""
    before = read_facts(save(network, tmp_path / "before"))["stage_digests"]
    network.stages[1][0].weight.data += 1
    after = read_facts(save(network, tmp_path / "after"))["stage_digests"]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True, True]


def test_nothing_is_pickled(network: Network, tmp_path: Path) -> None:
    """A checkpoint is one safetensors file and one JSON file."""
    folder = save(network, tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == sorted([FACTS, WEIGHTS])
    json.loads((folder / FACTS).read_text())


def test_weights_that_do_not_fit_are_refused(network: Network, tmp_path: Path) -> None:
    """Facts that describe another network don't load half of the weights."""
    folder = save(network, tmp_path)
    facts = read_facts(folder)
    facts["classes"] = ["a", "b"]
    (folder / FACTS).write_text(json.dumps(facts))
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_checkpoint(folder)
