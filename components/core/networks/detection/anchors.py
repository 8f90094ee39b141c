"""Anchors of a detector, as shares of the picture's sides."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList


def squares(grids: Sequence[int], shift: float = 0.5) -> Tensor:
    """Return one square for each place of each level, a place wide: float[A, 4].

    `shift` is where in its place the middle of a square lies.
    """
    found = []
    for grid in grids:
        centers = (torch.arange(grid) + shift) / grid
        y, x = torch.meshgrid(centers, centers, indexing="ij")
        center, half = torch.stack([x, y, x, y], dim=-1).reshape(-1, 4), 0.5 / grid
        found.append(center + torch.tensor([-half, -half, half, half]))
    return torch.cat(found)


def generated(generator: AnchorGenerator | DefaultBoxGenerator, grids: Sequence[int], size: int) -> Tensor:
    """Return those of torchvision's generator for a picture of `size` x `size` pixels: float[A, 4]."""
    picture = ImageList(torch.empty(1, 3, size, size), [(size, size)])
    (found,) = generator(picture, [torch.empty(1, 1, side, side) for side in grids])
    shares: Tensor = found / size
    return shares
