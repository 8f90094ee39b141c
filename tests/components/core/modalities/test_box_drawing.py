"""Boxes drawn on pictures."""

import io

import numpy as np
from PIL import Image

from components.core.modalities.box_drawing import RIGHT, TRUE, WRONG, draw


def test_boxes_have_the_color_of_their_kind() -> None:
    """A right box is green, a wrong one orange, what is there dashed; a large picture becomes smaller."""
    buffer = io.BytesIO()
    Image.new("RGB", (400, 200), (255, 255, 255)).save(buffer, "PNG")
    found = draw(
        buffer.getvalue(),
        [(20, 40, 120, 160), (220, 40, 320, 160)],
        ["a", "b"],
        [True, False],
        [(140, 40, 200, 160)],
        side=200,
    )
    with Image.open(io.BytesIO(found)) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    assert pixels.shape[:2] == (100, 200)
    for x, color, other in ((60, RIGHT, WRONG), (160, WRONG, RIGHT)):
        edge = min(pixels[60, x - 8 : x + 8].tolist(), key=sum)  # JPEG blurs colors
        assert np.abs(np.subtract(edge, color)).sum() < np.abs(np.subtract(edge, other)).sum()
    dashes = np.abs(pixels[20:80, 70] - TRUE).sum(1) < 150
    assert 10 < dashes.sum() < 50
