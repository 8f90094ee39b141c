"""What the words of texts say alone, for each target."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components.core.contract.task import Target
from components.core.targets.classification import Classification
from components.core.targets.multilabel import MultiLabel
from components.core.targets.references import linear_models, tfidf
from components.core.targets.regression import Regression

TEXTS = ["good film", "bad film", "good dull tale", "bad dull tale"] * 12
LABELS: dict[str, list[str]] = {
    "classes": ["good" if "good" in text else "bad" for text in TEXTS],
    "number": [str(2.0 * ("good" in text) + ("dull" in text)) for text in TEXTS],
    "labels": [json.dumps([word for word in ("dull", "good") if word in text]) for text in TEXTS],
}


def examples(kind: str) -> Any:
    """Texts of which the first half trains, a quarter validates or calibrates and a quarter tests."""
    places = {"train": range(24), "validation": range(24, 30), "calibrate": range(30, 36), "test": range(36, 48)}
    return SimpleNamespace(
        rows=lambda split: list(places[split]),
        labels=lambda rows: [LABELS[kind][row] for row in rows],
        contents=lambda rows: [TEXTS[row].encode() for row in rows],
        classes=["dull", "good"],
    )


@pytest.mark.parametrize(
    ("kind", "target", "least"),
    [
        ("classes", Classification(), 1.0),
        ("number", Regression(0.0, 1.0, "mse"), 0.9),
        ("labels", MultiLabel(0.5), 1.0),
    ],
)
def test_words_that_decide_are_learnt(kind: str, target: Target, least: float) -> None:
    """Each target has its simple model, whose answers have the target's columns and are right on easy texts."""
    answered = tfidf.answers(examples(kind), target)
    assert answered is not None
    name, found = answered
    assert name.startswith("TF-IDF with ")
    assert set(found.columns) == set(target.answer.__annotations__)
    assert np.mean(target.scores(found, LABELS[kind][36:])) >= least


def test_a_label_that_all_have_is_always_given() -> None:
    """There is nothing to tell apart where every training text has a label, or none has it."""
    some = examples("labels")
    some.labels = lambda rows: ['["good"]' for _ in rows]
    answered = tfidf.answers(some, MultiLabel(0.5))
    assert answered is not None
    assert answered[1]["labels"].tolist() == [["good"]] * 12


def test_many_words_and_classes_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more words than a fit may weigh for all classes together, the most frequent ones stay."""
    seen = list[int]()

    def best_of(models: Any, features: Any, targets: Any) -> Any:
        seen.append(features["train"].shape[1])
        return linear_models.best_of(models, features, targets)

    monkeypatch.setattr(tfidf, "best_of", best_of)
    monkeypatch.setattr(tfidf, "MOST_WEIGHTS", 8)
    assert tfidf.answers(examples("classes"), Classification()) is not None
    assert seen == [4]


def test_texts_without_words_have_no_simple_model() -> None:
    """Emoji say something to a network; a model of words has nothing to stand on, and a run goes on without it."""
    some = examples("classes")
    some.contents = lambda rows: ["\N{GRINNING FACE}".encode() for _ in rows]
    assert tfidf.answers(some, Classification()) is None
