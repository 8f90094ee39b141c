"""Several labels as the target of a task: each is a yes or no of its own; F1 against the best constant answer."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from components.core.contract.task import Metric
from components.core.digests import canonical_json
from components.core.errors import InputError, RejectedRecord
from components.core.evidence.intervals import bootstrap_interval, bootstrap_sums, interval
from components.core.inference.multilabel import Answer, answers
from components.core.targets.classification import best_temperature
from components.core.targets.evaluation import Evaluation, Mistake

Array: TypeAlias = np.ndarray[Any, Any]

MISTAKES = 24  # thumbnails that the report has room for
MEAN_AVERAGE_PRECISION = "map"
RESAMPLES = 500  # of the mean average precision, which is no function of sums


class MultiLabel:
    """Any number of labels for each record, written as a JSON list of names."""

    answer: type = Answer
    convex = True
    answers = staticmethod(answers)

    def __init__(self, threshold: float) -> None:
        """Take the probability from which a label is given."""
        self.threshold = threshold
        self.metrics = METRICS

    def check_label(self, label: str) -> str:
        """A JSON list of names, sorted, each once."""
        try:
            names = json.loads(label)
            json.dumps(names, ensure_ascii=False).encode()  # an escape may stand for half a character
        except (ValueError, RecursionError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
            raise RejectedRecord("the label is not a JSON list of names")
        return canonical_json(sorted({name.strip() for name in names}))

    def names(self, labels: Sequence[str]) -> list[list[str]]:
        """The names of each list."""
        return _names(labels)

    def class_names(self, labels: Sequence[str]) -> list[str]:
        """All names, sorted.

        Raises:
            InputError: All lists are empty.
        """
        found = sorted({name for names in self.names(labels) for name in names})
        if not found:
            raise InputError("No record has a label: all lists are empty.", "Check the column label.")
        return found

    def targets(self, labels: Sequence[str], classes: Sequence[str]) -> Tensor:
        """1.0 for each label that a record has, else 0.0: float[N, C]."""
        return torch.tensor(_matrix(self.names(labels), classes), dtype=torch.float32)

    def loss(
        self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
    ) -> Tensor:
        """Binary cross-entropy of logits[B, C], a scalar mean over rows and labels; smoothing draws targets to 0.5."""
        soft = targets * (1 - label_smoothing) + label_smoothing / 2
        return functional.binary_cross_entropy_with_logits(outputs, soft, pos_weight=class_weights)

    def class_weights(self, targets: Tensor, size: int) -> Tensor:
        """Return the weight of a present label relative to an absent one: rows without it over rows with it, [C].

        1.0 where all rows have it, or none: there is nothing to balance.
        """
        del size
        there = targets.sum(0)
        return torch.where((there > 0) & (there < len(targets)), (len(targets) - there) / there.clamp(min=1), 1.0)

    def validate(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Figures of a whole split from logits[N, C] and targets[N, C], at the threshold of the uncalibrated model."""
        given = (outputs.sigmoid() >= self.threshold).numpy()
        metrics = _metrics(_features(targets.numpy() > 0, given).sum(0)[None])
        return {"loss": float(self.loss(outputs, targets)), **{name: float(v[0]) for name, v in metrics.items()}}

    def calibrate(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """The temperature that divides the logits[N, C], by the binary log loss, and the threshold."""

        def log_loss(temperature: float) -> float:
            return float(functional.binary_cross_entropy_with_logits(outputs.double() / temperature, targets.double()))

        right = bool(((outputs > 0) == (targets > 0)).all())  # then the likelihood grows as the temperature falls
        temperature = 1.0 if right else best_temperature(log_loss, targets.numel())
        return {"temperature": temperature, "threshold": self.threshold}

    def evaluate(
        self, answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str], training: Mapping[str, int]
    ) -> Evaluation:
        """F1, subset accuracy and mean average precision with 95% bootstrap intervals over rows.

        Micro-F1 counts all labels of all rows together, macro-F1 is the mean over the labels, subset accuracy the share
        of rows whose list is answered exactly. The trivial model always gives the labels whose micro-F1 on the training
        rows is highest, with their frequencies as probabilities.

        Raises:
            ValueError: There are no test rows.
        """
        if len(labels) == 0:
            raise ValueError("there are no test rows to evaluate on")
        lists = self.names(labels)
        known = [*classes, *sorted({name for names in lists for name in names} - {*classes})]
        true, given = _matrix(lists, known), _matrix(answers["labels"].tolist(), known)
        chances = np.array([[row.get(name, 0.0) for name in known] for row in answers["probabilities"]])
        features = _features(true, given)
        metrics, resampled = _metrics(features.sum(0)[None]), _metrics(bootstrap_sums(features))
        precision, order = _mean_average_precision(true, chances), np.arange(len(true))
        constant, shares = _constant(training, known)
        trivial = _metrics(_features(true, np.broadcast_to(constant, true.shape)).sum(0)[None])
        flat = _mean_average_precision(true, np.broadcast_to(shares, true.shape))(order)
        always = {
            "labels": [name for name, given in zip(known, constant, strict=True) if given],
            "probabilities": dict(zip(known, shares.tolist(), strict=True)),
        }
        return Evaluation(
            metrics={**{name: float(v[0]) for name, v in metrics.items()}, MEAN_AVERAGE_PRECISION: precision(order)},
            intervals={
                **{name: interval(values) for name, values in resampled.items()},
                MEAN_AVERAGE_PRECISION: bootstrap_interval(precision, len(true), RESAMPLES),
            },
            baseline={**{name: float(v[0]) for name, v in trivial.items()}, MEAN_AVERAGE_PRECISION: flat},
            trivial=pd.DataFrame([always] * len(true)),
            bound=float(np.quantile(resampled[METRICS[0].name], 0.05)),
            per_class=_per_class(true, given, known),
            mistakes=_mistakes(true, given, chances, known),
        )

    def scores(self, answers: pd.DataFrame, labels: Sequence[str]) -> Array:
        """F1 of each row's list, 1 where both lists are empty: float[N]."""
        pairs = [({*a}, {*b}) for a, b in zip(answers["labels"], self.names(labels), strict=True)]
        return np.array([2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0 for a, b in pairs], dtype=np.float64)


def _names(labels: Sequence[str]) -> list[list[str]]:
    return [json.loads(label) for label in labels]


def _matrix(lists: Sequence[Sequence[str]], classes: Sequence[str]) -> Array:
    """Mark the classes of each list: bool[N, C]."""
    return np.array([[name in {*names} for name in classes] for names in lists], dtype=bool).reshape(-1, len(classes))


def _features(true: Array, given: Array) -> Array:
    """Columns whose sums over rows give every metric: C right, C given, C true, list right, one."""
    exact = (true == given).all(1)[:, None]
    return np.hstack([true & given, given, true, exact, np.ones_like(exact)]).astype(np.float64)


def _features_of_answers(answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str]) -> Array:
    """Features float[N, 3C + 2]; labels that only one of two models knows don't count."""
    return _features(_matrix(_names(labels), classes), _matrix(answers["labels"].tolist(), classes))


def _micro_f1(sums: Array) -> Array:
    right, given, true = np.split(sums[:, :-2], 3, axis=1)
    return np.asarray(2 * right.sum(1) / np.maximum((given + true).sum(1), 1))


def _macro_f1(sums: Array) -> Array:
    """The mean over the classes that occur or are given."""
    right, given, true = np.split(sums[:, :-2], 3, axis=1)
    both = given + true
    f1 = np.divide(2 * right, both, out=np.zeros_like(right), where=both > 0)
    return np.asarray(f1.sum(1) / np.maximum((both > 0).sum(1), 1))


def _subset_accuracy(sums: Array) -> Array:
    return np.asarray(sums[:, -2] / sums[:, -1])


METRICS = (
    Metric(
        "micro_f1",
        features=_features_of_answers,
        figure=_micro_f1,
        title="Micro-F1",
        explanation="F1 over all labels of all rows",
    ),
    Metric(
        "macro_f1",
        features=_features_of_answers,
        figure=_macro_f1,
        title="Macro-F1",
        explanation="mean F1 of the classes",
    ),
    Metric(
        "subset_accuracy",
        features=_features_of_answers,
        figure=_subset_accuracy,
        explanation="share of rows whose labels are all right",
    ),
    Metric(MEAN_AVERAGE_PRECISION, title="mAP", explanation="mean over the labels of the average precision"),
)


def _metrics(sums: Array) -> dict[str, Array]:
    """The metrics float[R] of each row of sums."""
    return {metric.name: metric.figure(sums) for metric in METRICS if metric.figure}


def _mean_average_precision(true: Array, chances: Array) -> Callable[[Array], float]:
    """Mean over the classes that occur of the average precision on some rows, which may be drawn several times."""
    from sklearn.metrics import average_precision_score

    def on(rows: Array) -> float:
        some = true[rows]
        found = [average_precision_score(some[:, k], chances[rows, k]) for k in np.flatnonzero(some.any(0))]
        return float(np.mean(found)) if found else float("nan")

    return on


def _constant(training: Mapping[str, int], known: Sequence[str]) -> tuple[Array, Array]:
    """The constant answer with the highest micro-F1 on the training rows, bool[C], and the labels' shares, float[C]."""
    counts: Counter[str] = Counter()
    for label, number in training.items():
        counts.update(dict.fromkeys(json.loads(label), number))
    there, rows = np.array([counts[name] for name in known], dtype=np.float64), max(sum(training.values()), 1)
    order = np.argsort(-there, kind="stable")
    f1 = 2 * np.cumsum(there[order]) / (np.arange(1, len(known) + 1) * rows + there.sum())
    best = np.zeros(len(known), dtype=bool)
    best[order[: int(f1.argmax()) + 1]] = True
    return best, there / rows


def _per_class(true: Array, given: Array, known: Sequence[str]) -> pd.DataFrame:
    """Support, precision, recall and F1 of each class; 0 where a figure has no rows to stand on."""
    right, said, there = (true & given).sum(0), given.sum(0), true.sum(0)
    return pd.DataFrame(
        {
            "class": list(known),
            "support": there,
            "precision": right / np.maximum(said, 1),
            "recall": right / np.maximum(there, 1),
            "f1": 2 * right / np.maximum(said + there, 1),
        }
    )


def _mistakes(true: Array, given: Array, chances: Array, known: Sequence[str]) -> tuple[Mistake, ...]:
    """The rows with the surest wrong yes or no, and how sure it was."""
    sure = np.where(true != given, np.where(given, chances, 1 - chances), -1.0).max(1)
    ranked = [int(row) for row in np.argsort(-sure, kind="stable")[:MISTAKES] if sure[row] >= 0]
    names = np.array(known, dtype=object)

    def told(side: Array) -> str:
        return ", ".join(names[side]) or "nothing"

    return tuple(Mistake(row, told(true[row]), told(given[row]), float(sure[row])) for row in ranked)
