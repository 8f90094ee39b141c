"""Figures of a classifier on test rows: with intervals for the report, per row and as sums for comparisons."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse

from components.core.evidence.intervals import bootstrap_sums, exact_lower_bound, interval
from components.core.targets.evaluation import Evaluation, Mistake

Array: TypeAlias = np.ndarray[Any, Any]

BINS = 15  # of the calibration error, equal in width, as in Guo et al. 2017
CALIBRATED_DRAWS = 1000  # of the test for calibration; they cost 0.1 s for 10,000 rows
MISTAKES = 24  # thumbnails that the report has room for
LEAST = float(np.finfo(np.float64).eps)  # probabilities are raised to it before the logarithm, as scikit-learn does
# Metrics that may decide: 1 where higher is better, else -1.
GATE_METRICS = {"accuracy": 1, "balanced_accuracy": 1, "macro_f1": 1, "log_loss": -1, "brier": -1}


def scores(answers: pd.DataFrame, labels: Sequence[str]) -> Array:
    """1.0 for each row answered right, else 0.0: float[N]."""
    return np.asarray(answers["label"].to_numpy() == np.asarray(labels, dtype=object), dtype=np.float64)


def gate_features(answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str]) -> Array:
    """What `gate_figure` needs of each row, float[N, k]: the figure is a function of its sums over rows.

    Args:
        answers: A row per test row: `label`, and `probabilities`, a dict from class to probability.
        labels: The true labels, all of them among the classes.
        classes: That both models of a comparison know; an answer that is none of them is wrong.
    """
    known, unknown = {*classes}, "\0"
    given = [label if label in known else unknown for label in answers["label"]]
    columns = [*classes, unknown]
    features = _features(_codes(labels, columns), _codes(given, columns), _probabilities(answers, columns))
    return np.asarray(features.toarray())


def gate_figure(metric: str, classes: Sequence[str]) -> Callable[[Array], Array]:
    """A metric of `GATE_METRICS` as a function of sums of `gate_features` float[R, k]: float[R]."""
    return lambda sums: _metrics(sums, len(classes) + 1)[metric]


def evaluate(
    answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str], training: Mapping[str, int]
) -> Evaluation:
    """Everything the report says of the served model's answers on the test rows.

    Each metric has a 95 % bootstrap interval over rows. The baseline answers every row with the majority class of the
    training labels, and with their frequencies as probabilities. Balanced accuracy is the mean recall of the classes
    that occur in `labels`; macro-F1 also counts classes that only occur in answers; the Brier score sums over the
    classes (Brier 1950), so it lies between 0 and 2. A label that is not among the classes counts as a wrong answer
    given with probability 0; it has a row in `per_class`, none in `confusion`.

    Args:
        answers: A row per test row: `label`, and `probabilities`, a dict from class to probability.
        labels: The true labels.
        classes: In the order of the model's outputs.
        training: How many training rows each class has.

    Raises:
        ValueError: There are no test rows.
    """
    if len(labels) == 0:
        raise ValueError("there are no test rows to evaluate on")
    known = [*classes, *sorted((set(labels) | set(answers["label"])) - set(classes))]
    true, predicted = _codes(labels, known), _codes(answers["label"].tolist(), known)
    probabilities = _probabilities(answers, known)
    features = _features(true, predicted, probabilities)
    confidence = _confidence(predicted, probabilities)
    totals = np.asarray(features.sum(axis=0))
    metrics = {name: float(value[0]) for name, value in _metrics(totals[None], len(known)).items()}
    size = len(classes)
    confusion = np.bincount(true * len(known) + predicted, minlength=len(known) ** 2).reshape(len(known), len(known))
    return Evaluation(
        metrics=metrics,
        intervals=_intervals(features, len(known), metrics, confidence),
        baseline=_baseline(true, known, training),
        bound=exact_lower_bound(int((true == predicted).sum()), len(true)),
        per_class=_per_class(totals, known),
        confusion=confusion[:size, :size],
        reliability=_reliability(true == predicted, confidence),
        mistakes=_mistakes(true, predicted, probabilities, known),
    )


def _codes(labels: Sequence[str], known: Sequence[str]) -> Array:
    """Position of each label among the known ones: int[N]."""
    numbers = {name: number for number, name in enumerate(known)}
    return np.array([numbers[label] for label in labels], dtype=np.int64)


def _probabilities(answers: pd.DataFrame, known: Sequence[str]) -> Array:
    """The answers' probabilities float[N, K]; 0 where an answer has none."""
    return np.array([[row.get(name, 0.0) for name in known] for row in answers["probabilities"]], dtype=np.float64)


def _confidence(predicted: Array, probabilities: Array) -> Array:
    """Probability of the answer that was given: float[N]."""
    return np.asarray(probabilities[np.arange(len(predicted)), predicted])


def _bins(confidence: Array) -> Array:
    """Number of each row's calibration bin: int[N]."""
    return np.clip((confidence * BINS).astype(np.int64), 0, BINS - 1)


def _features(true: Array, predicted: Array, probabilities: Array) -> sparse.csr_array:
    """Columns whose sums over rows give every metric: log loss, Brier, K true, K predicted, K right, gap per bin.

    A bootstrap resample then costs one sparse product instead of each metric over again.
    """
    rows, size = np.arange(len(true)), probabilities.shape[1]
    right = true == predicted
    confidence = _confidence(predicted, probabilities)
    log_loss = -np.log(np.clip(probabilities[rows, true], LEAST, 1.0))
    brier = (probabilities**2).sum(1) - 2 * probabilities[rows, true] + 1

    def spread(values: Array, columns: Array, width: int) -> sparse.csr_array:
        return sparse.csr_array((values, (rows, columns)), shape=(len(rows), width))

    ones = np.ones(len(rows))
    return sparse.hstack(
        [
            sparse.csr_array(np.stack([log_loss, brier], axis=1)),
            spread(ones, true, size),
            spread(ones, predicted, size),
            spread(right.astype(np.float64), true, size),
            spread(confidence - right, _bins(confidence), BINS),
        ],
        format="csr",
    )


def _unpack(sums: Array, size: int) -> tuple[Array, Array, Array, Array, Array]:
    """The parts of the sums [R, 2 + 3K + bins]: the two losses, then true, predicted and right per class, gaps."""
    losses, support, predicted, right, gaps = np.split(sums, [2, 2 + size, 2 + 2 * size, 2 + 3 * size], axis=1)
    return losses, support, predicted, right, gaps


def _metrics(sums: Array, size: int) -> dict[str, Array]:
    """The metrics float[R] of each row of sums."""
    losses, support, predicted, right, gaps = _unpack(sums, size)
    rows = support.sum(1)
    occurs = support > 0
    recall = np.divide(right, support, out=np.zeros_like(right), where=occurs)
    f1 = np.divide(2 * right, support + predicted, out=np.zeros_like(right), where=support + predicted > 0)
    return {
        "accuracy": right.sum(1) / rows,
        "balanced_accuracy": recall.sum(1) / occurs.sum(1),
        "macro_f1": f1.sum(1) / (support + predicted > 0).sum(1),
        "log_loss": losses[:, 0] / rows,
        "brier": losses[:, 1] / rows,
        "ece": np.abs(gaps).sum(1) / rows,
    }


def _intervals(
    features: sparse.csr_array, size: int, metrics: Mapping[str, float], confidence: Array
) -> dict[str, tuple[float, float]]:
    """Bootstrap interval of each metric: percentile; for ECE see `_ece_interval`."""
    resampled = _metrics(bootstrap_sums(features), size)
    intervals = {name: interval(values) for name, values in resampled.items()}
    return intervals | {"ece": _ece_interval(metrics["ece"], resampled["ece"], confidence)}


def _ece_interval(ece: float, resampled: Array, confidence: Array) -> tuple[float, float]:
    """Basic bootstrap interval of ECE, down to 0 where calibrated answers would show as much by chance.

    Noise only raises ECE and resampling adds noise, so percentiles never reach the 0 of a calibrated model. The basic
    interval takes that bias out but still misses 0 about half the time; hence the test for calibration (consistency
    resampling, Broecker & Smith 2007): each answer is drawn right with the probability that it claims. In 120 to 300
    simulations each, at 47, 200 and 1,000 rows, the result held the truth in 95 to 97 % for calibrated models, but in
    85 to 94 % only, short of the nominal 95 %, for models whose logits were 1.2 to 3 times too large.
    """
    generator, bins = np.random.default_rng(0), _bins(confidence)
    members = sparse.csr_array((np.ones(len(bins)), (bins, np.arange(len(bins)))), shape=(BINS, len(bins)))
    gaps = [members @ (confidence - (generator.random(len(confidence)) < confidence)) for _ in range(CALIBRATED_DRAWS)]
    chance = float(np.quantile(np.abs(gaps).sum(1) / len(confidence), 0.95))
    low, high = interval(resampled, method="basic", point=ece)
    return (0.0 if ece <= chance else max(low, 0.0), max(high, 0.0))


def _baseline(true: Array, known: Sequence[str], training: Mapping[str, int]) -> dict[str, float]:
    """The same metrics of a model that knows nothing but the training labels' frequencies."""
    counts = np.array([training.get(name, 0) for name in known], dtype=np.float64)
    majority = np.full(len(true), counts.argmax())
    prior = np.broadcast_to(counts / max(counts.sum(), 1.0), (len(true), len(known)))
    sums = np.asarray(_features(true, majority, prior).sum(axis=0))
    return {name: float(value[0]) for name, value in _metrics(sums[None], len(known)).items()}


def _per_class(totals: Array, known: Sequence[str]) -> pd.DataFrame:
    """Support, precision, recall and F1 of each class; 0 where a figure has no rows to stand on."""
    _, support, predicted, right, _ = (part[0] for part in _unpack(totals[None], len(known)))
    return pd.DataFrame(
        {
            "class": list(known),
            "support": support.astype(np.int64),
            "precision": right / np.maximum(predicted, 1),
            "recall": right / np.maximum(support, 1),
            "f1": 2 * right / np.maximum(support + predicted, 1),
        }
    )


def _reliability(right: Array, confidence: Array) -> pd.DataFrame:
    """Mean confidence and accuracy of each calibration bin that has rows."""
    rows = pd.DataFrame({"bin": _bins(confidence), "confidence": confidence, "accuracy": right.astype(np.float64)})
    groups = rows.groupby("bin", as_index=False)
    return groups.agg(confidence=("confidence", "mean"), accuracy=("accuracy", "mean"), count=("accuracy", "size"))


def _mistakes(true: Array, predicted: Array, probabilities: Array, known: Sequence[str]) -> tuple[Mistake, ...]:
    """The wrong answers given with most confidence."""
    confidence = _confidence(predicted, probabilities)
    wrong = np.flatnonzero(true != predicted)
    ranked = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    return tuple(
        Mistake(
            row=int(row), label=known[true[row]], predicted=known[predicted[row]], probability=confidence[row].item()
        )
        for row in ranked
    )
