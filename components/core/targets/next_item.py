"""The next item of a user as the target of a task: cross-entropy over all items, and the rank of the true one.

A label is {"items": […], "new": true}: the items that follow a history, the last of which is asked for where a model is
tested, and whether nothing of the user was trained on.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from components.core.contract.task import Metric
from components.core.digests import canonical_json
from components.core.errors import RejectedRecord
from components.core.inference.recommendation import BEST, Answer, answers
from components.core.targets.classification import fit_temperature
from components.core.targets.evaluation import Evaluation, Mistake, by_sums

Array: TypeAlias = np.ndarray[Any, Any]

PADDING = -1  # of targets
CUTOFF = 10  # ranks that count; at most half of what an answer lists, so that ties reach no further unseen
MISTAKES = 24  # that the report has room for
CHUNK = 1_024  # rows whose scores are compared at once
MOST_SCORES = 20_000_000  # that a temperature is fitted to: in float64 and several times, they take 0.6 GB


class NextItem:
    """The items that follow in a history, of which a model is asked for the last."""

    answer: type = Answer
    answers = staticmethod(answers)

    def __init__(self) -> None:
        self.metrics = METRICS

    def check_label(self, label: str) -> str:
        """Canonical JSON of the items and of whether the user is new; raises RejectedRecord for anything else."""
        try:
            found = json.loads(label)
        except (ValueError, RecursionError):
            raise RejectedRecord("the label is not JSON") from None
        items = found.get("items") if isinstance(found, dict) else None
        if not isinstance(items, list) or not items or not all(isinstance(item, str) for item in items):
            raise RejectedRecord("the label has no list of items")
        return canonical_json({"items": items, **({"new": True} if found.get("new") is True else {})})

    def class_names(self, labels: Sequence[str]) -> list[str]:
        """All items, sorted."""
        return sorted({item for label in labels for item in _items(label)})

    def targets(self, labels: Sequence[str], classes: Sequence[str]) -> Tensor:
        """Outputs that stand for the items, long[N, L], aligned to the right, padded with -1.

        Raises:
            ValueError: One is not among the classes.
        """
        numbers = {item: number for number, item in enumerate(classes)}
        rows = [_items(label) for label in labels]
        if unknown := sorted({item for row in rows for item in row} - numbers.keys()):
            raise ValueError(f"not among the items: {', '.join(unknown)}")
        found = torch.full((len(rows), max(map(len, rows), default=0)), PADDING)
        for row, items in enumerate(rows):
            found[row, found.shape[1] - len(items) :] = torch.tensor([numbers[item] for item in items])
        return found

    def loss(
        self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
    ) -> Tensor:
        """Cross-entropy over all items (full softmax), a scalar mean over what is known to follow.

        `outputs` are scores of each step [B, T, items], or of the next item alone [B, items].
        """
        steps = outputs[:, None] if outputs.dim() == 2 else outputs  # noqa: PLR2004 - the next item alone
        known = targets[:, -steps.shape[1] :]
        return functional.cross_entropy(
            steps[:, -known.shape[1] :].flatten(0, 1),
            known.flatten(),
            weight=class_weights,
            label_smoothing=label_smoothing,
            ignore_index=PADDING,
        )

    def validate(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """The loss, and the metrics of a whole split from scores [N, items], exact: over all items and rows."""
        asked, lost, ranks = targets[:, -1:], 0.0, list[Array]()
        for start in range(0, len(asked), CHUNK):
            some, true = outputs[start : start + CHUNK], asked[start : start + CHUNK]
            lost += float(self.loss(some, true)) * len(true)
            own = some.gather(1, true)
            ranks.append(((some > own).sum(1) + ((some == own).sum(1) - 1) / 2).double().numpy())
        sums = _gains(np.concatenate(ranks)).sum(0)[None]
        return {
            "loss": lost / max(1, len(asked)),
            **{m.name: float(m.figure(sums)[0]) for m in METRICS if m.figure},
        }

    def calibrate(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Fit the temperature that divides the scores when serving, so that probabilities are those of hits.

        It is fitted on evenly spaced rows, so many that they have at most `MOST_SCORES` scores: 1,000 of 20,000 items.
        """
        every = -(-outputs.numel() // MOST_SCORES) or 1
        return {"temperature": fit_temperature(outputs[::every], targets[::every, -1])}

    def evaluate(
        self, answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str], training: Mapping[str, int]
    ) -> Evaluation:
        """NDCG and hit rate with 95% bootstrap intervals over users; of new and old users and items apart; coverage.

        From labels alone, the trivial model gives everybody the items that are the most frequent in training, those
        that they have too; the task's leaves these out.

        Raises:
            ValueError: There are no test rows.
        """
        trivial = _most_popular(training)
        found = by_sums(DECIDING, answers, trivial, labels, classes)
        return replace(
            found,
            metrics={**found.metrics, COVERAGE.name: coverage(answers, classes)},
            baseline={**found.baseline, COVERAGE.name: coverage(pd.DataFrame([trivial]), classes)},
            per_class=_by_novelty(answers, labels, training),
            mistakes=_misses(answers, labels),
        )


def ranks(answers: pd.DataFrame, labels: Sequence[str]) -> Array:
    """The rank of the true item among all that the user does not have, from 0, ties at mid rank: float[N].

    Infinite where it is not listed: its rank is then `CUTOFF` or more, as an answer lists twice as many.
    """
    rows = zip(answers["items"], answers["scores"], answers["tied"], labels, strict=True)
    return np.array(
        [_rank(list(items), list(scores), int(tied), _items(label)[-1]) for items, scores, tied, label in rows]
    )


def ndcg(answers: pd.DataFrame, labels: Sequence[str]) -> float:
    """NDCG@10, the mean over the rows."""
    return float(_ndcg(_gains(ranks(answers, labels)).sum(0)[None])[0])


def coverage(answers: pd.DataFrame, classes: Sequence[str]) -> float:
    """The share of all items that is among the first ten of any answer."""
    return len({item for items in answers["items"] for item in items[:CUTOFF]}) / max(len(classes), 1)


def ranked(scores: Array, classes: Sequence[str]) -> list[Answer]:
    """The answers of a model without a network, for scores [N, items] of which -inf stands for what the user has."""
    found = []
    for row in scores:
        order = np.argsort(-row, kind="stable")[:BEST]
        order = order[np.isfinite(row[order])]
        last = row[order[-1]] if len(order) else np.inf
        tied = int((row == last).sum() - (row[order] == last).sum())
        found.append(Answer(items=[classes[i] for i in order], scores=row[order].tolist(), tied=tied))
    return found


def _rank(items: Sequence[str], scores: Sequence[float], tied: int, true: str) -> float:
    if true not in items:
        return np.inf
    own = scores[items.index(true)]
    equal = sum(score == own for score in scores) + (tied if own == scores[-1] else 0)
    return sum(score > own for score in scores) + (equal - 1) / 2


def _items(label: str) -> list[str]:
    return list(json.loads(label)["items"])


def _gains(ranks: Array) -> Array:
    """NDCG, hit and one of each row, float[N, 3]."""
    hit = ranks < CUTOFF
    gain = np.where(hit, 1 / np.log2(np.where(hit, ranks, 0) + 2), 0.0)
    return np.stack([gain, hit, np.ones(len(ranks))], axis=1).astype(np.float64)


def _features(answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str]) -> Array:
    del classes
    return _gains(ranks(answers, labels))


def _ndcg(sums: Array) -> Array:
    return np.asarray(sums[:, 0] / sums[:, 2])


def _hit_rate(sums: Array) -> Array:
    return np.asarray(sums[:, 1] / sums[:, 2])


NDCG = Metric(
    f"ndcg_at_{CUTOFF}",
    features=_features,
    figure=_ndcg,
    title=f"NDCG@{CUTOFF}",
    explanation="1 / log2(rank + 1) of the true item where it is among the first ten of all items, else 0; the mean",
)
HIT_RATE = Metric(
    f"hit_rate_at_{CUTOFF}",
    features=_features,
    figure=_hit_rate,
    title=f"HR@{CUTOFF}",
    explanation="share of users whose item is among the first ten of all items",
)
COVERAGE = Metric("coverage", explanation="share of the items that are among the first ten of any user")
DECIDING = (NDCG, HIT_RATE)
METRICS = (*DECIDING, COVERAGE)


def _most_popular(training: Mapping[str, int]) -> Answer:
    counts: Counter[str] = Counter()
    for label, rows in training.items():
        counts.update(dict.fromkeys(_items(label), rows))
    names = sorted(counts)
    return ranked(np.array([[counts[name] for name in names]], dtype=np.float64), names)[0]


def _by_novelty(answers: pd.DataFrame, labels: Sequence[str], training: Mapping[str, int]) -> pd.DataFrame:
    """The metrics of users and of items that the training knows and of new ones, where there are any."""
    gains, known = _gains(ranks(answers, labels)), {item for label in training for item in _items(label)}
    new_users = np.array([bool(json.loads(label).get("new")) for label in labels])
    new_items = np.array([_items(label)[-1] not in known for label in labels])
    kinds = {
        "users seen in training": ~new_users,
        "new users": new_users,
        "items seen in training": ~new_items,
        "new items": new_items,
    }
    sums = [(name, int(rows.sum()), gains[rows].sum(0)[None]) for name, rows in kinds.items() if rows.any()]
    return pd.DataFrame(
        [
            {"class": name, "support": n, HIT_RATE.name: float(_hit_rate(own)[0]), NDCG.name: float(_ndcg(own)[0])}
            for name, n, own in sums
        ]
    )


def _misses(answers: pd.DataFrame, labels: Sequence[str]) -> list[Mistake]:
    """Rows without a hit whose first item was given the highest score."""
    first = np.array([scores[0] if len(scores) else -np.inf for scores in answers["scores"]])
    missed = np.flatnonzero((ranks(answers, labels) >= CUTOFF) & np.isfinite(first))
    worst = missed[np.argsort(-first[missed], kind="stable")][:MISTAKES]
    return [Mistake(int(row), _items(labels[row])[-1], answers["items"][row][0], float(first[row])) for row in worst]
