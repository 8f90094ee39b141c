"""Activations at the line are computed once and equal what the network computes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components.core.activations import activations_at
from components.core.network import Network

INPUTS = torch.randn(150, 3, generator=torch.Generator().manual_seed(0))
IDS = [f"{i:064x}" for i in range(150)]


class Pair(nn.Module):
    """A stage whose output is a tree: what flows between stages need not be one tensor."""

    def forward(self, inputs: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        return {"sum": inputs.sum(1), "parts": (inputs * 2, inputs + 1)}


class Join(nn.Module):
    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["parts"][0] + inputs["parts"][1] + inputs["sum"][:, None]


def tiny() -> Network:
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)), Pair(), Join()]
    return Network(stages, nn.Linear(3, 2), {})


def counted(calls: list[tuple[int, int]]) -> Callable[[int, int], Tensor]:
    def encode(start: int, stop: int) -> Tensor:
        calls.append((start, stop))
        return INPUTS[start:stop]

    return encode


@pytest.mark.parametrize("line", [0, 1, 2, 3])
def test_equal_to_the_network(line: int, tmp_path: Path) -> None:
    """At every line, in every shape, the store holds what the network gives in eval mode."""
    network = tiny().train()  # the store must not take over training behaviour
    found = activations_at(network, line, IDS, counted([]), tmp_path)
    with torch.no_grad():
        assert torch.equal(network.eval().above(found, line), network(INPUTS))


def test_computed_once(tmp_path: Path) -> None:
    """A second request reads the store and encodes nothing."""
    calls: list[tuple[int, int]] = []
    first = activations_at(tiny(), 1, IDS, counted(calls), tmp_path)
    passed = len(calls)
    second = activations_at(tiny(), 1, IDS, counted(calls), tmp_path)
    assert passed == len(calls) == 3
    assert torch.equal(first, second)


def test_a_higher_line_is_filled_from_a_lower_one(tmp_path: Path) -> None:
    """Moving the line up runs only the stages between: nothing is encoded again."""
    calls: list[tuple[int, int]] = []
    activations_at(tiny(), 1, IDS, counted(calls), tmp_path)
    passed = len(calls)
    found = activations_at(tiny(), 3, IDS, counted(calls), tmp_path)
    assert len(calls) == passed
    assert torch.equal(found, tiny().eval().below(INPUTS, 3))


@pytest.mark.parametrize("change", ["weights", "examples", "order", "preprocessing"])
def test_another_request_is_another_set(change: str, tmp_path: Path) -> None:
    """Other weights below the line, other examples or another preprocessing never read the old activations."""
    calls: list[tuple[int, int]] = []
    activations_at(tiny(), 1, IDS, counted(calls), tmp_path)
    passed, network, ids = len(calls), tiny(), list(IDS)
    if change == "weights":
        network.stages[0][0].weight.data += 1
    elif change == "examples":
        ids[0] = "f" * 64
    elif change == "order":
        ids.reverse()
    else:
        network.preprocessing = {"size": 1}
    activations_at(network, 1, ids, counted(calls), tmp_path)
    assert len(calls) == 2 * passed


def test_weights_above_the_line_do_not_matter(tmp_path: Path) -> None:
    """Training what lies above leaves the activations valid."""
    calls: list[tuple[int, int]] = []
    activations_at(tiny(), 1, IDS, counted(calls), tmp_path)
    passed, network = len(calls), tiny()
    network.head.weight.data += 1
    activations_at(network, 1, IDS, counted(calls), tmp_path)
    assert len(calls) == passed


def test_a_killed_pass_is_computed_again(tmp_path: Path) -> None:
    """A pass that ends halfway leaves nothing that a later one would read."""

    def broken(start: int, stop: int) -> Tensor:
        if start:
            raise RuntimeError("killed")
        return INPUTS[start:stop]

    with pytest.raises(RuntimeError, match="killed"):
        activations_at(tiny(), 1, IDS, broken, tmp_path)
    found = activations_at(tiny(), 1, IDS, counted([]), tmp_path)
    assert torch.equal(found, tiny().eval().below(INPUTS, 1))


def test_writing_to_activations_never_reaches_the_store(tmp_path: Path) -> None:
    """A stage that changes its input in place does harm to its own copy only."""
    found = activations_at(tiny(), 1, IDS, counted([]), tmp_path)
    found.zero_()
    assert torch.equal(activations_at(tiny(), 1, IDS, counted([]), tmp_path), tiny().eval().below(INPUTS, 1))
