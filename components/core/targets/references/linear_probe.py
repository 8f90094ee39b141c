"""The plain linear probe: what scikit-learn's defaults make of the frozen network's features, without any search.

Classes have multinomial logistic regression (L-BFGS, C = 1), several labels one logistic regression each, numbers ridge
regression whose penalty is the number of features: under that prior all of them together explain as much as the noise.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from components.core.contract.task import Target
from components.core.inference import classification, multilabel, regression
from components.core.targets.references.linear_models import MOST_FITTED, class_answers, label_answers, number_answers

Array: TypeAlias = np.ndarray[Any, Any]
Splits: TypeAlias = Mapping[str, Array]  # features float[n, d] of train, validation and test
Labels: TypeAlias = Mapping[str, Sequence[str]]  # of train and validation

ITERATIONS = 100  # of L-BFGS, scikit-learn's default: stopped there, it has converged but for the last digits
MOST_PRODUCTS = 500_000  # rows x labels that are fitted: each label is a fit of its own
FITTED = "fitted"  # the training and the validation rows, one behind the other


class NoProbeError(Exception):
    """The data allow no linear probe; the message is the reason."""


def has_probe(target: Target) -> bool:
    """Return whether there is a linear probe for the target: for classes, several labels and numbers."""
    return target.answer in _FITS


def probe(features: Splits, labels: Labels, target: Target, classes: Sequence[str]) -> pd.DataFrame:
    """Fit on the standardized features of at most 20,000 training and validation rows; answer the test rows.

    Features that are not finite in some row, or constant in those that fit, are left out. The interval of a number is
    that of a fit on the training rows alone, by its errors on the validation rows.

    Args:
        features: Of the pretrained network, in the order of the rows.
        labels: As the dataset has them.
        target: One that has a probe, see `has_probe`.
        classes: Names of the labels, in the order of the network's outputs.

    Raises:
        NoProbeError: No feature is left, the labels are not what the target's answers are made of, or all rows that fit
            have one class.
    """
    rows = MOST_FITTED if target.answer is not multilabel.Answer else min(MOST_FITTED, MOST_PRODUCTS // len(classes))
    fitted = {**features, FITTED: np.concatenate([features["train"][:rows], features["validation"][:rows]])[:rows]}
    known = {**labels, FITTED: [*labels["train"][:rows], *labels["validation"]][:rows]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that stop early
        return _FITS[target.answer](standardized(fitted), known, target, classes)


def standardized(features: Splits) -> dict[str, Array]:
    """Features less their mean over the rows that fit, by their deviation there; see `probe` for what is left out.

    Raises:
        NoProbeError: No feature is left.
    """
    from sklearn.preprocessing import StandardScaler

    fitted = features[FITTED]
    kept = np.logical_and.reduce([np.isfinite(rows).all(0) for rows in features.values()])
    if len(fitted):
        kept &= fitted.max(0) > fitted.min(0)
    if not len(fitted) or not kept.any():
        raise NoProbeError("no feature of the network is finite and varies")
    scaler = StandardScaler().fit(fitted[:, kept])
    return {split: np.asarray(scaler.transform(rows[:, kept])) for split, rows in features.items()}


def _classes(features: Splits, labels: Labels, _target: Target, classes: Sequence[str]) -> pd.DataFrame:
    known = {*labels[FITTED]}
    if not known <= {*classes}:
        raise NoProbeError("the labels are not the names of classes")
    if len(known) == 1:
        raise NoProbeError(f"all rows but the test rows are {known.pop()}")
    return class_answers(_logistic().fit(features[FITTED], list(labels[FITTED])), features["test"])


def _labels(features: Splits, labels: Labels, target: Target, classes: Sequence[str]) -> pd.DataFrame:
    there = np.asarray(target.targets(labels[FITTED], classes))
    if there.shape != (len(features[FITTED]), len(classes)):
        raise NoProbeError("the labels are not a yes or no for each class")

    def fit(k: int) -> Any:  # noqa: ANN401 - an estimator of scikit-learn
        return _logistic().fit(features[FITTED], there[:, k] > 0)

    return label_answers(fit, features["test"], there > 0, classes, getattr(target, "threshold", 0.5))


def _numbers(features: Splits, labels: Labels, _target: Target, _classes: Sequence[str]) -> pd.DataFrame:
    from sklearn.linear_model import Ridge

    try:
        true = {split: np.array(some, dtype=np.float64) for split, some in labels.items()}
    except ValueError:
        raise NoProbeError("the labels are not numbers") from None

    def answers(fitted: str, asked: str) -> Array:
        model = Ridge(alpha=features[fitted].shape[1]).fit(features[fitted][:MOST_FITTED], true[fitted][:MOST_FITTED])
        return np.asarray(model.predict(features[asked]), dtype=np.float64)

    return number_answers(answers(FITTED, "test"), answers("train", "validation"), true["validation"])


def _logistic() -> Any:  # noqa: ANN401 - estimators of scikit-learn share no type
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=ITERATIONS)


_FITS: Mapping[type, Callable[[Splits, Labels, Target, Sequence[str]], pd.DataFrame]] = {
    classification.Answer: _classes,
    multilabel.Answer: _labels,
    regression.Answer: _numbers,
}
