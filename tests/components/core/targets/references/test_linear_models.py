"""Linear models that stand beside a network."""

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression

from components.core.targets.references.linear_models import best_of, class_answers

FEATURES = {split: np.array([[-2.0], [-1.0], [1.0], [2.0]]) for split in ("train", "validation")}
LABELS = {split: ["low", "low", "high", "high"] for split in FEATURES}


def test_the_validation_rows_choose() -> None:
    """Of two models the one that answers the validation rows better is taken, whatever their order."""
    weak, strong = DummyClassifier(strategy="most_frequent"), LogisticRegression(C=10.0)
    assert best_of([weak, strong], FEATURES, LABELS) is strong
    assert best_of([strong, weak], FEATURES, LABELS) is strong


def test_answers_are_labels_with_probabilities() -> None:
    """The label is the most probable class, and the probabilities of a row sum to 1."""
    model = best_of([LogisticRegression(C=10.0)], FEATURES, LABELS)
    answers = class_answers(model, np.array([[-3.0], [3.0]]))
    assert answers["label"].tolist() == ["low", "high"]
    assert answers["probabilities"][0]["low"] > 0.9
    assert sum(answers["probabilities"][1].values()) == pytest.approx(1.0)
