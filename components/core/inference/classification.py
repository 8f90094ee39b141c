"""From a classifier's outputs to answers.

This file travels with a served model and is loaded where Thawline is not installed, so it imports nothing from here.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from torch import Tensor


class Answer(TypedDict):
    """The answer to one record."""

    label: str
    probabilities: dict[str, float]  # of all classes


def answers(outputs: "Tensor", serving: Mapping[str, Any]) -> list[Answer]:
    """Label and probabilities for logits [B, C]; `serving` holds the C `classes` and a `temperature`."""
    classes = serving["classes"]
    probabilities = (outputs.double() / serving["temperature"]).softmax(dim=1)
    return [
        {"label": classes[best], "probabilities": dict(zip(classes, row, strict=True))}
        for best, row in zip(probabilities.argmax(dim=1).tolist(), probabilities.tolist(), strict=True)
    ]
