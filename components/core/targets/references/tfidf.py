"""TF-IDF with a linear model, for comparison with a network."""

from typing import Any

import numpy as np
import pandas as pd

from components.core.data.examples import Examples
from components.core.inference import texts
from components.core.targets.multilabel import MultiLabel
from components.core.targets.options import Chosen
from components.core.targets.references.linear_models import (
    best_of,
    class_answers,
    label_answers,
    number_answers,
    on_all,
    rows_of,
)

MOST_WEIGHTS = 4_000_000  # of a fit, which takes 160 bytes for each: beyond it the rarest words go
STRENGTHS = (1.0, 10.0, 100.0)  # of the fit, against its regularisation; the validation rows choose


def answers(examples: Examples, target: Chosen) -> tuple[str, pd.DataFrame] | None:
    """TF-IDF of words and pairs of words with logistic regression, or ridge regression for numbers.

    None where the training texts hold no word of two letters, as where all are emoji.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = rows_of(examples)
    labels = {split: examples.labels(some) for split, some in rows.items()}
    most = max(1, MOST_WEIGHTS // len(examples.classes))
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=most)
    said = {split: [texts.decode(content) for content in examples.contents(some)] for split, some in rows.items()}
    find = vectorizer.build_analyzer()
    if not any(find(text) for text in said["train"]):
        return None
    vectorizer.fit(said["train"])
    words = {split: vectorizer.transform(some) for split, some in said.items()}
    if "number" in target.answer.__annotations__:
        return "TF-IDF with ridge regression", _numbers(words, labels)
    if "labels" in target.answer.__annotations__:
        return "TF-IDF with logistic regression", _labels(words, labels, target, examples.classes)
    return "TF-IDF with logistic regression", _classes(words, labels)


def _classes(words: dict[str, Any], labels: dict[str, list[str]]) -> pd.DataFrame:
    return class_answers(on_all(best_of(_logistic(), words, labels), words, labels), words["test"])


def _logistic() -> list[Any]:
    from sklearn.linear_model import LogisticRegression

    return [LogisticRegression(C=strength, max_iter=1000) for strength in STRENGTHS]


def _numbers(words: dict[str, Any], labels: dict[str, list[str]]) -> pd.DataFrame:
    from sklearn.linear_model import Ridge

    true = {split: np.array(some, dtype=np.float64) for split, some in labels.items()}
    best = best_of([Ridge(alpha=1 / strength) for strength in STRENGTHS], words, true)
    found = on_all(best, words, true).predict(words["test"])
    return number_answers(found, best.predict(words["validation"]), true["validation"])


def _labels(words: dict[str, Any], labels: dict[str, list[str]], target: Chosen, classes: list[str]) -> pd.DataFrame:
    true = {split: target.targets(some, classes).numpy() for split, some in labels.items()}
    threshold = target.threshold if isinstance(target, MultiLabel) else 0.5

    def fit(k: int) -> Any:  # noqa: ANN401 - as above
        one = {split: some[:, k] for split, some in true.items()}
        return on_all(best_of(_logistic(), words, one), words, one)

    return label_answers(fit, words["test"], true["train"], classes, threshold)
