"""Linear models that stand beside a network: fitted on the training rows, chosen by the validation rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from components.core.data.examples import Examples

MOST_FITTED = 20_000  # rows that a model is fitted on


def rows_of(examples: Examples) -> dict[str, list[int]]:
    """The rows that a simple model sees of each split: all to be answered, and so many that a fit takes seconds."""
    fitted = {split: examples.rows(split)[:MOST_FITTED] for split in ("train", "validation")}
    return {**fitted, "test": examples.rows("test")}


def best_of(models: Sequence[Any], features: Mapping[str, Any], targets: Mapping[str, Any]) -> Any:  # noqa: ANN401 - estimators of scikit-learn share no type
    """Fit each on the training rows; the one that scores best on the validation rows."""
    fitted = [model.fit(features["train"], targets["train"]) for model in models]
    return max(fitted, key=lambda model: model.score(features["validation"], targets["validation"]))


def class_answers(model: Any, features: Any) -> pd.DataFrame:  # noqa: ANN401 - as above
    """A classifier's answers, as a network of classes gives them."""
    named = [dict(zip(model.classes_, map(float, row), strict=True)) for row in model.predict_proba(features)]
    return pd.DataFrame([{"label": max(row, key=row.__getitem__), "probabilities": row} for row in named])
