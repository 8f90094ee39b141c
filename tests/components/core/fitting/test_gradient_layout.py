"""Gradients in the layout of the activations."""

import copy

import pytest
import torch
from torch import Tensor, nn

from components.core.fitting.gradient_layout import channels_last_gradients


class _Pooled(nn.Module):
    """A convolution, its norm and the average over positions; the average's gradient has channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm, self.act = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8).eval(), nn.ReLU6(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.act(self.norm(self.convolution(inputs))).mean((2, 3))


@pytest.fixture
def network() -> nn.Module:
    """Channels last, as on a device."""
    torch.manual_seed(0)
    return _Pooled().to(memory_format=torch.channels_last)


def _pictures() -> Tensor:
    return torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)


def test_gradients_reach_norms_channels_last(network: nn.Module) -> None:
    """The gradient of the average is brought into the layout of what was averaged before a norm gets it."""
    found: list[bool] = []

    def seen(gradient: Tensor) -> None:
        found.append(gradient.is_contiguous(memory_format=torch.channels_last))

    def watch(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.register_hook(seen)

    with channels_last_gradients([network]):
        network.norm.register_forward_hook(watch)
        network(_pictures()).square().sum().backward()
    assert found == [True]


def test_gradients_keep_their_values(network: nn.Module) -> None:
    """All weights get the gradients that they get without."""
    other = copy.deepcopy(network)
    with channels_last_gradients([network]):
        network(_pictures()).square().sum().backward()
    other(_pictures()).square().sum().backward()
    for own, wanted in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(own.grad, wanted.grad)


def test_modules_are_left_as_they_were(network: nn.Module) -> None:
    """Behind it no module is watched any more."""
    with channels_last_gradients([network]):
        pass
    assert not any(part._forward_hooks for part in network.modules())
