"""Examine data by the frozen network: whether new ones differ from old ones, and which labels look wrong.

Both ask a linear classifier on the features below the head, which training has kept already. Its answers are out of
sample: no row, and no row of its group, is among those that its classifier was fitted on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from components.core.evaluation.features import MAX_FITTED_ROWS, MIN_ROWS, Array, out_of_sample
from components.core.evaluation.label_errors import Suspect, suspects
from components.core.evidence.intervals import exact_interval
from components.core.evidence.paired_tests import units_of
from components.core.fitting.data import Data
from components.core.training.checkpoints import TrainingRows

QUANTILE = 0.95  # share of the old rows that may not be taken for new ones


@dataclass(frozen=True)
class Drift:
    """The share of new rows that a classifier tells apart from the old ones; 0.05 is chance."""

    share: float
    low: float
    high: float
    new: int
    old: int


@dataclass(frozen=True)
class Insight:
    """Drift and suspicious labels of a dataset."""

    drift: Drift | None
    suspects: Sequence[Suspect]
    places: Sequence[int]  # positions in the index of the rows that the suspects' numbers count


def examine(data: Data, features: Mapping[str, Array] | None, trained_on: TrainingRows | None) -> Insight:
    """Look at the rows that train and validate.

    Args:
        data: The prepared data.
        features: Of the pretrained network for both splits; None: there is nothing to look at.
        trained_on: What the champion was trained on; None without a champion.
    """
    if features is None:
        return Insight(None, [], [])
    splits = ("train", "validation")
    rows = np.concatenate([features[split] for split in splits])
    places = [place for split in splits for place in data.rows[split]]
    groups: list[str] = data.examples.column("group", places)
    found = None
    if trained_on and trained_on.fingerprints:
        known = np.array([id_ in trained_on.fingerprints for id_ in data.examples.ids(places)], dtype=bool)
        order = [*np.flatnonzero(known), *np.flatnonzero(~known)]
        found = drift(rows[known], rows[~known], [groups[i] for i in order], data.settings.seed)
    return Insight(
        found, suspects(rows, data.target.strata(data.examples.labels(places)), groups, data.settings.seed), places
    )


def drift(old: Array, new: Array, groups: Sequence[str], seed: int = 0) -> Drift | None:
    """The share of new rows that a domain classifier tells from old ones (Lopez-Paz & Oquab 2017), with its interval.

    A new row is told apart if its score is above that of 95% of the old rows; without a difference 5% are. The
    interval is the exact 95% one of a proportion.

    Args:
        old: Features float[n, d] of rows that the champion was trained on.
        new: Features float[m, d] of rows that came later.
        groups: Of the old rows, then of the new ones; empty: the row stands alone.
        seed: Of the folds and of the choice of rows, where there are very many.

    Returns:
        None with fewer than 20 rows on a side, or too few groups to fit on some and ask the others.
    """
    if min(len(old), len(new)) < MIN_ROWS:
        return None
    generator = np.random.default_rng(seed)
    picks = [generator.permutation(len(side))[: MAX_FITTED_ROWS // 2] for side in (old, new)]
    rows = np.concatenate([old[picks[0]], new[picks[1]]])
    domain = np.repeat([0, 1], [len(picks[0]), len(picks[1])])
    places = np.concatenate([picks[0], len(old) + picks[1]])
    answers = out_of_sample(rows, domain, units_of([groups[i] for i in places], len(places)), seed)
    if answers is None:
        return None
    scores = answers[:, 1]
    told = int((scores[domain == 1] > np.quantile(scores[domain == 0], QUANTILE)).sum())
    count = len(picks[1])
    return Drift(told / count, *exact_interval(told, count), new=len(new), old=len(old))
