"""Serving code of the toy task: stands alone, as every serving code does."""

from typing import Any


def encode(contents: list[bytes], preprocessing: dict[str, float]) -> Any:
    """Points [B, 2]."""
    import torch

    points = [[float(part) for part in content.decode().split(",")] for content in contents]
    return torch.tensor(points) * preprocessing["scale"]
