"""Weights halfway from the head-only model to the thawed one, and a head as sure as it is right.

Halfway, most of the gain is left, and less of what the training learned from few rows by chance: the weight-space
ensemble of Wortsman et al. 2022 (WiSE-FT).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from components.core.networks.heads import linear_of
from components.core.networks.network import Network


def weights_above(network: Network, line: int) -> dict[str, Tensor]:
    """Copies of the weights and buffers of the head and of the stages above the line."""
    return {name: tensor.detach().clone() for name, tensor in _above(network, line).state_dict().items()}


def go_halfway(network: Network, line: int, start: Mapping[str, Tensor]) -> None:
    """Put the mean of the network's weights and earlier ones into it; counters stay the network's.

    Args:
        network: Trained; what lies above the line is changed.
        line: Stages below the thaw line.
        start: What `weights_above` returned before the training.
    """
    trained = _above(network, line)
    with torch.no_grad():
        for name, tensor in trained.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(start[name], 0.5)


def put(network: Network, line: int, weights: Mapping[str, Tensor]) -> None:
    """Put weights that `weights_above` returned back into the network."""
    _above(network, line).load_state_dict(dict(weights))


def temper(network: Network, temperature: float) -> None:
    """Divide a linear head's outputs by a temperature, for good.

    What rows that were held out say of it goes into the head, so the few rows that calibrate the served model have
    little left to tell.
    """
    linear = linear_of(network.head)
    if linear is not None:
        with torch.no_grad():
            linear.weight.div_(temperature)
            linear.bias.div_(temperature)


def _above(network: Network, line: int) -> nn.ModuleList:
    return nn.ModuleList([*network.stages[line:], network.head])
