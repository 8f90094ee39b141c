"""Recommendation without a network, for comparison with one: item-kNN, EASE and transitions; trivially, popularity."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse

from components.core.data.examples import Examples
from components.core.inference.recommendation import Answer, history
from components.core.targets.next_item import ndcg, ranked

Array: TypeAlias = np.ndarray[Any, Any]

WITHIN = 20  # steps of a transition that is counted, and of a history that it is counted from
DECAYS = (0.0, 0.5, 1.0, 1.5)  # an item that lies n steps back weighs n**-decay
PENALTIES = (100.0, 300.0, 1000.0)  # of EASE
MOST_ITEMS = 4000  # for EASE, which inverts a matrix of all of them, and for neighbors that are all kept
NEIGHBORS = 200  # of an item that are kept where there are more items
BLOCK = 20_000_000  # products of items that are held at once
CHOOSING = 1000  # validation rows that choose between the models
ROWS = 256  # that are scored at a time


class Model(NamedTuple):
    """A model that scores all items by what a user has: weighted rows of one matrix."""

    name: str
    items: Any  # float[V, V], dense or sparse; float[V]: the same scores for everybody
    decay: float
    steps: int  # of the history that count; 0: all


def answers(examples: Examples) -> list[tuple[str, pd.DataFrame]]:
    """The answers of each kind of model to the test rows, fitted on the training rows; the strongest first.

    The validation rows choose each one's strength, and tell which is the strongest.
    """
    contents = examples.contents(examples.rows("test"))
    found = sorted(compare(examples), key=lambda one: -one[2])
    return [(name, pd.DataFrame(answer(model, contents, examples.classes))) for name, model, _ in found]


def popular(examples: Examples) -> pd.DataFrame:
    """Return the answers to the test rows of what is most popular in training, without what the user has."""
    counts = np.bincount(np.concatenate(training_sequences(examples)), minlength=len(examples.classes))
    model = Model("popularity", counts, 0.0, 0)
    return pd.DataFrame(answer(model, examples.contents(examples.rows("test")), examples.classes))


def compare(examples: Examples) -> list[tuple[str, Model, float]]:
    """The best of each kind by the validation rows: its name, itself, and its NDCG there."""
    sequences, classes = training_sequences(examples), examples.classes
    rows = examples.rows("validation")
    rows = rows[:: -(-len(rows) // CHOOSING) or 1]
    contents, labels = examples.contents(rows), examples.labels(rows)
    best: dict[str, tuple[str, Model, float]] = {}
    for model in fitted(sequences, len(classes)):
        figure = ndcg(pd.DataFrame(answer(model, contents, classes)), labels)
        if model.name not in best or figure > best[model.name][2]:
            best[model.name] = (model.name, model, figure)
    return list(best.values())


def training_sequences(examples: Examples) -> list[list[int]]:
    """The items of each user in training, in order, as numbers of the classes."""
    numbers = {item: number for number, item in enumerate(examples.classes)}
    rows = examples.rows("train")
    parts: dict[str, list[tuple[int, list[str]]]] = defaultdict(list)
    # all at once: any few of them lie in nearly all row groups
    for content, label in zip(examples.contents(rows), examples.labels(rows), strict=True):
        record = json.loads(content)
        parts[str(record["user"])].append((int(record["at"]), json.loads(label)["items"]))
    return [[numbers[item] for _, items in sorted(own) for item in items] for own in parts.values()]


def fitted(sequences: Sequence[Sequence[int]], size: int) -> Iterator[Model]:
    """Every model with every strength that is tried."""
    users = np.repeat(np.arange(len(sequences)), [len(own) for own in sequences])
    items = np.concatenate([np.asarray(own, dtype=np.int64) for own in sequences])
    had = sparse.csr_matrix((np.ones(len(items)), (users, items)), shape=(len(sequences), size))
    near = neighbors(had, size if size <= MOST_ITEMS else NEIGHBORS)
    yield from (Model("item-kNN with decay", near, decay, 0) for decay in DECAYS)
    if size <= MOST_ITEMS:
        together = (had.T @ had).toarray()
        for penalty in PENALTIES:
            inverse = np.linalg.inv(together + penalty * np.eye(size))
            weights = -inverse / np.diag(inverse)
            np.fill_diagonal(weights, 0.0)
            yield from (Model("EASE with decay", weights, decay, 0) for decay in DECAYS)
    counts = transitions(sequences, size)
    yield from (Model(f"transition counts within {WITHIN} steps", counts, decay, WITHIN) for decay in DECAYS)


def neighbors(had: sparse.csr_matrix, most: int) -> sparse.csr_matrix:
    """The cosine of the users of two items, of each item's `most` nearest ones, without itself: float[V, V]."""
    size = had.shape[1]
    norms = sparse.diags(1 / np.sqrt(np.maximum(np.asarray(had.sum(0)).ravel(), 1)))
    scaled, blocks, step = (had @ norms).tocsc(), [], max(1, BLOCK // size)
    for begin in range(0, size, step):
        block = (scaled[:, begin : begin + step].T @ scaled).toarray()
        block[np.arange(len(block)), np.arange(begin, begin + len(block))] = 0.0
        if most < size:
            far = np.argpartition(-block, most - 1, axis=1)[:, most:]
            np.put_along_axis(block, far, 0.0, axis=1)
        blocks.append(sparse.csr_matrix(block))
    return sparse.vstack(blocks).tocsr()


def transitions(sequences: Sequence[Sequence[int]], size: int) -> sparse.csr_matrix:
    """Count how often an item follows another, n steps apart as 1 / n, as shares of each row: float[V, V]."""
    arrays = [np.asarray(own, dtype=np.int64) for own in sequences]
    total = sparse.csr_matrix((size, size))
    for step in range(1, WITHIN + 1):
        before = np.concatenate([own[:-step] for own in arrays])
        after = np.concatenate([own[step:] for own in arrays])
        total = total + sparse.csr_matrix((np.full(len(before), 1 / step), (before, after)), shape=(size, size))
    sums = np.maximum(np.asarray(total.sum(1)).ravel(), 1e-12)
    return (sparse.diags(1 / sums) @ total).tocsr()


def answer(model: Model, contents: Sequence[bytes], classes: Sequence[str]) -> list[Answer]:
    """The answers of a model to raw records."""
    numbers = {item: number for number, item in enumerate(classes)}
    found: list[Answer] = []
    for begin in range(0, len(contents), ROWS):
        histories = [_known(content, numbers) for content in contents[begin : begin + ROWS]]
        scores = _scores(model, histories, len(classes))
        for row, own in enumerate(histories):
            scores[row, own] = -np.inf
        found += ranked(scores, classes)
    return found


def _known(content: bytes, numbers: Mapping[str, int]) -> list[int]:
    return [numbers[item] for item in history(content) if item in numbers]


def _scores(model: Model, histories: Sequence[Sequence[int]], size: int) -> Array:
    """Scores float[N, V]; of a user without a history all are equal."""
    if np.ndim(model.items) == 1:
        return np.tile(model.items.astype(np.float64), (len(histories), 1))
    last = [own[-model.steps :] if model.steps else own for own in histories]
    rows = np.repeat(np.arange(len(last)), [len(own) for own in last])
    items = np.concatenate([np.asarray(own, dtype=np.int64) for own in last])
    ages = np.concatenate([np.arange(len(own), 0, -1) for own in last])
    weights = sparse.csr_matrix((ages ** -float(model.decay), (rows, items)), shape=(len(last), size))
    found = weights @ model.items
    return np.asarray(found.toarray() if sparse.issparse(found) else found, dtype=np.float64)
