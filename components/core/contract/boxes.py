"""Labels that are boxes, as text: one form for manifests, COCO, Pascal VOC and the lineage.

A label is the JSON list of a picture's boxes, {"box": [left, top, right, bottom], "class": name} in pixels, or an
object with that list as `boxes` and the `width` and `height` of the picture that they were drawn in.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from components.core.digests import canonical_json
from components.core.errors import RejectedRecord

OVERHANG = 1.0  # pixels beyond the picture that rounding explains; they are cut off
DIGITS = 2  # of a pixel
CELL = 32_767  # characters that a spreadsheet's cell holds
OTHER_QUOTES = ("[{'", "[{\u2018", "[{\u2019", "[{\u201c", "[{\u201d")  # of Python, and of word processors


@dataclass(frozen=True, order=True)
class Box:
    """One object in a picture."""

    name: str  # its class
    corners: tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Boxes:
    """All objects in a picture."""

    boxes: Sequence[Box]
    width: int = 0  # of the picture in pixels; 0: not told
    height: int = 0

    def text(self) -> str:
        """Return the label, equal for equal boxes in any order."""
        listed = [{"box": [_short(x) for x in box.corners], "class": box.name} for box in sorted(self.boxes)]
        return canonical_json({"boxes": listed, "width": self.width, "height": self.height} if self.width else listed)


def read_boxes(label: str) -> Boxes:
    """Read a label.

    Raises:
        RejectedRecord: It is no list of boxes, or a box has no area, swapped corners or no class.
    """
    try:
        given = json.loads(label)
    except (ValueError, RecursionError):
        given = None
    size = (0, 0)
    if isinstance(given, dict) and {"boxes", "width", "height"} <= given.keys():
        size, given = (_side(given["width"]), _side(given["height"])), given["boxes"]
    if not isinstance(given, list):
        example = '[{"box": [0, 0, 9, 9], "class": "cat"}]'
        raise RejectedRecord(f"the label is not a JSON list of boxes{_broken(label)}: one is {example}")
    return Boxes([_box(one) for one in given], *size)


def within(boxes: Boxes, width: int, height: int) -> Boxes:
    """Return the boxes of a picture of this size, without the pixel that rounding may put outside.

    Raises:
        RejectedRecord: A box lies outside, or they were drawn in a picture of another size.
    """
    if boxes.width and (boxes.width, boxes.height) != (width, height):
        raise RejectedRecord(
            f"the picture has another size than its annotation: {width} x {height} pixels upright, not "
            f"{boxes.width} x {boxes.height}"
        )
    return Boxes([_cut(box, width, height) for box in boxes.boxes], width, height)


def class_counts(label: str) -> dict[str, int]:
    """Count the boxes of a checked label, by name of the class."""
    found: dict[str, int] = {}
    for box in read_boxes(label).boxes:
        found[box.name] = found.get(box.name, 0) + 1
    return dict(sorted(found.items()))


def are_boxes(labels: Iterable[str]) -> bool:
    """Return whether most of these labels are boxes, broken ones included."""
    some = [label for label in labels if label]
    found = sum(label.startswith(("[{", '{"boxes"')) or label == "[]" for label in some)
    return found > len(some) / 2 and any(label != "[]" for label in some)


def _broken(label: str) -> str:
    """Describe the damage that programs for tables do to a label, if it shows."""
    if label.startswith(OTHER_QUOTES):
        return "; its quotes are not the straight double ones of JSON"
    if len(label) >= CELL:
        return f"; it ends after {len(label)} characters, as a spreadsheet cuts it off"
    return ""


def _box(given: Any) -> Box:  # noqa: ANN401 - whatever a label holds
    if not isinstance(given, dict) or not {"box", "class"} <= given.keys():
        raise RejectedRecord("a box is not an object with box and class")
    name, corners = given["class"], given["box"]
    if not isinstance(name, str) or not name.strip():
        raise RejectedRecord("a box has no class")
    if not isinstance(corners, list) or len(corners) != 4 or not all(map(is_number, corners)):  # noqa: PLR2004 - corners
        raise RejectedRecord("a box is not four numbers: left, top, right, bottom")
    left, top, right, bottom = map(float, corners)
    what = f"{name.strip()} {corners}"
    if right < left or bottom < top:
        raise RejectedRecord(f"a box has swapped corners: {what}")
    if right == left or bottom == top:
        raise RejectedRecord(f"a box has no area: {what}")
    return Box(name.strip(), (left, top, right, bottom))


def is_number(value: object) -> bool:
    """Return whether a value of JSON is a finite number, which a whole one of 400 digits is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _side(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RejectedRecord(f"the size of the picture is {value!r}")
    return value


def _cut(box: Box, width: int, height: int) -> Box:
    left, top, right, bottom = box.corners
    if min(left, top) < -OVERHANG or right > width + OVERHANG or bottom > height + OVERHANG:
        raise RejectedRecord(
            f"a box lies outside the picture of {width} x {height} pixels: {box.name} {[*map(_short, box.corners)]}"
        )
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if right <= left or bottom <= top:
        raise RejectedRecord(f"a box has no area inside the picture: {box.name} {[*map(_short, box.corners)]}")
    return Box(box.name, (left, top, right, bottom))


def _short(number: float) -> float | int:
    rounded = round(number, DIGITS)
    return int(rounded) if rounded == int(rounded) else rounded
