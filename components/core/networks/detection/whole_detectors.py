"""Torchvision's whole detectors as stages, a pyramid and a predictor: FCOS, RetinaNet, SSDLite and Faster R-CNN.

All of a detector starts from its weights but the last layer for classes, which is new; of Faster R-CNN that for boxes
is new too, since its weights have boxes for each class.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torchvision
from torch import Tensor, nn
from torchvision.models import detection, list_models
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssdlite import SSDLiteHead

from components.core.errors import InputError
from components.core.networks.detection import anchors
from components.core.networks.detection.two_steps import TwoSteps
from components.core.networks.images.image_networks import Backbone
from components.core.networks.weights import SkipInit, fit_state, load_state, state_digest
from components.core.weight_sources import is_source

if TYPE_CHECKING:
    from components.core.inference.images import Preprocessing

FCOS, RETINANET, RETINANET_V2 = "fcos_resnet50_fpn", "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"
SSDLITE = "ssdlite320_mobilenet_v3_large"
RCNN, RCNN_V2 = "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"
RCNN_MOBILE, RCNN_MOBILE_320 = "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"
TWO_STEPS, MOBILE = (RCNN, RCNN_V2, RCNN_MOBILE, RCNN_MOBILE_320), (RCNN_MOBILE, RCNN_MOBILE_320)
WITHOUT_EPSILON, EPSILON = (RETINANET, RCNN), "epsilon"  # in the norms below torchvision's weights of these
SIZES = {  # pixels; those of 512 learned about 800 x 1066
    FCOS: 512,
    RETINANET: 512,
    RETINANET_V2: 512,
    SSDLITE: 320,
    RCNN: 512,
    RCNN_V2: 512,
    RCNN_MOBILE: 512,
    RCNN_MOBILE_320: 320,
}
PREFIX = "torchvision/"
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
STRIDES = {SSDLITE: (16, 32), RCNN: (4, 8, 16, 32), RCNN_V2: (4, 8, 16, 32)} | dict.fromkeys(MOBILE, (32, 32))
# of the maps that the head takes; of the others:
PYRAMID_STRIDES = (8, 16, 32)
# of SSDLite's tensors for classes those below the last convolutions, which know none
DEPTHWISE = re.compile(r"head\.classification_head\.module_list\.\d+\.0\.")
EXTRA_LEVELS = {SSDLITE: 4} | dict.fromkeys(TWO_STEPS, 1)  # above these maps; of the others:
PYRAMID_LEVELS = 2


@dataclass(frozen=True)
class Whole:
    """A detector in parts."""

    stages: tuple[nn.Module, ...]  # up to the last map that the head takes
    places: tuple[int, ...]  # stages whose output the head takes
    backbone: Backbone
    pyramid: nn.Module  # from these maps by name to the maps of all levels
    anchors: Tensor  # of the maps of all levels, float[A, 4], as shares of the sides
    predictor: Callable[[int], nn.Module]  # of a number of classes: from the maps of all levels to outputs


class WithBackground(nn.Module):
    """SSD's predictor, whose first class is that there is nothing, told apart as `background` [B, A, 1]."""

    def __init__(self, predictor: nn.Module) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, levels: list[Tensor]) -> dict[str, Tensor]:
        """Outputs for A boxes in all levels."""
        found: dict[str, Tensor] = self.predictor(levels)
        logits = found["cls_logits"]
        return {**found, "cls_logits": logits[..., 1:], "background": logits[..., :1]}


class Extras(nn.Module):
    """The levels above the last map, each from the one below: SSD's pyramid."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The maps and those of the levels above, from the finest to the coarsest."""
        found = OrderedDict(maps)
        latest = [*maps.values()][-1]
        for number, block in enumerate(self.blocks):
            latest = block(latest)
            found[f"above{number}"] = latest
        return found


def is_whole(name: str) -> bool:
    """Return whether a backbone's name is that of one of torchvision's detectors.

    Raises:
        InputError: It is, but the detector is none of those that can be used.
    """
    own = name.removeprefix(PREFIX)
    if not name.startswith(PREFIX) or own not in list_models(module=detection):
        return False
    if own not in SIZES:
        what = "learns masks or keypoints beside boxes" if "rcnn" in own else "is a detector of another kind"
        raise InputError(
            f"{name} {what}.",
            f"Use {', '.join(PREFIX + one for one in SIZES)}, or a backbone such as torchvision/resnet50.",
        )
    return True


def build_whole(name: str, weights: str, image_size: int, config: Mapping[str, Any] | None = None) -> Whole:
    """A detector with weights for COCO's classes, or those of a file; with `config`, that of a checkpoint.

    Raises:
        InputError: The weights can't be had, or don't fit.
    """
    from components.core.networks.images import from_torchvision

    own, what = name.removeprefix(PREFIX), f"The weights {weights} of {name}"
    size = image_size or SIZES[own]
    choice = from_torchvision.choose_weights(own, weights)
    with nullcontext() if weights == "none" else SkipInit():
        whole = torchvision.models.get_model(own, weights=None, weights_backbone=None)
    state: Mapping[str, Tensor] = {}
    if weights != "none":
        file = choice is None or is_source(weights)
        state = load_state(weights) if file else from_torchvision.download_weights(choice, own)
        fit_state(whole, state, _classifier(own), what)
    # a checkpoint tells with what it learned; those of before it did not, and were rebuilt with 0
    epsilon = (config or {}).get(EPSILON, 1e-5 if is_source(weights) else 0.0)
    if own in WITHOUT_EPSILON:
        _set_epsilon(whole, epsilon)
    if own in TWO_STEPS:
        found = _of_two_steps(whole, own, size)
    else:
        found = (_of_ssdlite if own == SSDLITE else _of_resnet)(whole, own, size, state)
    told = {EPSILON: epsilon} if own in WITHOUT_EPSILON else {}
    return replace(found, backbone=replace(found.backbone, config=told))


def grids(name: str, size: int) -> tuple[int, ...]:
    """Sides of the maps of all levels, from the finest to the coarsest."""
    own = name.removeprefix(PREFIX)
    sides = [-(-size // stride) for stride in STRIDES.get(own, PYRAMID_STRIDES)]
    for _ in range(EXTRA_LEVELS.get(own, PYRAMID_LEVELS)):
        sides.append(-(-sides[-1] // 2))
    return tuple(sides)


def _of_resnet(whole: Any, own: str, size: int, state: Mapping[str, Tensor]) -> Whole:  # noqa: ANN401 - torch is untyped
    """FCOS or RetinaNet on a ResNet-50."""
    stages = _resnet_stages(whole.backbone.body)
    backbone = Backbone(_named(stages), 2048, _preprocessing(size, *IMAGENET), _digest(whole))
    if own == FCOS:
        boxes = anchors.squares(grids(own, size), 0.0)  # at the upper left corner, as its weights have learned it
    else:
        boxes = anchors.generated(whole.anchor_generator, grids(own, size), size)
    return Whole(stages, (2, 3, 4), backbone, whole.backbone.fpn, boxes, _predictor(whole.head, own, state))


def _of_two_steps(whole: Any, own: str, size: int) -> Whole:  # noqa: ANN401 - torch is untyped
    """Faster R-CNN on a ResNet-50, or on a MobileNetV3, of which each block is a stage."""
    body, steps = whole.backbone.body, whole.roi_heads
    stages = tuple(body.values()) if own in MOBILE else _resnet_stages(body)
    places = tuple(int(name) for name in body.return_layers) if own in MOBILE else (1, 2, 3, 4)
    backbone = Backbone(_named(stages), 0, _preprocessing(size, *IMAGENET), _digest(whole))
    boxes = anchors.generated(whole.rpn.anchor_generator, grids(own, size), size)
    width = steps.box_predictor.cls_score.in_features

    def make(classes: int) -> nn.Module:
        parts = deepcopy(whole.rpn.head), deepcopy(steps.box_head)  # another predictor may be made
        return TwoSteps(*parts, width, classes, boxes, STRIDES[own], size)

    return Whole(stages, places, backbone, whole.backbone.fpn, boxes, make)


def _resnet_stages(body: Any) -> tuple[nn.Module, ...]:  # noqa: ANN401 - as above
    stem = nn.Sequential(body.conv1, body.bn1, body.relu, body.maxpool)
    return stem, body.layer1, body.layer2, body.layer3, body.layer4


def _named(stages: Sequence[nn.Module]) -> tuple[tuple[str, nn.Module], ...]:
    return tuple((f"stages.{number}", stage) for number, stage in enumerate(stages))


def _of_ssdlite(whole: Any, own: str, size: int, state: Mapping[str, Tensor]) -> Whole:  # noqa: ANN401 - torch is untyped
    """SSDLite on a MobileNetV3: each of its blocks is a stage."""
    lower, upper = ([*part] for part in whole.backbone.features)
    stages = (*lower, *upper)
    named = tuple((f"features.{number}", stage) for number, stage in enumerate(stages))
    backbone = Backbone(named, 0, _preprocessing(size, [0.5] * 3, [0.5] * 3), _digest(whole))
    places = (len(lower) - 1, len(stages) - 1)
    boxes = anchors.generated(whole.anchor_generator, grids(own, size), size)
    return Whole(stages, places, backbone, Extras(whole.backbone.extra), boxes, _predictor(whole.head, own, state))


def _predictor(head: Any, own: str, state: Mapping[str, Tensor]) -> Callable[[int], nn.Module]:  # noqa: ANN401 - as above
    """Return what makes a detector's predictor for other classes, pretrained but for what knows them."""
    classifier = _classifier(own)
    tensors = head.state_dict() if state else {}
    known = {name: tensor for name, tensor in tensors.items() if not f"head.{name}".startswith(classifier)}
    if own == SSDLITE:
        known |= {n.removeprefix("head."): t for n, t in state.items() if DEPTHWISE.match(n)}
    regression = head.regression_head

    def make(classes: int) -> nn.Module:
        made: nn.Module
        if own == FCOS:
            made = FCOSHead(256, num_anchors=1, num_classes=classes, num_convs=4)
        elif own == SSDLITE:
            last = [block[1] for block in regression.module_list]
            channels, counts = [one.in_channels for one in last], [one.out_channels // 4 for one in last]
            made = SSDLiteHead(channels, counts, classes + 1, partial(nn.BatchNorm2d, eps=0.001, momentum=0.03))
        else:
            norm = partial(nn.GroupNorm, 32) if own == RETINANET_V2 else None
            made = RetinaNetHead(256, regression.bbox_reg.out_channels // 4, classes, norm)
        made.load_state_dict(known, strict=False)
        return WithBackground(made) if own == SSDLITE else made

    return make


def _classifier(own: str) -> str:
    """The part of a detector that its classes give the shape."""
    if own in TWO_STEPS:
        return "roi_heads.box_predictor"
    return "head.classification_head" + ("" if own == SSDLITE else ".cls_logits")


def _digest(whole: nn.Module) -> str:
    new = ("head.classification_head", "roi_heads.box_predictor")
    own = {name: t for name, t in whole.state_dict().items() if not name.startswith(new)}
    return state_digest(own)


def _preprocessing(size: int, mean: list[float], std: list[float]) -> "Preprocessing":
    return {"size": size, "resize": size, "mode": "squash", "interpolation": "bilinear", "mean": mean, "std": std}


def _set_epsilon(module: nn.Module, epsilon: float) -> None:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = epsilon
