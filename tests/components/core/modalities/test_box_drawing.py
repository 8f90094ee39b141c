"""Boxes drawn on pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from components.core.inference import images
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


def test_a_name_hides_nothing_of_a_small_thing() -> None:
    """It stands above its box; only where the picture ends there, it stands inside."""
    buffer = io.BytesIO()
    Image.new("RGB", (100, 100), (255, 255, 255)).save(buffer, "PNG")
    boxes = [(10, 60, 40, 75), (60, 0, 90, 15)]
    with Image.open(io.BytesIO(draw(buffer.getvalue(), boxes, ["cat", "cat"]))) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    assert pixels[64:72, 14:37].min() > 200
    assert pixels[3:12, 64:80].min() < 100


@pytest.mark.parametrize("side", [0, 700])
def test_boxes_of_a_halved_picture_stay_where_they_are(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    """A huge picture is decoded at half its size; its boxes, in pixels of the whole one, still surround the object."""
    monkeypatch.setattr(images, "HALVED", 2**20)
    buffer, picture = io.BytesIO(), Image.new("RGB", (2100, 2100), (255, 255, 255))
    picture.paste((20, 20, 200), (1050, 1050, 1470, 1470))
    picture.save(buffer, "PNG")
    with Image.open(io.BytesIO(draw(buffer.getvalue(), [(1050, 1050, 1470, 1470)], [""], side=side))) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    assert pixels.shape[:2] == ((side or 1050),) * 2
    row = pixels[pixels.shape[0] * 6 // 10]
    green = np.flatnonzero(row[:, 1] - row[:, 2] > 12) / len(row)
    blue = np.flatnonzero(row[:, 2] - row[:, 0] > 100) / len(row)
    assert np.allclose([green.min(), green.max()], [0.5, 0.7], atol=0.02)
    assert np.allclose([blue.min(), blue.max()], [0.5, 0.7], atol=0.02)
