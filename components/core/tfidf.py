"""What texts can be answered by their words alone: TF-IDF with a linear model, to stand beside a network."""

from typing import Any

import numpy as np
import pandas as pd

from components.core import texts
from components.core.examples import Examples
from components.core.regression import COVERED
from components.tasks import Target

MOST_FITTED = 20_000  # rows that the simple model is fitted on
STRENGTHS = (1.0, 10.0, 100.0)  # of the fit, against its regularisation; the validation rows choose


def answers(examples: Examples, target: Target) -> tuple[str, pd.DataFrame]:
    """TF-IDF of words and pairs of words with logistic regression, or ridge regression for numbers."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = {split: examples.rows(split)[:MOST_FITTED] for split in ("train", "validation")}
    rows["test"] = examples.rows("test")
    labels = {split: examples.labels(some) for split, some in rows.items()}
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    words = {
        split: getattr(vectorizer, "fit_transform" if split == "train" else "transform")(
            [texts.decode(content) for content in examples.contents(some)]
        )
        for split, some in rows.items()
    }
    if "number" in target.answer.__annotations__:
        return "TF-IDF with ridge regression", _numbers(words, labels)
    if "labels" in target.answer.__annotations__:
        return "TF-IDF with logistic regression", _labels(words, labels, target, examples.classes)
    return "TF-IDF with logistic regression", _classes(words, labels)


def _classes(words: dict[str, Any], labels: dict[str, list[str]]) -> pd.DataFrame:
    from sklearn.linear_model import LogisticRegression

    models = [LogisticRegression(C=c, max_iter=1000).fit(words["train"], labels["train"]) for c in STRENGTHS]
    best = max(models, key=lambda model: model.score(words["validation"], labels["validation"]))
    named = [dict(zip(best.classes_, map(float, row), strict=True)) for row in best.predict_proba(words["test"])]
    return pd.DataFrame([{"label": max(row, key=row.__getitem__), "probabilities": row} for row in named])


def _numbers(words: dict[str, Any], labels: dict[str, list[str]]) -> pd.DataFrame:
    from sklearn.linear_model import Ridge

    true = {split: np.array(some, dtype=np.float64) for split, some in labels.items()}
    models = [Ridge(alpha=1 / strength).fit(words["train"], true["train"]) for strength in STRENGTHS]
    best = max(models, key=lambda model: model.score(words["validation"], true["validation"]))
    margin = np.quantile(np.abs(best.predict(words["validation"]) - true["validation"]), COVERED)
    found = best.predict(words["test"])
    return pd.DataFrame({"number": found, "low": found - margin, "high": found + margin})


def _labels(words: dict[str, Any], labels: dict[str, list[str]], target: Target, classes: list[str]) -> pd.DataFrame:
    from sklearn.linear_model import LogisticRegression

    true = {split: target.targets(some, classes).numpy() for split, some in labels.items()}
    chances = np.zeros((words["test"].shape[0], len(classes)))
    for k in range(len(classes)):
        there = true["train"][:, k]
        if len(set(there)) == 1:  # nothing to tell apart
            chances[:, k] = there[0]
            continue
        models = [LogisticRegression(C=c, max_iter=1000).fit(words["train"], there) for c in STRENGTHS]
        best = max(models, key=lambda model: model.score(words["validation"], true["validation"][:, k]))
        chances[:, k] = best.predict_proba(words["test"])[:, 1]
    named = [dict(zip(classes, map(float, row), strict=True)) for row in chances]
    return pd.DataFrame(
        [{"labels": [name for name in row if row[name] >= 0.5], "probabilities": row} for row in named]  # noqa: PLR2004 - likelier than not
    )
