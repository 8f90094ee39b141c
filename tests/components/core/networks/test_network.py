"""The thaw line."""

import pytest
import torch
from torch import nn

from components.core.networks.network import Network, set_thawed, set_training


def tiny() -> Network:
    stages = [nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)) for _ in range(3)]
    return Network(stages, nn.Linear(4, 2), {})


def test_above_the_line_continues_below_it() -> None:
    """Running below and then above any line gives the whole network's output."""
    network, inputs = tiny().eval(), torch.randn(5, 4)
    for line in range(4):
        assert torch.equal(network.above(network.below(inputs, line), line), network(inputs))


@pytest.mark.parametrize("thaw", [0, 1, 3])
def test_thaw_n_trains_the_head_and_the_last_n_stages(thaw: int) -> None:
    """Gradients are asked for above the line and nowhere else."""
    network = tiny()
    line = set_thawed(network, thaw)
    assert line == 3 - thaw
    trainable = [all(p.requires_grad for p in stage.parameters()) for stage in network.stages]
    assert trainable == [i >= line for i in range(3)]
    assert all(p.requires_grad for p in network.head.parameters())


@pytest.mark.parametrize("thaw", [-1, 4])
def test_impossible_depths_are_refused(thaw: int) -> None:
    """There is no line below the input or above the head."""
    with pytest.raises(ValueError, match="3 stages"):
        set_thawed(tiny(), thaw)


def test_batchnorm_keeps_its_statistics() -> None:
    """Training passes move no statistics, while dropout works above the line alone."""
    network = tiny()
    set_training(network, line=2)
    before = [stage[1].running_mean.clone() for stage in network.stages]
    network(torch.randn(16, 4) + 3)
    assert all(torch.equal(b, stage[1].running_mean) for b, stage in zip(before, network.stages, strict=True))
    assert [stage[2].training for stage in network.stages] == [False, False, True]
