"""Linear models that stand beside a network."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression

from components.core.targets.references.linear_models import best_of, class_answers, on_all

FEATURES = {split: np.array([[-2.0], [-1.0], [1.0], [2.0]]) for split in ("train", "validation")}
LABELS = {split: ["low", "low", "high", "high"] for split in FEATURES}


def test_the_validation_rows_choose() -> None:
    """Of two models the one that answers the validation rows better is taken, whatever their order."""
    weak, strong = DummyClassifier(strategy="most_frequent"), LogisticRegression(C=10.0)
    assert best_of([weak, strong], FEATURES, LABELS) is strong
    assert best_of([strong, weak], FEATURES, LABELS) is strong


@pytest.mark.parametrize("kind", [np.asarray, csr_matrix])
def test_what_was_chosen_learns_from_the_validation_rows_too(kind: Callable[[Any], Any]) -> None:
    """The model is fitted anew on both, dense or sparse, and the one that was chosen stays as it was."""
    features = {"train": kind([[0.0], [1.0], [2.0]]), "validation": kind([[3.0], [4.0]])}
    targets = {"train": np.array([0.0, 0.0, 0.0]), "validation": np.array([5.0, 5.0])}
    chosen = best_of([DummyRegressor()], features, targets)
    assert on_all(chosen, features, targets).predict([[0.0]]) == pytest.approx([2.0])
    assert chosen.predict([[0.0]]) == pytest.approx([0.0])


def test_answers_are_labels_with_probabilities() -> None:
    """The label is the most probable class, and the probabilities of a row sum to 1."""
    model = best_of([LogisticRegression(C=10.0)], FEATURES, LABELS)
    answers = class_answers(model, np.array([[-3.0], [3.0]]))
    assert answers["label"].tolist() == ["low", "high"]
    assert answers["probabilities"][0]["low"] > 0.9
    assert sum(answers["probabilities"][1].values()) == pytest.approx(1.0)
