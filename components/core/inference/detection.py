"""From the outputs of a detector (FCOS, RetinaNet, SSD or R-CNN, told by their names) to boxes.

This file travels with a served model and is loaded where Thawline is not installed, so it imports nothing from here.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import torchvision  # noqa: F401 - has the operators of a detector's graph, which is loaded after this file

if TYPE_CHECKING:
    from torch import Tensor

LOWEST = 0.05  # score below which a place has no box
OVERLAP = 0.6  # IoU above which the lower of two boxes of a class is dropped
DELTA_WEIGHTS = {"retinanet": (1.0, 1.0, 1.0, 1.0), "ssd": (10.0, 10.0, 5.0, 5.0)}  # of center and size of a box
CANDIDATES = 1000  # boxes of a picture that compete
MOST = 100  # boxes of an answer, as COCO counts them


class Answer(TypedDict):
    """The answer to one record."""

    boxes: list[list[float]]  # left, top, right, bottom in pixels of the upright picture; the surest first
    labels: list[str]
    scores: list[float]
    sure: int  # how many of them, from the first, reach the score with the best F1 on calibration rows
    width: int  # of the picture in pixels
    height: int


def answers(outputs: Mapping[str, "Tensor"], serving: Mapping[str, Any]) -> list[Answer]:
    """Boxes for outputs of a `DetectionHead`; `serving` holds the `classes` and the `threshold` of confident boxes."""
    classes, threshold, found = serving["classes"], serving.get("threshold", 0.5), list[Answer]()
    sizes = outputs["size"].round().long().tolist()
    for (boxes, labels, scores), (width, height) in zip(detected(outputs), sizes, strict=True):
        scaled = boxes * boxes.new_tensor([width, height, width, height])
        found.append(
            {
                "boxes": scaled.tolist(),
                "labels": [classes[label] for label in labels.tolist()],
                "scores": scores.tolist(),
                "sure": int((scores >= threshold).sum()),
                "width": width,
                "height": height,
            }
        )
    return found


def detected(outputs: Mapping[str, "Tensor"]) -> "list[tuple[Tensor, Tensor, Tensor]]":
    """Boxes [K, 4] as shares of the picture's sides, classes [K] and scores [K] of each row, the highest score first.

    Of FCOS a score is the geometric mean of the class's probability and of that of the place being central (Tian et al.
    2022), of the others the class's probability.
    """
    from torchvision.ops import batched_nms

    found = []
    for row, scores in enumerate(_scores(outputs)):  # [A, C]
        flat = scores.flatten()
        values, places = flat.topk(min(CANDIDATES, len(flat)))
        values, places = values[values >= LOWEST], places[values >= LOWEST]
        labels, where = places % scores.shape[1], places // scores.shape[1]
        boxes = _boxes(outputs, row, where).clamp(0, 1)
        kept = batched_nms(boxes, values, labels, OVERLAP)[:MOST]
        found.append((boxes[kept], labels[kept], values[kept]))
    return found


def _scores(outputs: Mapping[str, "Tensor"]) -> "Tensor":
    import torch

    logits = outputs["cls_logits"].float()
    if "bbox_ctrness" in outputs:
        return (logits.sigmoid() * outputs["bbox_ctrness"].float().sigmoid()).sqrt()
    if "background" in outputs:
        return torch.cat([outputs["background"].float(), logits], dim=2).softmax(2)[..., 1:]
    return logits.sigmoid()


def _boxes(outputs: Mapping[str, "Tensor"], row: int, where: "Tensor") -> "Tensor":
    """Boxes [K, 4] at these anchors of a row."""
    import torch
    from torchvision.models.detection._utils import BoxCoder

    anchors, deltas = outputs["anchors"][row][where].float(), outputs["bbox_regression"][row][where].float()
    if "bbox_ctrness" not in outputs:
        weights = DELTA_WEIGHTS["ssd" if "background" in outputs else "retinanet"]
        decoded: Tensor = BoxCoder(weights).decode_single(deltas, anchors)
        return decoded
    middle = (anchors[:, :2] + anchors[:, 2:]) / 2
    reach = deltas * (anchors[:, 2:] - anchors[:, :2]).repeat(1, 2)
    return torch.cat([middle - reach[:, :2], middle + reach[:, 2:]], dim=1)
