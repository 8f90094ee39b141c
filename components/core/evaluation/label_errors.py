"""Labels that look wrong: a classifier on frozen features contradicts them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.core.evaluation.features import FOLDS, MAX_FITTED_ROWS, MIN_ROWS, Array, out_of_sample
from components.core.evidence.paired_tests import units_of


@dataclass(frozen=True)
class Suspect:
    """A row whose label the classifier contradicts with confidence."""

    row: int  # position in the rows that were asked for
    label: str
    suggested: str
    probability: float  # of the suggested label


def suspects(rows: Array, labels: Sequence[str], groups: Sequence[str], seed: int = 0) -> list[Suspect]:
    """Rows whose label is probably wrong, the surest first, by confident learning (Northcutt et al. 2021).

    A row is suspect if another class is likelier for it than that class is, on average, for its own rows. None are
    where the groups are too few to fit on some and ask the others.

    Args:
        rows: Features float[n, d].
        labels: Classes of the rows; none where all are empty.
        groups: Of the rows; empty: the row stands alone.
        seed: Of the folds.
    """
    classes = sorted(set(labels))
    numbers = np.array([classes.index(label) for label in labels], dtype=np.int64)
    if len(rows) < MIN_ROWS or len(classes) < 2 or np.bincount(numbers).min() < FOLDS:  # noqa: PLR2004 - a choice
        return []
    some = np.random.default_rng(seed).permutation(len(rows))[:MAX_FITTED_ROWS]
    units = units_of([groups[i] for i in some], len(some))
    probabilities = out_of_sample(rows[some], numbers[some], units, seed)
    if probabilities is None:
        return []
    own = numbers[some]
    typical = np.array([probabilities[own == k, k].mean() if (own == k).any() else 1.0 for k in range(len(classes))])
    likely = np.where(probabilities >= typical, probabilities, 0.0)
    best = likely.argmax(axis=1)
    found = [
        Suspect(int(some[i]), classes[own[i]], classes[best[i]], float(probabilities[i, best[i]]))
        for i in range(len(some))
        if likely[i].max() > 0 and best[i] != own[i]
    ]
    return sorted(found, key=lambda suspect: (-suspect.probability, suspect.row))
