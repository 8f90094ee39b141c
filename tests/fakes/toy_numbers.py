"""The toy task with a number as its label, the distance from the origin: `--task tests.fakes.toy_numbers`.

It is its own target, written without any of the core's: what the contract takes where labels are no classes.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from components.core.contract import Target
from components.core.errors import RejectedRecord
from components.core.evidence.intervals import bootstrap_sums, interval
from components.core.settings import Settings
from components.core.targets.evaluation import Evaluation
from tests.fakes import toy_numbers_answers
from tests.fakes.toy import (
    Options,
    augment,
    augments,
    backbone,
    build,
    check,
    encode,
    input_name,
    measure,
    near_duplicates,
    rebuild,
    reference,
    serving_code,
    serving_requirements,
    split_by,
    thumbnails,
)
from tests.fakes.toy_numbers_answers import answers

__all__ = [
    "Options",
    "answers",
    "augment",
    "augments",
    "backbone",
    "build",
    "check",
    "encode",
    "input_name",
    "measure",
    "near_duplicates",
    "rebuild",
    "reference",
    "serving_code",
    "serving_requirements",
    "split_by",
    "thumbnails",
]


class Answer(TypedDict):
    distance: float


metric = "error"  # mean absolute error: lower is better
gate_metrics: Mapping[str, int] = {"error": -1}
right_or_wrong = False
answers_code = Path(toy_numbers_answers.__file__)
answer: type = Answer


def target(settings: Settings) -> Target:
    return cast("Target", sys.modules[__name__])


def mix(inputs: Tensor, targets: Tensor, settings: Settings, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    return inputs, targets


def check_label(label: str) -> str:
    try:
        return f"{float(label):g}"
    except ValueError as error:
        raise RejectedRecord("the label is no number") from error


def names(labels: Sequence[str]) -> list[list[str]]:
    return [[] for _ in labels]


def strata(labels: Sequence[str]) -> list[str]:
    return [""] * len(labels)


def class_names(labels: Sequence[str]) -> list[str]:
    return ["distance"]


def targets(labels: Sequence[str], classes: Sequence[str]) -> Tensor:
    return torch.tensor([[float(label)] for label in labels])


def loss(outputs: Tensor, targets: Tensor, label_smoothing: float, class_weights: Tensor | None) -> Tensor:
    return (outputs - targets).square().mean()


def class_weights(targets: Tensor, size: int) -> None:
    return None


def validate(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    return {"loss": float(loss(outputs, targets, 0.0, None)), "error": float((outputs - targets).abs().mean())}


def calibrate(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    return {"shift": float((targets - outputs).mean())}


def scores(answers: pd.DataFrame, labels: Sequence[str]) -> np.ndarray[Any, Any]:
    return -np.abs(answers["distance"].to_numpy() - np.array(labels, dtype=float))


def gate_features(answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str]) -> np.ndarray[Any, Any]:
    return np.stack([-scores(answers, labels), np.ones(len(labels))], axis=1)


def gate_figure(metric: str, classes: Sequence[str]) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    return lambda sums: np.asarray(sums[:, 0] / sums[:, 1])


def evaluate(
    answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str], training: Mapping[str, int]
) -> Evaluation:
    features, figure = gate_features(answers, labels, classes), gate_figure(metric, classes)
    mean = sum(float(label) * count for label, count in training.items()) / sum(training.values())
    trivial = gate_features(pd.DataFrame({"distance": [mean] * len(labels)}), labels, classes)
    resampled = figure(bootstrap_sums(features))
    return Evaluation(
        metrics={metric: float(figure(features.sum(0)[None])[0])},
        intervals={metric: interval(resampled)},
        baseline={metric: float(figure(trivial.sum(0)[None])[0])},
        bound=float(np.quantile(resampled, 0.95)),
    )


def write_distances(folder: Path, count: int, seed: int = 0) -> Path:
    """A manifest of points and their distances from the origin; the last row's label is no number."""
    folder.mkdir(parents=True, exist_ok=True)
    points = np.random.default_rng(seed).uniform(-2, 2, (count, 2))
    rows = [f'"{x:.6f},{y:.6f}",{np.hypot(x, y):.6f}' for x, y in points]
    path = folder / "points.csv"
    path.write_text("\n".join(["text,label", *rows, '"1,1",far', ""]))
    return path
