"""Linear models that stand beside a network: fitted on all rows but the test rows, and their answers by target."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from components.core.data.examples import Examples
from components.core.targets.regression import COVERED

Array: TypeAlias = np.ndarray[Any, Any]

MOST_FITTED = 20_000  # rows that a model is fitted on


def rows_of(examples: Examples) -> dict[str, list[int]]:
    """The rows that a simple model sees of each split: all to be answered, and so many that a fit takes seconds.

    Those that calibrate a network are validation rows here.
    """
    validation = examples.rows("validation") + examples.rows("calibrate")
    return {
        "train": examples.rows("train")[:MOST_FITTED],
        "validation": validation[:MOST_FITTED],
        "test": examples.rows("test"),
    }


def best_of(models: Sequence[Any], features: Mapping[str, Any], targets: Mapping[str, Any]) -> Any:  # noqa: ANN401 - estimators of scikit-learn share no type
    """Fit each on the training rows; the one that scores best on the validation rows."""
    fitted = [model.fit(features["train"], targets["train"]) for model in models]
    return max(fitted, key=lambda model: model.score(features["validation"], targets["validation"]))


def on_all(model: Any, features: Mapping[str, Any], targets: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as above
    """Fit the same model anew on the training and validation rows: the network has learned from both, too."""
    from scipy import sparse
    from sklearn.base import clone

    rows = [features["train"], features["validation"]]
    stacked = sparse.vstack(rows) if sparse.issparse(rows[0]) else np.concatenate(rows)
    return clone(model).fit(stacked, np.concatenate([targets["train"], targets["validation"]]))


def class_answers(model: Any, features: Any) -> pd.DataFrame:  # noqa: ANN401 - as above
    """A classifier's answers, as a network of classes gives them."""
    named = [dict(zip(model.classes_, map(float, row), strict=True)) for row in model.predict_proba(features)]
    return pd.DataFrame([{"label": max(row, key=row.__getitem__), "probabilities": row} for row in named])


def number_answers(found: Array, validated: Array, true: Array) -> pd.DataFrame:
    """A regression's answers, as a network of numbers gives them.

    Args:
        found: Its numbers float[n] for the test rows.
        validated: Its numbers float[m] for the validation rows, whose errors give the interval.
        true: Their labels float[m].
    """
    margin = np.quantile(np.abs(validated - true), COVERED)
    return pd.DataFrame({"number": found, "low": found - margin, "high": found + margin})


def label_answers(
    fit: Callable[[int], Any],
    features: Any,  # noqa: ANN401 - as above, also sparse
    there: Array,
    classes: Sequence[str],
    threshold: float,
) -> pd.DataFrame:
    """The answers of one classifier a label, as a network of several labels gives them.

    Args:
        fit: Returns the classifier of label k.
        features: Of the test rows.
        there: Whether each row that fits has each label, [n, C]: one that all or none has is not fitted.
        classes: Names of the labels.
        threshold: The probability from which a label is given.
    """
    chances = np.zeros((features.shape[0], len(classes)))
    for k in range(len(classes)):
        constant = len(set(there[:, k])) == 1  # nothing to tell apart
        chances[:, k] = there[0, k] if constant else fit(k).predict_proba(features)[:, 1]
    named = [dict(zip(classes, map(float, row), strict=True)) for row in chances]
    return pd.DataFrame(
        [{"labels": [name for name in row if row[name] >= threshold], "probabilities": row} for row in named]
    )
