"""From a regression's outputs to answers.

This file travels with a served model and is loaded where Thawline is not installed, so it imports nothing from here.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from torch import Tensor


class Answer(TypedDict):
    """The answer to one record."""

    number: float
    low: float  # of the interval that holds the true number in about nine of ten records
    high: float


def answers(outputs: "Tensor", serving: Mapping[str, Any]) -> list[Answer]:
    """Numbers of outputs [B, 1]; `serving` holds the `mean` and `scale` of the labels and a `margin` in their unit."""
    mean, scale, margin = serving["mean"], serving["scale"], serving["margin"]
    numbers = (outputs.double()[:, 0] * scale + mean).tolist()
    return [{"number": number, "low": number - margin, "high": number + margin} for number in numbers]
