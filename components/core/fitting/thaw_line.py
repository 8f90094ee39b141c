"""Rows at the thaw line: what is asked for of the prepared data, and how it is addressed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from components.core.activations import caching_plan
from components.core.activations.caching_plan import GIGABYTE
from components.core.activations.requests import CachePolicy, RowRequest, row_key
from components.core.activations.rows import Part, Rows
from components.core.compute import distributed
from components.core.contract.listener import SILENT, Listener
from components.core.digests import digest
from components.core.errors import InputError, StepError
from components.core.fitting.data import Data
from components.core.networks.network import Network, Pytree
from components.core.settings import Settings
from components.core.tracking.provenance import encoding_digest


def rows_of_split(
    network: Network, data: Data, lines: Mapping[int, float], split: str, listener: Listener = SILENT
) -> dict[int, Rows]:
    """Activations of one split at each thaw line, without views; see `rows_of_splits`."""
    return rows_of_splits(network, data, lines, {split: 0}, listener)[split]


def check_features(network: Network, data: Data, chunk: int = 64) -> None:
    """Refuse a network whose features of the validation rows are not finite.

    Raises:
        StepError: One of them is not.
    """
    line = len(network.stages)
    rows = rows_of_split(network, data, {line: 1.0}, "validation")[line]
    for start in range(0, len(rows), chunk):
        leaves = [leaf for leaf in tree_leaves(rows[start : start + chunk]) if isinstance(leaf, Tensor)]
        if not all(bool(torch.isfinite(leaf).all()) for leaf in leaves):
            raise not_finite()


def not_finite() -> StepError:
    """The error for a network that gives features that are not numbers."""
    return StepError(
        "The pretrained network gives features that are not finite.",
        "Check --weights, or use --activation-precision float32.",
    )


def rows_of_splits(
    network: Network,
    data: Data,
    lines: Mapping[int, float],
    splits: Mapping[str, int],
    listener: Listener = SILENT,
) -> dict[str, dict[int, Rows]]:
    """Activations of splits at each thaw line; with V views, view v of example i is row `v * examples + i`.

    Splits without views share a plan and a pass: measuring engines costs as much for a few examples as for many.

    Args:
        network: On its device.
        data: The prepared data.
        lines: Thaw lines, and how often every example will be asked for there.
        splits: Names of splits, and how many augmented views of each example; 0: the examples as they are.
        listener: Takes a note on each decision to keep or recompute, and the progress of computing.
    """

    def rows(names: Sequence[str], views: int) -> dict[int, Rows]:
        return caching_plan.rows_at(_request(network, data, lines, names, views), listener, data.reuse)

    found = {name: rows([name], views) for name, views in splits.items() if views}
    plain = [name for name, views in splits.items() if not views]
    whole, begin = rows(plain, 0) if plain else {}, 0
    for name in plain:
        count = len(data.rows[name])
        found[name] = {line: Part(rows, begin, count) for line, rows in whole.items()}
        begin += count
    return found


def rows_at_line(
    network: Network,
    data: Data,
    line: int,
    lines: Mapping[int, float],
    splits: Mapping[str, int],
    listener: Listener = SILENT,
) -> dict[str, Rows]:
    """Activations of splits at one of the lines; one process of each machine computes all of them before the others."""
    with distributed.leader_first():
        return {name: found[line] for name, found in rows_of_splits(network, data, lines, splits, listener).items()}


def _request(network: Network, data: Data, lines: Mapping[int, float], splits: Sequence[str], views: int) -> RowRequest:
    """Ask for the rows of splits, one behind the other, or for `views` augmented views of each."""
    settings, rows = data.settings, [row for split in splits for row in data.rows[split]]
    ids = data.examples.ids(rows)

    def encode(positions: Sequence[int]) -> Pytree:
        places = [position % len(rows) for position in positions]
        contents = data.examples.contents([rows[place] for place in places])
        if not views:
            return data.task.encode(contents, network.preprocessing)
        names = [_view(data, position // len(rows)) for position in positions]
        seeds = [view_seed(ids[place], name) for place, name in zip(places, names, strict=True)]
        given = data.targets[splits[0]][places]
        inputs, moved = data.task.augment(contents, given, network.preprocessing, settings, seeds)
        _refuse_moved(given, moved)
        return inputs

    names, encoding = [_view(data, view) for view in range(views)] or [""], _encoding(data, views)
    keys = [row_key(example, name, encoding) for name in names for example in ids]
    uses = {line: count / max(1, views) for line, count in lines.items()}  # an epoch draws one view of each example
    policy = policy_of(settings)
    if settings.activations != "recompute" and not distributed.is_local_leader():
        policy = replace(policy, mode="stored")  # what the leader left; its decision holds for all
    return RowRequest(network, uses, keys, encode, policy)


def _refuse_moved(given: Tensor, moved: Tensor) -> None:
    """Views are kept without targets, so these must not move with them."""
    if moved is not given and not torch.equal(moved, given):
        raise InputError(
            "--augment changes the labels of this task, which --views does not cache.", "Leave out --views."
        )


def policy_of(settings: Settings) -> CachePolicy:
    """The user's choices about activations."""
    return CachePolicy(settings.activations, settings.activation_precision, settings.cache_budget * GIGABYTE)


def _encoding(data: Data, views: int) -> str:
    """Return what the network's input depends on beside example, view and preprocessing; for views also task options.

    Options that the data decide are left out: they change every week, and what they mean for the input is part of the
    preprocessing.
    """
    task, settings = data.task, data.settings
    found = encoding_digest(settings.task, task.serving_code, task.serving_requirements)
    if not views:
        return found
    measured = data.examples.info.options
    return digest([found, settings.task, {k: v for k, v in settings.option.items() if measured.get(k) != v}])


def _view(data: Data, number: int) -> str:
    """Number of the view of its example; seeds its augmentation."""
    return f"{data.settings.augment}/{data.settings.seed}/{number}"


def view_seed(example: str, view: str) -> int:
    """The seed that a view of an example is augmented by."""
    return int.from_bytes(row_key(example, view)[:7])
