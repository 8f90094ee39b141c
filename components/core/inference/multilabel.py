"""From the outputs of a network that gives several labels to answers.

This file travels with a served model and is loaded where Thawline is not installed, so it imports nothing from here.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from torch import Tensor


class Answer(TypedDict):
    """The answer to one record."""

    labels: list[str]  # those whose probability reaches the threshold
    probabilities: dict[str, float]  # of all labels, each for itself


def answers(outputs: "Tensor", serving: Mapping[str, Any]) -> list[Answer]:
    """Labels and probabilities for logits [B, C]; `serving` holds C `classes`, a `temperature` and a `threshold`."""
    rows = (outputs.double() / serving["temperature"]).sigmoid().tolist()
    named = [dict(zip(serving["classes"], row, strict=True)) for row in rows]
    least = serving["threshold"]
    return [{"labels": [name for name in row if row[name] >= least], "probabilities": row} for row in named]
