"""The two steps of Faster R-CNN on maps of a small network."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.rpn import RPNHead

from components.core.contract.boxes import Box, Boxes
from components.core.inference.images import encode
from components.core.networks.detection import two_steps
from components.core.networks.detection.anchors import generated
from components.core.networks.detection.two_steps import TwoSteps
from components.core.targets.detection import Detection
from tests.data.pasted import write_shapes

SIDE, WIDTH = 64, 32
TARGET = Detection()


def convolution(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, WIDTH, 3, stride=2, padding=1), nn.GroupNorm(8, WIDTH), nn.ReLU())


class Small(nn.Module):
    """Maps of 8, 16 and 32 pixels a place, of which the last is only for the first step."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(3), convolution(WIDTH), convolution(WIDTH))
        self.above = nn.ModuleList([convolution(WIDTH), convolution(WIDTH)])
        boxes = generated(AnchorGenerator(((12, 24),) * 3, ((0.5, 1.0, 2.0),) * 3), (8, 4, 2), SIDE)
        parts = RPNHead(WIDTH, 6), TwoMLPHead(WIDTH * 49, 64)
        self.steps = TwoSteps(*parts, 64, 2, boxes, (8, 16), SIDE)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of both steps."""
        levels = [self.stem(batch["latest"])]
        for layer in self.above:
            levels.append(layer(levels[-1]))
        return {**self.steps(levels), "size": batch["size"]}


@pytest.fixture
def network() -> Small:
    torch.manual_seed(0)
    return Small()


def test_a_box_that_a_likelier_one_covers_is_no_proposal(network: Small) -> None:
    """The likeliest box comes first, one that overlaps it comes after all that overlap nothing, and all lie inside."""
    anchors = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.12, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 1.2], [0.0, 0.7, 0.2, 0.9]])
    network.steps.anchors = anchors
    found = network.steps._proposals([torch.tensor([[3.0, 2.0, 1.0, 0.0]])], [torch.zeros(1, 4, 4)])
    assert torch.allclose(found[0], anchors[[0, 2, 3, 1]].clamp(0, 1))


def test_boxes_are_pooled_from_the_level_of_their_size(network: Small) -> None:
    """Of two levels a small box takes the finer one, a large one the coarser; each as if it were alone."""
    levels = [torch.full((2, 1, side, side), value) for side, value in ((64, 1.0), (32, 2.0), (16, 3.0))]
    network.steps.strides, network.steps.size = (8, 16), 512
    boxes = torch.tensor([[0.4, 0.4, 0.45, 0.45], [0.0, 0.0, 1.0, 1.0]]).repeat(2, 1, 1)
    assert network.steps._pooled(levels, boxes).mean((1, 2, 3)).tolist() == [1, 2, 1, 2]


@pytest.mark.slow
def test_both_steps_learn_together(network: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From random weights, without the labels among the proposals, the objects of some pictures are found."""
    monkeypatch.setattr(two_steps, "PROPOSALS", 32)
    shown = write_shapes(tmp_path, 8)
    preprocessing = {
        "size": SIDE, "resize": SIDE, "mode": "squash", "interpolation": "bilinear", "mean": [0.5] * 3,
        "std": [0.5] * 3, "sized": True,
    }  # fmt: skip
    batch = encode([(tmp_path / "images" / one.name).read_bytes() for one in shown], preprocessing)
    named = [[Box(name, tuple(map(float, box))) for box, name in one.boxes] for one in shown]
    labels = [Boxes(boxes, *one.size).text() for boxes, one in zip(named, shown, strict=True)]
    targets = TARGET.targets(labels, ["bar", "disk"])
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(150):
        loss = TARGET.loss(network(batch), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert TARGET.validate(network(batch), targets)["map"] > 0.5
