"""The result of an evaluation on the test rows, for any problem."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from components.core.contract.task import Metric
from components.core.evidence.intervals import bootstrap_sums, interval


@dataclass(frozen=True)
class Mistake:
    """One wrong answer, for the report's thumbnails."""

    row: int  # position in the test rows
    label: str
    predicted: str
    probability: float | None  # of the wrong label; None where answers have none


@dataclass(frozen=True)
class Reference:
    """A simple model on the same test rows, beside the trivial one."""

    name: str  # as in a sentence: TF-IDF with logistic regression
    metrics: Mapping[str, float]  # the same as the model's
    answers: pd.DataFrame


@dataclass(frozen=True)
class Evaluation:
    """Figures of one served model on the test rows."""

    metrics: Mapping[str, float]  # the headline metric first
    intervals: Mapping[str, tuple[float, float]]  # 95%, for each headline number
    baseline: Mapping[str, float]  # the same metrics of the trivial model
    # its answers to the test rows, for a paired test; None where bound and baseline decide alone
    trivial: pd.DataFrame | None = field(default=None, kw_only=True)
    # by what the names of their metrics begin with in MLflow: `probe`, and `reference` for the task's own
    references: Mapping[str, Reference] = field(default_factory=dict, kw_only=True)
    shortfall: str = field(default="", kw_only=True)  # in a sentence, which of them the model does not beat; or empty
    bound: float  # one-sided 95% bound of the target's metric, on the side of the worse figures
    per_class: pd.DataFrame | None = None  # class, support, then any figures, the last of which ranks the classes
    confusion: np.ndarray[Any, Any] | None = None  # counts[true, predicted], in the order of the classes
    reliability: pd.DataFrame | None = None  # bin, confidence, right (share of the answers), count
    calibration_error: str = ""  # which of the metrics it is; empty: none of them
    numbers: pd.DataFrame | None = None  # true, predicted; a row per test row
    precision_recall: pd.DataFrame | None = None  # iou, recall, precision
    mistakes: Sequence[Mistake] = field(default_factory=tuple)  # the surest or the largest first
    worst_first: str = ""  # what the order of the mistakes is, and how they are drawn; empty: the surest first


def by_sums(
    metrics: Sequence[Metric],
    answers: pd.DataFrame,
    trivial: Mapping[str, object],
    labels: Sequence[str],
    classes: Sequence[str],
) -> Evaluation:
    """Return metrics that may decide with 95% bootstrap intervals over rows, beside those of a trivial model.

    Args:
        metrics: The headline first; all with features and figure.
        answers: A row per test row.
        trivial: The answer that a model gives to every row if it knows the training labels alone.
        labels: The true labels.
        classes: In the order of the model's outputs.

    Raises:
        ValueError: There are no test rows, or a metric may not decide.
    """
    if len(labels) == 0:
        raise ValueError("there are no test rows to evaluate on")
    constant = pd.DataFrame([trivial] * len(labels))
    values, intervals, baseline, bounds = {}, {}, {}, list[float]()
    for metric in metrics:
        if metric.features is None or metric.figure is None:
            raise ValueError(f"{metric.name} has no features")
        features = metric.features(answers, labels, classes)
        drawn = metric.figure(bootstrap_sums(features))
        values[metric.name] = float(metric.figure(features.sum(0)[None])[0])
        intervals[metric.name] = interval(drawn)
        baseline[metric.name] = float(metric.figure(metric.features(constant, labels, classes).sum(0)[None])[0])
        bounds.append(float(np.nanquantile(drawn, 0.05 if metric.higher_is_better else 0.95)))
    return Evaluation(values, intervals, baseline, bound=bounds[0], trivial=constant)
