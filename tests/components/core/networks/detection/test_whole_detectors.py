"""Torchvision's whole detectors by name."""

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from components.core.errors import InputError
from components.core.networks.detection.detectors import build_maps, detection_head, rebuild_maps
from components.core.networks.detection.two_steps import PROPOSALS
from components.core.networks.detection.whole_detectors import (
    FCOS,
    PREFIX,
    RCNN,
    RCNN_MOBILE_320,
    RCNN_V2,
    RETINANET,
    RETINANET_V2,
    SIZES,
    SSDLITE,
    grids,
)
from components.core.networks.network import Network, set_thawed, set_training
from components.core.registry.serving import export_network
from components.core.targets.detection import Detection

SIDE = 64
CLASSES = 3
FINEST = {SSDLITE: 2}  # levels whose strides torchvision does not round in so small a picture; of the others:
FINEST_OF_RESNET = 3
TWO_STEPS = [RCNN_MOBILE_320, *(pytest.param(name, marks=pytest.mark.slow) for name in (RCNN, RCNN_V2))]
ON_RESNET = [pytest.param(name, marks=pytest.mark.slow) for name in (FCOS, RETINANET, RETINANET_V2)]  # much to draw


def flow() -> dict[str, Tensor]:
    pictures = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return {"latest": pictures, "size": torch.tensor([[90, 70], [50, 60]])}


def network(name: str, weights: str) -> Network:
    torch.manual_seed(0)
    maps = build_maps(PREFIX + name, weights, SIDE)
    head, built = detection_head(maps, 64, 1, CLASSES, 0.0), maps.backbone
    return Network(maps.stages, head, built.preprocessing, config=built.config).eval()


@pytest.mark.parametrize("name", [SSDLITE, *ON_RESNET])
def test_a_whole_detector_keeps_what_it_learned(name: str, tmp_path: Path) -> None:
    """From weights in a file it gives torchvision's own boxes, at its anchors; cut anywhere it answers the same."""
    torch.manual_seed(0)
    whole = torchvision.models.get_model(name, weights=None, weights_backbone=None).eval()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    own = network(name, str(tmp_path / "whole.safetensors"))
    given = flow()
    found = own(given)
    levels = [*whole.backbone(given["latest"]).values()]
    expected = whole.head(levels)
    if name == RETINANET:  # an epsilon that only the weights of the library have, and what is rebuilt from a checkpoint
        again = rebuild_maps(PREFIX + name, own.preprocessing, own.config).stages
        norms = [norm for part in (own.stages, *again) for norm in part.modules() if isinstance(norm, nn.BatchNorm2d)]
        assert {norm.eps for norm in norms} == {1e-5}
    assert torch.allclose(found["bbox_regression"], expected["bbox_regression"], atol=1e-5)
    assert found["cls_logits"].shape == (2, expected["cls_logits"].shape[1], CLASSES)
    assert ("background" in found) == (name == SSDLITE)
    if name == SSDLITE:  # of the layers for classes, all but the last ones
        (ours, theirs) = (x.classification_head.module_list[0] for x in (own.head.predictor.predictor, whole.head))
        assert torch.equal(ours[0][0].weight, theirs[0][0].weight)
    (boxes, _) = whole.anchor_generator(ImageList(given["latest"], [(SIDE, SIDE)] * 2), levels)
    count = _boxes_of(name)
    assert torch.allclose(found["anchors"][0][:count] * SIDE, boxes[:count], atol=1e-4)
    for line in range(len(own.stages) + 1):
        again = own.above(own.below(given, line), line)
        assert all(torch.equal(again[key], found[key]) for key in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_STEPS)
def test_both_steps_keep_what_they_learned(name: str, tmp_path: Path) -> None:
    """From weights in a file the first step scores and moves torchvision's anchors, and the second pools as it does."""
    torch.manual_seed(0)
    whole = torchvision.models.get_model(name, weights=None, weights_backbone=None).eval()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    own = network(name, str(tmp_path / "whole.safetensors"))
    given = flow()
    found, levels = own(given), whole.backbone(given["latest"])
    scores, moves = concat_box_prediction_layers(*whole.rpn.head([*levels.values()]))
    assert torch.allclose(found["objectness"].flatten(), scores.flatten(), atol=1e-5)
    assert torch.allclose(found["proposal_regression"].flatten(0, 1), moves, atol=1e-5)
    (boxes, _) = whole.rpn.anchor_generator(ImageList(given["latest"], [(SIDE, SIDE)] * 2), [*levels.values()])
    assert torch.allclose(found["first_anchors"][0] * SIDE, boxes, atol=1e-4)
    expected = whole.roi_heads.box_roi_pool(levels, [*(found["anchors"] * SIDE)], [(SIDE, SIDE)] * 2)
    predictor = own.head.predictor
    assert torch.allclose(predictor._pooled([*levels.values()], found["anchors"]), expected, atol=1e-5)
    vectors = whole.roi_heads.box_head(expected)
    assert torch.allclose(predictor.regressor(vectors), found["bbox_regression"].flatten(0, 1), atol=1e-5)
    assert found["cls_logits"].shape == (2, PROPOSALS, CLASSES)
    for line in (0, 1, len(own.stages) // 2, len(own.stages)):
        again = own.above(own.below(given, line), line)
        assert all(torch.equal(again[key], found[key]) for key in found)


def _boxes_of(name: str) -> int:
    """Anchors of the levels that torchvision and we place alike."""
    sides = grids(name, SIDE)[: FINEST.get(name, FINEST_OF_RESNET)]
    return sum(side * side for side in sides) * {FCOS: 1, SSDLITE: 6}.get(name, 9)


@pytest.mark.parametrize("name", [SSDLITE, pytest.param(RCNN_MOBILE_320, marks=pytest.mark.slow), *ON_RESNET])
def test_a_step_of_training_reaches_head_and_thawed_stages(name: str) -> None:
    """The loss of its kind has a gradient in the head and in what is thawed, and nowhere else."""
    own = network(name, "none")
    line = set_thawed(own, 1)
    set_training(own, line)
    targets = torch.tensor([[[0, 0.1, 0.1, 0.6, 0.7], [2, 0.5, 0.5, 0.9, 0.9]], [[-1.0] * 5] * 2])
    loss = Detection().loss(own(flow()), targets)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in [*own.head.parameters(), *own.stages[-1].parameters()])
    assert all(p.grad is None for stage in own.stages[:-1] for p in stage.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", [SSDLITE, RETINANET_V2, RCNN_MOBILE_320, RCNN])
def test_a_served_detector_takes_batches_of_any_size(name: str, tmp_path: Path) -> None:
    """The graph of a served model answers as the network."""
    own = network(name, "none")
    export_network(own, flow(), tmp_path / "network.pt2")
    given = {key: tensor[[0, 1, 1]] for key, tensor in flow().items()}
    with torch.no_grad():
        served, expected = torch.export.load(tmp_path / "network.pt2").module()(given), own(given)
    assert all(torch.allclose(served[key], expected[key], atol=1e-4) for key in expected)


@pytest.mark.parametrize("name", [SSDLITE, RCNN_MOBILE_320])
def test_a_checkpoint_fits_the_rebuilt_detector(name: str) -> None:
    """The state of a detector loads into one that is rebuilt from its name."""
    own = network(name, "none")
    maps = rebuild_maps(PREFIX + name, own.preprocessing, {})
    Network(maps.stages, detection_head(maps, 64, 1, CLASSES, 0.0), own.preprocessing).load_state_dict(own.state_dict())


@pytest.mark.parametrize(
    ("name", "reason"),
    [("maskrcnn_resnet50_fpn", "learns masks or keypoints"), ("ssd300_vgg16", "a detector of another kind")],
)
def test_other_detectors_are_refused(name: str, reason: str) -> None:
    """What learns more than boxes, or has an unknown head, is named, with what can be used."""
    with pytest.raises(InputError, match=f"{reason}.*Use torchvision/fcos_resnet50_fpn.*ssdlite320.*fasterrcnn"):
        build_maps(PREFIX + name, "none", SIDE)


def test_levels_have_the_sides_of_the_maps() -> None:
    """SSDLite has six levels at 320 pixels, Faster R-CNN on a MobileNet three, the others five at 512."""
    assert grids(PREFIX + SSDLITE, SIZES[SSDLITE]) == (20, 10, 5, 3, 2, 1)
    assert grids(RCNN_MOBILE_320, SIZES[RCNN_MOBILE_320]) == (10, 10, 5)
    assert grids(RCNN, SIZES[RCNN]) == (128, 64, 32, 16, 8)
    assert grids(FCOS, SIZES[FCOS]) == (64, 32, 16, 8, 4)
