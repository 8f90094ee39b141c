"""The drift trigger: retrain early if new data differs enough from the champion's.

Asked only where a run would wait: it imports torch and computes activations of the new examples below the head, which a
training would read. Those of the champion's training data are in the store already, as a rule.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from components.core.activations import caching_plan
from components.core.activations.requests import RowRequest, row_key
from components.core.compute.determinism import seed_everything
from components.core.compute.device import place
from components.core.contract.listener import SILENT, Listener
from components.core.contract.task import Task, load_task
from components.core.errors import RejectedRecord
from components.core.evaluation.drift import Drift, drift
from components.core.evaluation.features import MIN_ROWS, Array, flattened
from components.core.fitting.thaw_line import policy_of
from components.core.networks.network import Pytree
from components.core.registry import versions
from components.core.settings import Settings
from components.core.sources import raw_records
from components.core.sources.source_index import IndexRow
from components.core.tracking.provenance import encoding_digest
from components.core.training.checkpoints import read_training_rows

MOST = 2000  # rows of either side: the interval is narrow enough, and more cost minutes


def drift_of_new(
    settings: Settings,
    champion: str,
    before: Sequence[IndexRow],
    now: Sequence[IndexRow],
    listener: Listener = SILENT,
) -> Drift | None:
    """The share of examples new since the last training that can be told from what the champion was trained on.

    Args:
        settings: The run's.
        champion: Its version.
        before: Index of the source when a model was last trained.
        now: Index of the source as it is.
        listener: Takes a note on each decision to keep or recompute activations, and the progress.

    Returns:
        None with fewer than 20 examples on a side.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, _ = versions.fetch(settings.model, champion, Path(folder))
        prints = dict(read_training_rows(path / "checkpoint").fingerprints)
    rows = {row.sha256: row for row in reversed(now) if row.sha256}
    known = {row.sha256 for row in before}
    task, generator = load_task(settings.task), np.random.default_rng(settings.seed)
    sides = [sorted(rows.keys() & prints.keys()), sorted(rows.keys() - prints.keys() - known)]
    old, new = ([side[i] for i in generator.permutation(len(side))[:MOST]] for side in sides)
    read = raw_records.reader({rows[id_].uri for id_ in (*old, *new)})
    new_prints = _usable([rows[id_] for id_ in new], task, read)
    new = [id_ for id_ in new if id_ in new_prints]
    if min(len(old), len(new)) < MIN_ROWS:
        return None
    ids = [*old, *new]
    features = _features(ids, lambda id_: read(rows[id_].uri), settings, task, listener)
    groups = _groups(ids, rows, prints | new_prints, settings, task)
    return drift(features[: len(old)], features[len(old) :], groups, settings.seed)


def _usable(rows: Sequence[IndexRow], task: Task, read: Callable[[str], bytes]) -> dict[str, str]:
    """Fingerprints of the records that the task can use, by id."""
    found = {}
    for row in rows:
        try:
            found[row.sha256] = str(task.check(read(row.uri)).get("fingerprint", ""))
        except RejectedRecord:
            continue
    return found


def _features(
    ids: Sequence[str],
    read: Callable[[str], bytes],
    settings: Settings,
    task: Task,
    listener: Listener = SILENT,
) -> Array:
    seed_everything(settings)  # with --weights none the random weights are the seed's
    network = place(task.build(settings, ["", ""], 0.0), settings.device)
    line = len(network.stages)

    def encode(positions: Sequence[int]) -> Pytree:
        return task.encode([read(ids[i]) for i in positions], network.preprocessing)

    encoding = encoding_digest(settings.task, task.serving_code, task.serving_requirements)
    keys = [row_key(id_, encoding=encoding) for id_ in ids]
    uses = 2.0  # here, and by the training to come
    request = RowRequest(network, {line: uses}, keys, encode, policy_of(settings))
    return flattened(caching_plan.rows_at(request, listener)[line])


def _groups(
    ids: Sequence[str],
    rows: Mapping[str, IndexRow],
    prints: Mapping[str, str],
    settings: Settings,
    task: Task,
) -> list[str]:
    """Return the groups, by the source and by similarity: none may be on both sides of a fold."""
    pairs = []
    if settings.near_duplicates >= 0 and all(prints[id_] for id_ in ids):
        pairs = task.near_duplicates([prints[id_] for id_ in ids], [True] * len(ids), settings)
    first: dict[str, int] = {}
    for i, id_ in enumerate(ids):
        if group := rows[id_].group:
            pairs.append((first.setdefault(group, i), i))
    a, b = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    _, numbers = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(len(ids), len(ids))), directed=False)
    return [str(number) for number in numbers]
