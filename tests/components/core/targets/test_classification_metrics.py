"""Figures of a classification, against hand-computed values and scikit-learn."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as peer

from components.core.targets import classification_metrics
from components.core.targets.evaluation import Evaluation

CLASSES = ["cat", "dog", "eel"]


def answers_of(probabilities: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Answers as the served model gives them."""
    return pd.DataFrame(
        {
            "label": [classes[number] for number in probabilities.argmax(1)],
            "probabilities": [dict(zip(classes, map(float, row), strict=True)) for row in probabilities],
        }
    )


def drawn(n: int, sharpness: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits[n, 5], and targets drawn from their softmax: calibrated at sharpness 1, too sure above."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, 5, generator=generator)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return logits * sharpness, targets


def evaluated(logits: torch.Tensor, targets: torch.Tensor) -> Evaluation:
    classes = [f"class {number}" for number in range(logits.shape[1])]
    labels = [classes[number] for number in targets]
    answers = answers_of(logits.double().softmax(1).numpy(), classes)
    return classification_metrics.evaluate(answers, labels, classes, dict.fromkeys(classes, 10))


@pytest.fixture
def small() -> Evaluation:
    """Five rows that can be computed by hand; right are the rows 0, 1 and 3."""
    probabilities = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.1, 0.9, 0.0], [0.0, 0.7, 0.3]])
    labels = ["cat", "cat", "dog", "dog", "eel"]
    return classification_metrics.evaluate(
        answers_of(probabilities, CLASSES), labels, CLASSES, {"cat": 2, "dog": 6, "eel": 2}
    )


def test_metrics_by_hand(small: Evaluation) -> None:
    """Every metric has its hand-computed value."""
    assert small.metrics == pytest.approx(
        {
            "accuracy": 3 / 5,
            "balanced_accuracy": (1 + 1 / 2 + 0) / 3,
            "macro_f1": (4 / 5 + 2 / 4 + 0) / 3,
            "log_loss": -np.log([0.8, 0.6, 0.4, 0.9, 0.3]).mean(),
            "brier": (0.06 + 0.26 + 0.62 + 0.02 + 0.98) / 5,
            "ece": (0.2 + 0.4 + 0.5 + 0.1 + 0.7) / 5,  # each row is alone in its bin
        }
    )


def test_baseline_by_hand(small: Evaluation) -> None:
    """The baseline answers the majority class of training, with the training frequencies as probabilities."""
    assert small.baseline == pytest.approx(
        {
            "accuracy": 2 / 5,
            "balanced_accuracy": 1 / 3,
            "macro_f1": (2 * 2 / 7) / 3,
            "log_loss": -np.log([0.2, 0.2, 0.6, 0.6, 0.2]).mean(),
            "brier": (3 * (0.8**2 + 0.6**2 + 0.2**2) + 2 * (0.2**2 + 0.4**2 + 0.2**2)) / 5,
            "ece": 0.2,
        }
    )


def test_tables_by_hand(small: Evaluation) -> None:
    """The per-class table, the confusion matrix and the mistakes belong to the same answers."""
    assert small.confusion is not None
    assert small.confusion.tolist() == [[2, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert small.per_class is not None
    assert small.per_class.columns.tolist() == ["class", "support", "precision", "recall", "f1"]
    assert small.per_class["support"].tolist() == [2, 2, 1]
    assert small.per_class["precision"].tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert [(m.row, m.label, m.predicted, m.probability) for m in small.mistakes] == [
        (4, "eel", "dog", 0.7),
        (2, "dog", "cat", 0.5),
    ]
    assert small.bound == pytest.approx(0.1893, abs=1e-4)


def test_metrics_agree_with_scikit_learn() -> None:
    """On 400 random rows the metrics are those of scikit-learn."""
    logits, targets = drawn(400, 1.5)
    result = evaluated(logits, targets)
    probabilities, true = logits.double().softmax(1).numpy(), targets.numpy()
    predicted = probabilities.argmax(1)
    expected = {
        "accuracy": peer.accuracy_score(true, predicted),
        "balanced_accuracy": peer.balanced_accuracy_score(true, predicted),
        "macro_f1": peer.f1_score(true, predicted, average="macro"),
        "log_loss": peer.log_loss(true, probabilities),
        "brier": peer.brier_score_loss(true, probabilities, scale_by_half=False),
    }
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected)
    assert result.confusion is not None
    assert np.array_equal(result.confusion, peer.confusion_matrix(true, predicted))


@pytest.mark.slow
def test_intervals_agree_with_resampling_by_hand() -> None:
    """Intervals of metrics that are no means are those of computing the metric anew on each resample."""
    logits, targets = drawn(60, seed=4)
    result, predicted = evaluated(logits, targets), logits.argmax(1).numpy()
    generator = np.random.default_rng(9)
    draws = [generator.integers(60, size=60) for _ in range(2000)]
    scores = [peer.f1_score(targets.numpy()[rows], predicted[rows], average="macro") for rows in draws[:600]]
    assert result.intervals["macro_f1"] == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])), abs=0.03)


def test_every_metric_has_an_interval() -> None:
    """Each headline number has an interval of some width, near it and free of NaN."""
    result = evaluated(*drawn(200))
    assert result.intervals.keys() == result.metrics.keys() == result.baseline.keys()
    for name, (low, high) in result.intervals.items():
        assert 0 <= low < high, name
        assert low - 0.05 <= result.metrics[name] <= high + 0.05, name


def test_calibration_error_is_zero_for_calibrated_answers() -> None:
    """Answers given with confidence 3/4 that are right three times of four have no calibration error."""
    probabilities = np.array([[0.75, 0.25]] * 8)
    result = classification_metrics.evaluate(
        answers_of(probabilities, ["a", "b"]), ["a"] * 6 + ["b"] * 2, ["a", "b"], {"a": 1, "b": 1}
    )
    assert result.metrics["ece"] == pytest.approx(0)
    assert result.reliability is not None
    assert result.reliability[["confidence", "right", "count"]].to_numpy().tolist() == [[0.75, 0.75, 8]]


def test_calibration_error_is_large_for_overconfident_answers() -> None:
    """Sharpening calibrated logits eight times makes an error near the share of wrong answers."""
    assert evaluated(*drawn(2000)).metrics["ece"] < 0.04
    sharp = evaluated(*drawn(2000, 8))
    assert sharp.metrics["ece"] == pytest.approx(1 - sharp.metrics["accuracy"], abs=0.06)


@pytest.mark.slow
def test_interval_of_the_calibration_error_covers_the_zero_of_calibrated_models() -> None:
    """Of 60 calibrated models at least 54 have an interval that holds 0, their true calibration error."""
    assert sum(evaluated(*drawn(60, seed=seed)).intervals["ece"][0] == 0 for seed in range(60)) >= 54


def test_interval_of_the_calibration_error_excludes_zero_for_overconfident_models() -> None:
    """A model whose logits are three times too large is told from a calibrated one on 200 rows."""
    for seed in range(10):
        low, high = evaluated(*drawn(200, 3, seed)).intervals["ece"]
        assert 0 < low < high


def test_a_class_absent_from_the_test_rows_does_not_count_in_balanced_accuracy() -> None:
    """Balanced accuracy is the mean over the classes that occur."""
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    result = classification_metrics.evaluate(
        answers_of(probabilities, CLASSES), ["cat", "dog"], CLASSES, dict.fromkeys(CLASSES, 3)
    )
    assert result.metrics["balanced_accuracy"] == 1.0
    assert result.metrics["macro_f1"] == 1.0


def test_a_label_that_is_no_class_counts_as_wrong() -> None:
    """A test label that the model can't answer is a mistake, not a crash."""
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    answers = answers_of(probabilities, CLASSES)
    result = classification_metrics.evaluate(answers, ["cat", "yak"], CLASSES, dict.fromkeys(CLASSES, 3))
    assert result.metrics["accuracy"] == 0.5
    assert result.metrics["balanced_accuracy"] == 0.5
    assert result.metrics["brier"] == pytest.approx((0.02 + 1 + 0.04 + 0.64) / 2)
    assert np.isfinite(result.metrics["log_loss"])
    assert result.confusion is not None
    assert result.confusion.shape == (3, 3)
    assert result.confusion.sum() == 1
    assert result.mistakes[0].label == "yak"
    assert classification_metrics.scores(answers, ["cat", "yak"]).tolist() == [1.0, 0.0]


def test_mistakes_are_the_most_confident_ones() -> None:
    """At most 24 mistakes are kept, the surest first."""
    result = evaluated(*drawn(500))
    sure = [mistake.probability for mistake in result.mistakes]
    assert len(sure) == 24
    assert sure == sorted(sure, reverse=True)


def test_evaluate_refuses_no_rows() -> None:
    with pytest.raises(ValueError, match="no test rows"):
        classification_metrics.evaluate(pd.DataFrame({"label": [], "probabilities": []}), [], CLASSES, {"cat": 1})


def test_sums_of_features_give_every_metric_that_may_decide() -> None:
    """A figure of the gate is the report's metric."""
    logits, targets = drawn(300, 1.5)
    classes = [f"class {number}" for number in range(5)]
    labels = [classes[number] for number in targets]
    answers = answers_of(logits.double().softmax(1).numpy(), classes)
    features = classification_metrics.features(answers, labels, classes)
    metrics = classification_metrics.evaluate(answers, labels, classes, dict.fromkeys(classes, 10)).metrics
    for metric in (one for one in classification_metrics.METRICS if one.may_decide):
        assert metric.figure(features.sum(0)[None])[0] == pytest.approx(metrics[metric.name]), metric.name


def test_an_answer_of_an_unknown_class_is_wrong_for_the_gate() -> None:
    """A challenger may answer with a class that the champion does not know."""
    answers = answers_of(np.array([[0.1, 0.2, 0.7], [0.9, 0.1, 0.0]]), CLASSES)
    features = classification_metrics.features(answers, ["cat", "cat"], ["cat", "dog"])
    assert classification_metrics.ACCURACY.figure(features.sum(0)[None])[0] == 0.5
