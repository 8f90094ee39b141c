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


def linear_of(head: nn.Module) -> nn.Linear | None:
    """The one linear layer of a head that has nothing else, but for dropout; None of any other head."""
    modules = [module for module in head.modules() if not isinstance(module, nn.Sequential | nn.Dropout | nn.Identity)]
    return (
        modules[0] if len(modules) == 1 and isinstance(modules[0], nn.Linear) and modules[0].bias is not None else None
    )
