"""Pictures that are augmented take their boxes along."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from components.core.inference.images import encode
from components.core.modalities.box_augmentation import augmented

PREPROCESSING = {
    "size": 64,
    "mode": "squash",
    "interpolation": "bilinear",
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "sized": True,
}
BOX = (30, 15, 60, 45)  # of a green square in a black picture of 90 x 60


@pytest.fixture
def content() -> bytes:
    pixels = np.zeros((60, 90, 3), dtype=np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2], 1] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def targets(count: int) -> torch.Tensor:
    row = [0, BOX[0] / 90, BOX[1] / 60, BOX[2] / 90, BOX[3] / 60]
    return torch.tensor([[row, [-1.0] * 5]] * count)


def test_boxes_move_with_the_pictures(content: bytes) -> None:
    """Wherever a flip, a scale and a crop put the green square, its box lies around it."""
    inputs, moved = augmented([content] * 12, targets(12), PREPROCESSING, range(12))
    assert inputs["latest"].shape == (12, 3, 64, 64)
    assert inputs["size"].tolist() == [[90, 60]] * 12
    assert moved.shape == (12, 2, 5)
    seen = 0
    for picture, row in zip(inputs["latest"], moved, strict=True):
        green = (picture[1] > picture[0] + 0.3).nonzero()
        if row[0, 0] < 0:
            assert len(green) < 64
            continue
        found = [green[:, 1].min(), green[:, 0].min(), green[:, 1].max() + 1, green[:, 0].max() + 1]
        assert torch.allclose(row[0, 1:] * 64, torch.stack(found).float(), atol=2.0)
        seen += 1
    assert seen > 6
    assert len({tuple(row[0].tolist()) for row in moved}) > 6


def test_augmentation_is_seeded(content: bytes) -> None:
    """Each picture depends on its own seed alone, and the global generator is left alone."""
    state = torch.get_rng_state()
    both, moved = augmented([content] * 2, targets(2), PREPROCESSING, [3, 4])
    alone, own = augmented([content], targets(1), PREPROCESSING, [4])
    assert torch.equal(both["latest"][1], alone["latest"][0])
    assert torch.equal(moved[1], own[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_picture_without_boxes_keeps_its_padding(content: bytes) -> None:
    """Rows that are no box stay none."""
    _, moved = augmented([content], torch.full((1, 3, 5), -1.0), PREPROCESSING, [0])
    assert (moved == -1).all()


def test_an_input_tells_the_size_of_its_picture(content: bytes) -> None:
    """Encoded without augmentation, the input is the stretched picture and its width and height."""
    found = encode([content], PREPROCESSING)
    assert isinstance(found, dict)
    assert found["latest"].shape == (1, 3, 64, 64)
    assert found["size"].tolist() == [[90, 60]]
