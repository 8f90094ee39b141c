"""The best answer of boxes that does not look at the picture: what a detector has to beat to have learned to see."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from components.core.contract.boxes import read_boxes
from components.core.inference.detection import MOST
from components.core.targets.detection_metrics import IOUS, iou

Array: TypeAlias = np.ndarray[Any, Any]

SAMPLE = 400  # training boxes of a class that are compared with each other
HALF = 0.5  # score from which a box is sure


def answers(training: Mapping[str, int], labels: Sequence[str]) -> pd.DataFrame:
    """Answer every picture with the boxes that find the most objects in the training pictures.

    The boxes of a class are chosen one after another from its training boxes, as shares of the sides: each time the one
    that finds the most of what those before it do not find, at IoUs from 0.50 to 0.95. As the gain of a box can only
    fall, this comes within 1 - 1/e of the best choice (Nemhauser et al. 1978). A box's score is the number of objects
    that it adds, by training picture.

    Args:
        training: How often each training label occurs.
        labels: The labels of the pictures to answer, which are read for their sizes alone.
    """
    ranked = [(gain, name, box) for name, boxes in _by_class(training).items() for gain, box in _frequent(boxes)]
    ranked.sort(key=lambda one: (-one[0], one[1]))
    ranked = ranked[:MOST]
    names, scores = [name for _, name, _ in ranked], [min(1.0, gain / sum(training.values())) for gain, _, _ in ranked]
    boxes = np.array([box for _, _, box in ranked]).reshape(-1, 4)
    common = {"labels": names, "scores": scores, "sure": sum(score >= HALF for score in scores)}
    rows = []
    for size in map(read_boxes, labels):
        sides = (size.width, size.height, size.width, size.height)
        rows.append({"boxes": (boxes * sides).tolist(), "width": size.width, "height": size.height, **common})
    return pd.DataFrame(rows)


def _by_class(training: Mapping[str, int]) -> dict[str, Array]:
    """The boxes [K, 4] of each class as shares of the sides, as often as their pictures occur."""
    found: dict[str, list[Array]] = {}
    for label, times in training.items():
        row = read_boxes(label)
        for box in row.boxes:
            share = np.array(box.corners) / (row.width, row.height, row.width, row.height)
            found.setdefault(box.name, []).extend([share] * times)
    return {name: np.array(boxes) for name, boxes in sorted(found.items())}


def _frequent(boxes: Array) -> list[tuple[float, Array]]:
    """At most `MOST` boxes with the number of objects that each finds beside those before it."""
    some = boxes[np.linspace(0, len(boxes) - 1, min(len(boxes), SAMPLE)).round().astype(int)]
    worth = (iou(some, some)[..., None] >= np.minimum(IOUS, 1 - 1e-10)).mean(-1)  # of a box for an object: [S, S]
    found, chosen = np.zeros(len(some)), list[tuple[float, Array]]()
    for _ in range(MOST):
        gains = np.maximum(worth - found, 0.0).sum(1)
        best = int(gains.argmax())
        if not gains[best]:
            break
        chosen.append((float(gains[best]) * len(boxes) / len(some), some[best]))
        found = np.maximum(found, worth[best])
    return chosen
