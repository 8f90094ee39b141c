"""Heads: what stands on top of the stages, and knows the classes."""

from torch import nn


def new_head(kind: str, features: int, hidden: int, classes: int, dropout: float) -> nn.Sequential:
    """A head on features[B, F]: `linear`, or `mlp`, the classic `Linear - ReLU - Dropout - Linear`."""
    if kind == "linear":
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(features, classes))
    return nn.Sequential(
        nn.Linear(features, hidden),
        nn.ReLU(),  # not in place: its input may be a kept activation
        nn.Dropout(dropout),
        nn.Linear(hidden, classes),
    )
