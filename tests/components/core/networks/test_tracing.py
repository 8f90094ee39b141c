"""Networks that branch, cut where several tensors are needed above."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from components.core.compute.device import place
from components.core.contract.optional_members import Overlay
from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.errors import InputError
from components.core.fitting.data import open_data
from components.core.fitting.thaw_line import rows_of_split
from components.core.networks.network import Network
from components.core.networks.tracing import Stages, split, split_maps
from components.core.networks.weights import state_digest
from components.core.settings import Hyperparameters, Settings
from components.core.training.phase import base_network, train_phase
from tests.data.pictures import write_pictures


def pyramid() -> nn.Module:
    """The backbone of torchvision's Faster R-CNN, RetinaNet and FCOS."""
    return resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)


def single_shot() -> nn.Module:
    """The backbone of torchvision's SSDlite: a list of maps, each computed from the one before."""
    return torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).backbone


NETWORKS: dict[str, Callable[[], nn.Module]] = {"pyramid": pyramid, "single shot": single_shot}


def images(count: int = 3, size: int = 64) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=NETWORKS)
def cut(request: pytest.FixtureRequest) -> tuple[nn.Module, Stages]:
    network = NETWORKS[request.param]().eval()
    return network, split_maps(network, request.param, images(2))


def crossing(stages: Stages) -> list[int]:
    """How many tensors flow from each stage to the next one."""
    value, counts = images(), []
    with torch.no_grad():
        for _, stage in stages[:-1]:
            value = stage(value)
            counts.append(len(tree_leaves(value)))
    return counts


def test_a_pyramid_is_cut_where_several_maps_are_alive() -> None:
    """Each block of the body is a stage, with one map more above each, and the pyramid on top takes all four."""
    stages = split_maps(pyramid(), "pyramid", images(2))
    assert [name.rpartition(".")[2] for name, _ in stages] == ["conv1", "layer1", "layer2", "layer3", "layer4", "fpn"]
    assert crossing(stages) == [1, 1, 2, 3, 4]


def test_stages_give_the_maps_of_the_whole(cut: tuple[nn.Module, Stages]) -> None:
    """At every line, what lies above gives the whole network's maps bit for bit."""
    network, stages = cut
    assert max(crossing(stages)) > 1
    value = images()
    with torch.no_grad():
        expected = tree_leaves(network(images()))
        for _, stage in stages:
            assert all(leaf.shape[0] == 3 for leaf in tree_leaves(value))
            value = stage(value)
    found = tree_leaves(value)
    assert len(found) == len(expected) > 2
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_stages_train_on_maps_that_need_no_gradient(cut: tuple[nn.Module, Stages]) -> None:
    """Thawed alone, each stage's parameters get a gradient, and its input is left as it was."""
    _, stages = cut
    value = images()
    for name, stage in copy.deepcopy(stages):
        before = tree_map(torch.clone, value)
        outputs = stage.train()(value)
        sum(leaf.square().mean() for leaf in tree_leaves(outputs)).backward()
        assert all(parameter.grad is not None for parameter in stage.parameters()), name
        assert all(torch.equal(a, b) for a, b in zip(tree_leaves(value), tree_leaves(before), strict=True)), name
        value = tree_map(torch.detach, outputs)


def test_stages_partition_the_weights(cut: tuple[nn.Module, Stages]) -> None:
    """Every tensor of the network is in exactly one stage, under its own name."""
    network, stages = cut
    names = [name for _, stage in stages for name in stage.state_dict()]
    assert sorted(names) == sorted(network.state_dict())


def test_a_network_of_one_tensor_is_cut_as_before() -> None:
    """Where one tensor is all that flows, both ways to cut agree."""
    network = torchvision.models.resnet18(weights=None)
    network.fc = nn.Identity()
    assert [name for name, _ in split(network, "resnet", 64)[0]] == [
        name for name, _ in split_maps(network, "resnet", images(2))
    ]


@pytest.mark.slow
def test_maps_are_no_features() -> None:
    """What gives several maps is refused where features are asked for."""
    with pytest.raises(InputError, match="returns more than one tensor"):
        split(pyramid(), "pyramid", 64)


class Pooled(nn.Module):
    """A head on all maps of a pyramid."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scores = nn.LazyLinear(classes)
        self.scores.initialize_parameters(torch.empty(1, 5 * 256))

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        return self.scores(torch.cat([leaf.mean((2, 3)) for leaf in tree_leaves(maps)], dim=1))


@pytest.mark.slow
@pytest.mark.parametrize("thaw", [1, 3])
def test_several_maps_are_kept_at_the_thaw_line(thaw: int, home: Path, tmp_path: Path) -> None:
    """Training from kept maps, two or four at the line, gives the weights of the plain loop."""
    options = {
        "image_size": 64,
        "weights": "none",
        "head_epochs": 1,
        "batch_size": 8,
        "backbone": "torchvision/resnet18",
    }
    source = write_pictures(tmp_path / "pictures", per_class=12)
    prepare(str(source), Settings(**options), tmp_path / "dataset", Lineage("0"), lambda *_: None)

    def build(_settings: Settings, classes: list[str], _dropout: float) -> Network:
        stages = [stage for _, stage in split_maps(pyramid(), "pyramid", images(2))]
        facts = {"size": 64, "resize": 64, "mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}
        digest = state_digest(nn.ModuleList(stages).state_dict())
        return Network(stages, Pooled(len(classes)), {**facts, "interpolation": "bilinear"}, digest)

    chosen = Hyperparameters(thaw=thaw, thaw_epochs=2, thaw_learning_rate=1e-3, head_learning_rate=1e-3, dropout=0.0)
    networks = []
    for mode in ("keep", "recompute"):
        data = open_data(tmp_path / "dataset", Settings(**options, activations=mode))
        data = replace(data, task=Overlay(data.task, build=build))
        network = place(base_network(data, chosen), "cpu")
        line = len(network.stages) - thaw
        kept = rows_of_split(network, data, {line: 1.0}, "train")[line]
        assert len(tree_leaves(kept[:2])) == {1: 4, 3: 2}[thaw]
        train_phase(network, data, chosen, thaw=thaw)
        networks.append(network)
    for ours, theirs in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
