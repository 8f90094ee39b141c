"""Draw boxes on pictures: what is there, and what a detector says."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

from components.core.inference import images

TRUE, RIGHT, WRONG = (20, 20, 20), (20, 150, 70), (214, 90, 20)
DASH = 6  # pixels of a dash, and of the gap behind it
Corners = Sequence[float]


def draw(
    content: bytes,
    boxes: Sequence[Corners],
    names: Sequence[str],
    right: Sequence[bool] = (),
    true: Sequence[Corners] = (),
    side: int = 0,
) -> bytes:
    """Return a picture with boxes, as JPEG.

    Args:
        content: The encoded picture.
        boxes: Left, top, right, bottom in pixels of the upright picture.
        names: What stands at each box.
        right: Whether each box is right, which is its color; without, all are.
        true: Boxes of what is there, dashed.
        side: Largest side of the result in pixels; 0: as it is.

    Raises:
        ValueError: It can't be decoded.
    """
    picture = images.decode(content)
    full = picture.info[images.FULL_SIZE]
    longest = min(side or max(picture.size), max(picture.size))  # a huge picture has been decoded at half its size
    scale = longest / max(full)
    if longest < max(picture.size):
        picture = picture.resize([max(1, round(length * scale)) for length in full])
    pen, width = ImageDraw.Draw(picture), max(1, round(max(picture.size) / 300))
    for corners in true:
        _dashed(pen, [corner * scale for corner in corners], width)
    for place, (corners, name) in enumerate(zip(boxes, names, strict=True)):
        color = WRONG if place < len(right) and not right[place] else RIGHT
        left, top, *_ = scaled = [corner * scale for corner in corners]
        pen.rectangle(scaled, outline=color, width=width)
        if not name:
            continue
        above = top - pen.textbbox((0, 0), name)[3] - 1  # where it hides nothing of a small object
        place_of_text = (left + width + 1, above if above >= 0 else top + width)
        pen.rectangle(pen.textbbox(place_of_text, name), fill=color)
        pen.text(place_of_text, name, fill=(255, 255, 255))
    return _jpeg(picture)


def _dashed(pen: ImageDraw.ImageDraw, corners: Sequence[float], width: int) -> None:
    left, top, right, bottom = map(round, corners)
    for start in range(left, right, 2 * DASH):
        end = min(start + DASH, right)
        pen.line([(start, top), (end, top)], fill=TRUE, width=width)
        pen.line([(start, bottom), (end, bottom)], fill=TRUE, width=width)
    for start in range(top, bottom, 2 * DASH):
        end = min(start + DASH, bottom)
        pen.line([(left, start), (left, end)], fill=TRUE, width=width)
        pen.line([(right, start), (right, end)], fill=TRUE, width=width)


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
