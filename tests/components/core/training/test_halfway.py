"""Weights between the head-only model and the thawed one."""

from pathlib import Path

import pytest
import torch

from components.core.networks.network import Network
from components.core.settings import Hyperparameters, Settings
from components.core.training.data import open_data
from components.core.training.halfway import go_halfway, put, temper, weights_above
from components.core.training.phase import build_network
from tests.conftest import TOY

LINE = 2  # of three stages


@pytest.fixture
def network(home: Path, toy_dataset: Path) -> Network:
    return build_network(open_data(toy_dataset, Settings(**TOY)), Hyperparameters())


def moved(network: Network) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(2.0)


def test_halfway_is_the_mean_above_the_line(network: Network) -> None:
    """Weights above the line end up between the two networks, and those below stay where the later one has them."""
    start, whole = weights_above(network, LINE), {n: t.clone() for n, t in network.state_dict().items()}
    moved(network)
    go_halfway(network, LINE, start)
    by = {"head": 1.0, "stages.2": 1.0, "stages.1": 2.0, "stages.0": 2.0}
    for name, parameter in network.named_parameters():
        step = next(step for begin, step in by.items() if name.startswith(begin))
        torch.testing.assert_close(parameter.detach(), whole[name] + step)


def test_what_was_copied_can_be_put_back(network: Network) -> None:
    """Copies do not move with the network, which gets them back whole."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    kept = weights_above(network, 0)
    moved(network)
    put(network, 0, kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_tempered_head_is_less_sure_of_the_same_answers(network: Network) -> None:
    """All outputs are divided by the temperature."""
    features = torch.randn(5, next(network.head.parameters()).shape[1], generator=torch.Generator().manual_seed(0))
    before = network.eval().head(features)
    temper(network, 2.5)
    torch.testing.assert_close(network.head(features), before / 2.5)
