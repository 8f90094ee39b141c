"""Distances of points from the origin: the smallest task with a target of its own. `--task tests.fakes.smallest_task`.

This file travels with a registered model and runs where Thawline is not installed, so its imports of Thawline stand
inside of the functions that need them.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from components.core.networks.network import Network
    from components.core.settings import Settings
    from components.core.targets.evaluation import Evaluation


def check(content: bytes) -> Mapping[str, int | str]:
    """Refuse a record that is not two numbers with a comma between."""
    from components.core.errors import RejectedRecord

    try:
        x, _y = (float(part) for part in content.decode().split(","))
    except ValueError as error:
        raise RejectedRecord("no point") from error
    return {"right": int(x > 0)}  # facts for the index; there may be none


def encode(contents: Sequence[bytes], preprocessing: Mapping[str, Any]) -> Tensor:
    """Records as what the first stage takes, [B, 2]."""
    points = [[float(part) for part in content.decode().split(",")] for content in contents]
    return torch.tensor(points) * preprocessing["scale"]


def build(settings: "Settings", classes: Sequence[str], dropout: float) -> "Network":
    """Pretrained stages, the same at every call, and a new head."""
    from components.core.networks.network import Network

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        stages = [nn.Sequential(nn.Linear(i, 8), nn.Tanh()) for i in (2, 8, 8)]
    head = nn.Sequential(nn.Dropout(dropout), nn.Linear(8, len(classes)))
    return Network(stages, head, preprocessing={"scale": 1.0}, weights_digest="seed 1")


def target(settings: "Settings") -> "Distance":
    """Return the target of the network."""
    return Distance()


class Answer(TypedDict):
    """The columns of an answer."""

    distance: float


def answers(outputs: Tensor, serving: Mapping[str, Any]) -> list[Answer]:
    """An answer for each row of outputs [B, 1]."""
    return [{"distance": value} for (value,) in outputs.tolist()]


def errors(answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Return what the metric sums over rows: the error, and one for the row."""
    wrong = np.abs(answers["distance"].to_numpy() - np.array(labels, dtype=float))
    return np.stack([wrong, np.ones(len(labels))], axis=1)


class Distance:
    """A number for each record."""

    answer, answers = Answer, staticmethod(answers)

    def __init__(self) -> None:
        from components.core.contract.task import Metric

        self.metrics = [
            Metric("error", higher_is_better=False, features=errors, figure=lambda sums: sums[:, 0] / sums[:, 1])
        ]

    def check_label(self, label: str) -> str:
        """Refuse a label that is no number; equal numbers become equal texts."""
        from components.core.errors import RejectedRecord

        try:
            return f"{float(label):g}"
        except ValueError as error:
            raise RejectedRecord("the label is not a number") from error

    def targets(self, labels: Sequence[str], classes: Sequence[str]) -> Tensor:
        """Labels as what the loss compares outputs with, [N, 1]."""
        return torch.tensor([[float(label)] for label in labels])

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float, class_weights: Tensor | None) -> Tensor:
        """The mean squared error of a batch."""
        return (outputs - targets).square().mean()

    def evaluate(
        self, answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str], training: Mapping[str, int]
    ) -> "Evaluation":
        """The metrics beside those of a model that always answers the mean of the training labels."""
        from components.core.targets.evaluation import by_sums

        mean = sum(float(label) * rows for label, rows in training.items()) / sum(training.values())
        return by_sums(self.metrics, answers, {"distance": mean}, labels, classes)
