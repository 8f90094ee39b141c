"""Serving code of the toy task: stands alone, as every serving code does."""

from typing import Any


def encode(contents: list[bytes], preprocessing: dict[str, float]) -> Any:
    """Points [B, 2]."""
    import torch

    points = [[float(part) for part in content.decode().split(",")] for content in contents]
    return torch.tensor(points) * preprocessing["scale"]


def answers(outputs: Any, serving: dict[str, Any]) -> list[dict[str, Any]]:
    """A label and the probabilities for each row."""
    classes = serving["classes"]
    rows = (outputs / serving["temperature"]).softmax(-1).tolist()
    named = [dict(zip(classes, row, strict=True)) for row in rows]
    return [{"label": max(row, key=row.__getitem__), "probabilities": row} for row in named]
