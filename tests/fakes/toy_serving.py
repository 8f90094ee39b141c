"""Serving code of the toy task: stands alone, as every serving code does."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def encode(contents: Sequence[bytes], preprocessing: Mapping[str, Any]) -> "Tensor":
    """Points [B, 2]."""
    import torch

    points = [[float(part) for part in content.decode().split(",")] for content in contents]
    return torch.tensor(points) * preprocessing["scale"]
