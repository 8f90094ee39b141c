"""Losses of detectors, by torchvision: FCOS's, RetinaNet's, SSD's, R-CNN's; the names of the outputs tell which one.

Torchvision has matching and losses as methods of modules, of which they read the attributes that stand here alone.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder, Matcher, SSDMatcher
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import (
    RetinaNetClassificationHead,
    RetinaNetHead,
    RetinaNetRegressionHead,
)
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from components.core.inference.detection import DELTA_WEIGHTS

SCALE = 1024.0  # a side, for the loss: torchvision tells areas apart by pixels; all else is free of scale
CENTER = 1.5  # of its place's size, how far from an object's center a place may learn it
NEGATIVES = 3.0  # anchors that learn that there is nothing, for each one that learns an object, of SSD

Objects: TypeAlias = Sequence[dict[str, Tensor]]  # of each picture: labels int[K], boxes float[K, 4]


class DetectionLoss(Protocol):
    """The loss of one kind of detectors."""

    def __call__(self, outputs: Mapping[str, Tensor], objects: Objects, anchors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return its parts, scalars that are added up, of outputs for pictures with objects."""


_FCOS_HEAD = SimpleNamespace(box_coder=BoxLinearCoder(normalize_by_size=True))
_FCOS_HEAD.compute_loss = partial(FCOSHead.compute_loss, _FCOS_HEAD)
_FCOS = SimpleNamespace(center_sampling_radius=CENTER, head=_FCOS_HEAD)

_CLASSES = SimpleNamespace(BETWEEN_THRESHOLDS=Matcher.BETWEEN_THRESHOLDS)
_CLASSES.compute_loss = partial(RetinaNetClassificationHead.compute_loss, _CLASSES)
_BOXES = SimpleNamespace(box_coder=BoxCoder(DELTA_WEIGHTS["retinanet"]), _loss_type="giou")
_BOXES.compute_loss = partial(RetinaNetRegressionHead.compute_loss, _BOXES)
_RETINANET_HEAD = SimpleNamespace(classification_head=_CLASSES, regression_head=_BOXES)
_RETINANET_HEAD.compute_loss = partial(RetinaNetHead.compute_loss, _RETINANET_HEAD)
_RETINANET = SimpleNamespace(proposal_matcher=Matcher(0.5, 0.4, allow_low_quality_matches=True), head=_RETINANET_HEAD)

_SSD = SimpleNamespace(box_coder=BoxCoder(DELTA_WEIGHTS["ssd"]), neg_to_pos_ratio=NEGATIVES)
_SSD_MATCHER = SSDMatcher(0.5)
_PROPOSALS = SimpleNamespace(box_coder=BoxCoder(DELTA_WEIGHTS["retinanet"]), neg_to_pos_ratio=NEGATIVES)
_PICKED = SimpleNamespace(proposal_matcher=Matcher(0.5, 0.5, allow_low_quality_matches=False))


def loss_of(outputs: Mapping[str, Tensor]) -> DetectionLoss:
    """Return the loss for outputs of this kind."""
    if "bbox_ctrness" in outputs:
        return fcos_loss
    if "objectness" in outputs:
        return two_step_loss
    return ssd_loss if "background" in outputs else retinanet_loss


def fcos_loss(outputs: Mapping[str, Tensor], objects: Objects, anchors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Focal loss of classes, GIoU loss of boxes, and the loss of centers; means over the places that learn a box."""
    width = anchors[0][:, 2] - anchors[0][:, 0]
    ends = [int(torch.isclose(width, width[place]).sum()) for place in (0, -1)]  # places in both outer levels
    found: dict[str, Tensor] = FCOS.compute_loss(_FCOS, objects, outputs, anchors, ends)
    return found


def retinanet_loss(outputs: Mapping[str, Tensor], objects: Objects, anchors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Focal loss of classes and GIoU loss of boxes, as in torchvision's second version of RetinaNet."""
    found: dict[str, Tensor] = RetinaNet.compute_loss(_RETINANET, objects, outputs, anchors)
    return found


def ssd_loss(outputs: Mapping[str, Tensor], objects: Objects, anchors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Cross-entropy of classes and of nothing, with hard negatives, and smooth L1 loss of boxes."""
    return _with_hard_negatives(_SSD, outputs, outputs["background"], objects, anchors)


def two_step_loss(outputs: Mapping[str, Tensor], objects: Objects, anchors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Faster R-CNN's: of the boxes that the first step picks, and of the class and the box of each of these.

    The first step learns from hard negatives, as SSD, and the second from all boxes, in place of random samples: so
    the loss of a picture is the same each time, and in each of several processes.

    Args:
        outputs: Of both steps, see `networks.detection.two_steps`.
        objects: Of each picture.
        anchors: The boxes that were picked, float[P, 4] of each picture.
    """
    first = {"cls_logits": outputs["objectness"], "bbox_regression": outputs["proposal_regression"]}
    anything = [{**one, "labels": torch.zeros_like(one["labels"])} for one in objects]
    places = [*(outputs["first_anchors"] * SCALE)]
    picked = _with_hard_negatives(_PROPOSALS, first, torch.zeros_like(outputs["objectness"]), anything, places)
    names, boxes = ([one[key] for one in objects] for key in ("labels", "boxes"))
    matched, labels = RoIHeads.assign_targets_to_proposals(_PICKED, anchors, boxes, [one + 1 for one in names])
    goals = [
        own[match] if len(own) else torch.zeros_like(places)
        for own, match, places in zip(boxes, matched, anchors, strict=True)
    ]
    moves = BoxCoder(DELTA_WEIGHTS["ssd"]).encode(goals, list(anchors))
    logits = torch.cat([outputs["background"], outputs["cls_logits"]], dim=2).flatten(0, 1)
    # one box for all classes, where torchvision has one for each
    said = outputs["bbox_regression"].flatten(0, 1).repeat(1, logits.shape[1])
    classes, regression = fastrcnn_loss(logits, said, labels, moves)
    return {"classes": classes, "boxes": regression, **{f"first_{name}": part for name, part in picked.items()}}


def _with_hard_negatives(
    kind: SimpleNamespace, outputs: Mapping[str, Tensor], nothing: Tensor, objects: Objects, anchors: Sequence[Tensor]
) -> dict[str, Tensor]:
    """SSD's loss, where `nothing` [B, A, 1] is the score that there is no object."""
    matched = [
        _SSD_MATCHER(box_iou(one["boxes"], own)) if len(one["boxes"]) else torch.full_like(own[:, 0], -1).long()
        for one, own in zip(objects, anchors, strict=True)
    ]
    logits = torch.cat([nothing, outputs["cls_logits"]], dim=2)
    shifted = [{**one, "labels": one["labels"] + 1} for one in objects]
    found: dict[str, Tensor] = SSD.compute_loss(kind, shifted, {**outputs, "cls_logits": logits}, anchors, matched)
    return found
