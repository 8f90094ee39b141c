"""A number as the target of a task: squared or Huber loss, R2 against the mean of the training labels, an interval."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from components.core.contract.task import Metric
from components.core.errors import RejectedRecord
from components.core.evidence.intervals import bootstrap_sums, interval
from components.core.inference.regression import Answer, answers
from components.core.targets.evaluation import Evaluation, Mistake

Array: TypeAlias = np.ndarray[Any, Any]

COVERED = 0.9  # share of the records whose number the interval of an answer is meant to hold
MISTAKES = 24  # thumbnails that the report has room for
LARGEST = 1e100  # label: squares of more, and their sums, would not be finite
ROUNDING = 1e-12  # of the squares of labels, below which their spread is none


class Regression:
    """A number for each record; the network learns it less the mean, over the scale, of the training labels."""

    answer: type = Answer
    convex = True
    answers = staticmethod(answers)

    def __init__(self, mean: float, scale: float, loss: str) -> None:
        """Take the mean and scale of the training labels, and the loss: `mse` or `huber`."""
        self.mean, self.scale, self.huber = mean, scale, loss == "huber"
        self.metrics = METRICS

    def check_label(self, label: str) -> str:
        """A finite number, as short as it can be written."""
        try:
            number = float(label)
        except ValueError:
            raise RejectedRecord("the label is not a number") from None
        if not math.isfinite(number):
            raise RejectedRecord("the label is not a finite number")
        if abs(number) > LARGEST:
            raise RejectedRecord(f"the label is a number beyond {LARGEST:g}")
        return repr(number + 0.0)  # -0.0 becomes 0.0

    def class_names(self, labels: Sequence[str]) -> list[str]:
        """The one output."""
        del labels
        return ["number"]

    def targets(self, labels: Sequence[str], classes: Sequence[str]) -> Tensor:
        """Standardised labels, float[N, 1]."""
        del classes
        return torch.tensor([[(float(label) - self.mean) / self.scale] for label in labels]).reshape(-1, 1)

    def loss(
        self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
    ) -> Tensor:
        """Mean squared error, or Huber's loss, which grows linearly beyond one scale; a scalar mean."""
        del label_smoothing, class_weights  # of classes
        return functional.huber_loss(outputs, targets) if self.huber else functional.mse_loss(outputs, targets)

    def validate(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Figures of a whole split from outputs[N, 1] and targets[N, 1]; the error is in the labels' unit."""
        wrong, spread = outputs.double() - targets, targets.double() - targets.double().mean()
        return {
            "loss": float(self.loss(outputs, targets)),
            "r2": _r2(float(wrong.square().sum()), float(spread.square().sum())),
            "mae": float(wrong.abs().mean()) * self.scale,
        }

    def calibrate(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Mean and scale of the labels, and the half width of the interval around an answer.

        The width is that of split conformal prediction (Papadopoulos et al. 2002): the ceil(0.9 (n + 1))-th smallest of
        the n errors, or the largest where there are too few for that.
        """
        errors = (outputs - targets).abs()[:, 0].sort()[0]
        rank = min(math.ceil(COVERED * (len(errors) + 1)), len(errors))
        return {"mean": self.mean, "scale": self.scale, "margin": float(errors[rank - 1]) * self.scale}

    def evaluate(
        self, answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str], training: Mapping[str, int]
    ) -> Evaluation:
        """Errors with 95% bootstrap intervals over rows, beside a model that always answers the training mean.

        `coverage` is the share of rows whose number lies in the answer's interval; the trivial model's interval holds
        the middle nine tenths of the training labels.

        Raises:
            ValueError: There are no test rows.
        """
        del classes
        if len(labels) == 0:
            raise ValueError("there are no test rows to evaluate on")
        features = _features(answers, labels)
        resampled, metrics = _metrics(bootstrap_sums(features)), _metrics(features.sum(0)[None])
        numbers = np.repeat([float(label) for label in training], list(training.values()))
        low, high = np.quantile(numbers, [(1 - COVERED) / 2, (1 + COVERED) / 2])
        trivial = pd.DataFrame({"number": numbers.mean(), "low": low, "high": high}, index=range(len(labels)))
        baseline = _metrics(_features(trivial, labels).sum(0)[None])
        true, predicted = np.array(labels, dtype=np.float64), answers["number"].to_numpy(dtype=np.float64)
        worst = np.argsort(-np.abs(predicted - true), kind="stable")[:MISTAKES]
        return Evaluation(
            metrics={name: float(value[0]) for name, value in metrics.items()},
            intervals={name: interval(values) for name, values in resampled.items()},
            baseline={name: float(value[0]) for name, value in baseline.items()},
            trivial=trivial,
            bound=float(np.nanquantile(resampled["r2"], 0.05)),
            numbers=pd.DataFrame({"true": true, "predicted": predicted}),
            mistakes=[Mistake(int(i), f"{true[i]:.4g}", f"{predicted[i]:.4g}", None) for i in worst],
        )

    def scores(self, answers: pd.DataFrame, labels: Sequence[str]) -> Array:
        """One less the squared error over the labels' variance: R2 is the mean of it over all rows, float[N]."""
        true = np.array(labels, dtype=np.float64)
        wrong = answers["number"].to_numpy(dtype=np.float64) - true
        return np.asarray(1 - wrong**2 / (true.var() if len({*labels}) > 1 else 1.0))


def _features(answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str] = ()) -> Array:
    """Columns of absolute error, squared error, label, squared label, one, and 1.0 where the interval holds it."""
    del classes
    true = np.array(labels, dtype=np.float64)
    wrong = answers["number"].to_numpy(dtype=np.float64) - true
    inside = (answers["low"].to_numpy() <= true) & (true <= answers["high"].to_numpy())
    centred = true - true.mean()  # else the squares of large labels drown their variance
    return np.stack([np.abs(wrong), wrong**2, centred, centred**2, np.ones_like(true), inside], axis=1)


def _explained(sums: Array) -> Array:
    """R2, undefined where all labels are one number."""
    _, square, label, label_square, rows, _ = sums.T
    spread = label_square - label**2 / rows
    unknown = np.full_like(square, np.nan)
    return np.asarray(1 - np.divide(square, spread, out=unknown, where=spread > ROUNDING * label_square))


METRICS = (
    Metric(
        "r2",
        features=_features,
        figure=_explained,
        title="R²",
        explanation="share of the variance that is explained; 0 is the mean of the rows",
    ),
    Metric(
        "mae",
        higher_is_better=False,
        features=_features,
        figure=lambda sums: np.asarray(sums[:, 0] / sums[:, 4]),
        title="Mean absolute error",
        explanation="in the unit of the labels",
    ),
    Metric(
        "rmse",
        higher_is_better=False,
        features=_features,
        figure=lambda sums: np.sqrt(sums[:, 1] / sums[:, 4]),
        title="Root mean squared error",
        explanation="in the unit of the labels",
    ),
    Metric(  # without features: more is not better
        "coverage",
        figure=lambda sums: np.asarray(sums[:, 5] / sums[:, 4]),
        explanation=f"share of rows whose number is in the answer's interval; the target is {COVERED:g}",
    ),
)


def _metrics(sums: Array) -> dict[str, Array]:
    """The metrics float[R] of each row of sums."""
    return {metric.name: metric.figure(sums) for metric in METRICS if metric.figure}


def _r2(square: float, spread: float) -> float:
    return 1 - square / spread if spread else float("nan")
