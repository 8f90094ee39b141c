"""What the frozen network says of the data: whether new ones differ from old ones, and which labels look wrong.

Both ask a linear classifier on the features below the head, which training has kept already. Its answers are out of
sample: no row, and no row of its group, is among those that its classifier was fitted on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils._pytree import tree_leaves

from components.core.activations.passes import Progress
from components.core.activations.rows import Rows
from components.core.evidence.intervals import exact_interval
from components.core.evidence.paired_tests import units_of
from components.core.networks.network import Network
from components.core.training.checkpoints import TrainingRows
from components.core.training.phase import Data, Say, base_network, rows_at

Array: TypeAlias = np.ndarray[Any, Any]

FOLDS, LEAST = 5, 20  # folds of the cross-validation; rows that a statement needs
MOST = 10_000  # rows that a classifier is fitted on: it costs seconds for these
QUIET = 0.95  # share of the old rows that may not be taken for new ones


@dataclass(frozen=True)
class Drift:
    """How many of the new rows a classifier tells from the old ones; 0.05 is chance."""

    share: float
    low: float
    high: float
    new: int
    old: int


@dataclass(frozen=True)
class Suspect:
    """A row whose label the classifier contradicts with confidence."""

    row: int  # position in the rows that were asked for
    label: str
    suggested: str
    probability: float  # of the suggested label


@dataclass(frozen=True)
class Insight:
    """What the features say of a dataset."""

    drift: Drift | None
    suspects: Sequence[Suspect]
    places: Sequence[int]  # positions in the index of the rows that the suspects' numbers count


def examine(data: Data, trained_on: TrainingRows | None, say: Say, progress: Progress) -> Insight:
    """Look at the rows that train and validate, by the pretrained network: a trained one knows its own rows.

    Args:
        data: The prepared data.
        trained_on: What the champion was trained on; None without a champion.
        say: Takes one line for each decision to keep or recompute activations.
        progress: Called with examples done, in total, and what is done.
    """
    splits, network = ("train", "validation"), base_network(data, data.settings.defaults())
    rows = np.concatenate([features(network, data, split, say, progress) for split in splits])
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


def features(network: Network, data: Data, split: str, say: Say, progress: Progress) -> Array:
    """Features below the head of a network for a split, float[N, d]; read where they are kept."""
    line = len(network.stages)
    return flattened(rows_at(network, data, {line: 2.0}, split, say, progress)[line])


def flattened(rows: Rows) -> Array:
    """Activations as float[N, d]: of a sequence [N, T, d] the mean of its steps, for all of them would fill memory."""
    parts = [
        torch.cat([_row(leaf.float()) for leaf in tree_leaves(rows[start : start + 1024])], dim=1)
        for start in range(0, len(rows), 1024)
    ]
    return np.asarray(torch.cat(parts).cpu().numpy()) if parts else np.zeros((0, 1), dtype=np.float32)


def _row(leaf: Tensor) -> Tensor:
    return leaf.mean(1) if leaf.dim() == 3 else leaf.reshape(len(leaf), -1)  # noqa: PLR2004 - [N, T, d]


def drift(old: Array, new: Array, groups: Sequence[str], seed: int = 0) -> Drift | None:
    """The share of new rows that a domain classifier tells from old ones (Lopez-Paz & Oquab 2017), with its interval.

    A new row is told apart if its score is above that of 95 % of the old rows; without a difference 5 % are. The
    interval is the exact 95 % one of a proportion.

    Args:
        old: Features float[n, d] of rows that the champion was trained on.
        new: Features float[m, d] of rows that came later.
        groups: Of the old rows, then of the new ones; empty: the row stands alone.
        seed: Of the folds and of the choice of rows, where there are very many.

    Returns:
        None with fewer than 20 rows on a side, or too few groups to fit on some and ask the others.
    """
    if min(len(old), len(new)) < LEAST:
        return None
    generator = np.random.default_rng(seed)
    picks = [generator.permutation(len(side))[: MOST // 2] for side in (old, new)]
    rows = np.concatenate([old[picks[0]], new[picks[1]]])
    domain = np.repeat([0, 1], [len(picks[0]), len(picks[1])])
    places = np.concatenate([picks[0], len(old) + picks[1]])
    answers = _out_of_sample(rows, domain, units_of([groups[i] for i in places], len(places)), seed)
    if answers is None:
        return None
    scores = answers[:, 1]
    told = int((scores[domain == 1] > np.quantile(scores[domain == 0], QUIET)).sum())
    count = len(picks[1])
    return Drift(told / count, *exact_interval(told, count), new=len(new), old=len(old))


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
    if len(rows) < LEAST or len(classes) < 2 or np.bincount(numbers).min() < FOLDS:  # noqa: PLR2004 - a choice
        return []
    some = np.random.default_rng(seed).permutation(len(rows))[:MOST]
    units = units_of([groups[i] for i in some], len(some))
    probabilities = _out_of_sample(rows[some], numbers[some], units, seed)
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


def _out_of_sample(rows: Array, targets: Array, units: Array, seed: int) -> Array | None:
    """Probabilities float[n, k] of each class, by a classifier that saw neither the row nor its unit.

    None with fewer units than folds, or where a fold holds nothing, or all of a class.
    """
    if len(np.unique(units)) < FOLDS:
        return None
    found = np.zeros((len(rows), int(targets.max()) + 1))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for fit, ask in folds.split(rows, targets, units):
        if not len(ask) or not np.isin(targets, targets[fit]).all():
            return None
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, max_iter=100, tol=1e-3, class_weight="balanced")
        )
        model.fit(rows[fit], targets[fit])
        found[np.ix_(ask, model.classes_)] = model.predict_proba(rows[ask])
    return found
