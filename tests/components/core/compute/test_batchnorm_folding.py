"""Norms are folded where they only follow a convolution, and the network itself stays as it is."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components.core.compute.batchnorm_folding import folded
from components.core.compute.device import place
from components.core.compute.engines import choose
from components.core.compute.onnx_exports import Prefix
from components.core.networks.images.image_networks import build_backbone
from components.core.networks.network import Network
from tests.components.core.networks.images.test_image_networks import images, randomise

BATCH = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def block(activation: nn.Module | None = None) -> nn.Sequential:
    """A convolution and its norm, whose statistics and affine parameters are far from those of a new one."""
    norm = nn.BatchNorm2d(3)
    for tensor in (norm.running_mean, norm.weight, norm.bias):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), norm, *([activation] if activation else []))


def prefix(*stages: nn.Module) -> Prefix:
    return Prefix(Network(stages, nn.Identity(), {}).eval(), [len(stages)], 0, BATCH)


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(
    ("name", "norms"),
    [
        pytest.param("torchvision/resnet18", 20, marks=pytest.mark.slow),
        ("torchvision/mobilenet_v3_small", 34),
        pytest.param("torchvision/vgg11_bn", 8, marks=pytest.mark.slow),
        ("timm/tf_efficientnet_lite0", 49),
        ("timm/regnety_002", 44),
    ],
)
def test_families(name: str, norms: int) -> None:
    """All norms of a convolutional network are folded, within rounding."""
    torch.manual_seed(0)
    stages = [stage for _, stage in build_backbone(name, "none", 64).stages]
    randomise(nn.Sequential(*stages), 64)
    network = place(Network(stages, nn.Identity(), {}), "cpu").eval()
    batch = images(64, count=7)
    whole = Prefix(network, [len(stages)], 0, batch)
    twin, count = folded(whole)
    assert count == norms
    with torch.no_grad():
        wanted = whole(batch)[0]
        assert wanted.std() > 1e-3, "degenerate activations prove nothing"
        assert 0 < distance(twin(batch)[0], wanted) < 1e-5


def test_the_network_stays_as_it_is() -> None:
    """The stages that go on training keep their norms and weights."""
    whole = prefix(block(nn.ReLU()))
    before = copy.deepcopy(whole.state_dict())
    folded(whole)
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole.state_dict().items())


def test_an_activation_stays() -> None:
    """What follows the norm still runs, in place or not."""
    whole = prefix(block(nn.ReLU(inplace=True)), block())
    twin, count = folded(whole)
    assert count == 2
    with torch.no_grad():
        assert distance(twin(BATCH)[0], whole(BATCH)[0]) < 1e-6


def test_a_convolution_that_runs_twice_is_left_alone() -> None:
    """Shared weights serve more than one norm, so nothing is folded into them."""
    first, second = block(), block()
    second[0] = first[0]
    assert folded(prefix(first, second))[1] == 0


def test_a_norm_without_statistics_is_left_alone() -> None:
    """A norm that takes the statistics of the batch is no constant."""
    stage = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))
    assert folded(prefix(stage))[1] == 0


class Taken(nn.Module):
    """Uses a convolution's output beside its norm, which no module shows."""

    def __init__(self) -> None:
        super().__init__()
        self.block = block()

    def forward(self, inputs: Tensor) -> Tensor:
        raw = self.block[0](inputs)
        return self.block[1](raw) + raw


def test_a_hidden_use_is_found_out(tmp_path: Path) -> None:
    """Where folding would change the result, another engine runs."""
    network = place(Network([Taken()], nn.Identity(), {}), "cpu").eval()
    engine, reason = choose(network, [1], BATCH, 10**9, tmp_path)
    assert not engine.name.startswith("folded")
    assert "folded: activations at line 1 differ from eager's by" in reason
