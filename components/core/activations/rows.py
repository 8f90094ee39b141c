"""Rows at a thaw line, stored or recomputed, and what reading stored ones saves: seconds of the usual loop.

The usual loop computes them each time. Reading and computing are timed as they happen; what a row would have cost is
measured on a few examples, once for each space, in one process. So the figure is an estimate, and below zero where
keeping cost more than it saved.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_unflatten, treespec_loads

from components.core.activations import segments
from components.core.activations.requests import RowRequest
from components.core.activations.segments import Segment
from components.core.activations.spaces import accepts
from components.core.compute import determinism
from components.core.compute.device import mixed_precision, to_device
from components.core.networks.network import Pytree

IN_MEMORY = 256 << 20  # rows out of several segments that are gathered into memory for good
_CHANNELS_FIRST = (0, 3, 1, 2)


@dataclass
class Reuse:
    """Seconds that were saved so far."""

    seconds: float = 0.0


class Counted:
    """Kept rows that add to what was saved whenever they are read.

    Args:
        rows: From the store.
        row_seconds: What computing one of them takes.
        reuse: Is added to.
    """

    def __init__(self, rows: "Rows", row_seconds: float, reuse: Reuse) -> None:
        self._rows, self._row_seconds, self._reuse = rows, row_seconds, reuse

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | Tensor) -> Pytree:
        """These rows of every tensor, [B, ...]."""
        begin = time.perf_counter()
        found = self._rows[rows]
        count = len(range(len(self))[rows]) if isinstance(rows, slice) else len(rows)
        self._reuse.seconds += count * self._row_seconds - (time.perf_counter() - begin)
        return found


class Rows(Protocol):
    """Activations of a split, a batch at a time: kept, or computed each time they are asked for."""

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, rows: slice | Tensor) -> Pytree:
        """These rows of every tensor, [B, ...]."""


class StoredRows:
    """Rows of a space in the order asked for; indexing copies, so that nothing done to a batch reaches the store."""

    def __init__(self, parts: list[list[Tensor]], part: Tensor, row: Tensor, segment: Segment) -> None:
        self._parts, self._part, self._row = parts, part, row
        self._spec: TreeSpec = treespec_loads(segment.spec)
        self._leaves = segment.leaves
        self.bytes = len(row) * segment.row_bytes
        if len(parts) > 1 and self.bytes <= IN_MEMORY:
            everything = torch.arange(len(row))
            self._parts = [[self._gather(leaf, everything) for leaf in range(len(self._leaves))]]
            self._part, self._row = torch.zeros_like(part), everything

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, rows: slice | Tensor) -> Pytree:
        """These rows of every tensor, each [B, ...] in the layout that it was computed in; float16 comes as float32."""
        wanted = torch.arange(len(self))[rows] if isinstance(rows, slice) else rows
        batch = [self._gather(i, wanted) for i in range(len(self._leaves))]
        turned = [
            _widened(tensor.permute(_CHANNELS_FIRST) if leaf.channels_last else tensor)
            for tensor, leaf in zip(batch, self._leaves, strict=True)
        ]
        return tree_unflatten(turned, self._spec)

    def _gather(self, leaf: int, wanted: Tensor) -> Tensor:
        part, row = self._part[wanted], self._row[wanted]
        if len(self._parts) == 1:
            return self._parts[0][leaf].index_select(0, row)
        first = self._parts[0][leaf]
        batch = first.new_empty((len(wanted), *first.shape[1:]))
        for number in part.bincount().nonzero().squeeze(1).tolist():
            places = (part == number).nonzero().squeeze(1)
            batch[places] = self._parts[number][leaf].index_select(0, row[places])
        return batch


def open_rows(opened: Sequence[Segment], part: Tensor, row: Tensor) -> StoredRows:
    """The rows at these places, none of them -1, as `find` gives them.

    Raises:
        FormError: They have different forms.
    """
    used = part.bincount().nonzero().squeeze(1).tolist()
    segments.refuse_forms([(opened[i].spec, opened[i].leaves) for i in used])
    number = torch.full((len(opened),), -1)
    number[used] = torch.arange(len(used))
    for i in used:
        segments.touch(opened[i].folder)
    return StoredRows([opened[i].tensors() for i in used], number[part], row, opened[used[0]])


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor  # half precision is for the disk


def stored(space: Path, keys: Sequence[bytes]) -> StoredRows | None:
    """All these rows from the store; None if one of them is missing."""
    for _attempt in range(3):
        opened = segments.segments(space, accepts)
        part, row = segments.find(opened, keys)
        if len(part) == 0 or bool((part < 0).any()):
            return None
        try:
            return open_rows(opened, part, row)
        except (OSError, RuntimeError):  # another process evicted a segment between the two calls
            continue
    return None


class Recomputed:
    """Rows that are computed each time they are asked for."""

    def __init__(self, request: RowRequest, line: int) -> None:
        self._request, self._line = request, line

    def __len__(self) -> int:
        return len(self._request.keys)

    def __getitem__(self, rows: slice | Tensor) -> Pytree:
        """These rows of every tensor, [B, ...], on the network's device."""
        positions = torch.arange(len(self))[rows].tolist()
        return determinism.in_fixed_batches(self._below, self._request.encode(positions))[0]

    def _below(self, inputs: Pytree) -> list[Pytree]:
        network = self._request.network
        device = next(network.parameters()).device
        modules = network.stages[: self._line]
        if any(module.training for module in modules):
            raise RuntimeError("a frozen stage is in training mode")
        with torch.no_grad(), mixed_precision(device):
            return [network.below(to_device(inputs, device), self._line)]


@dataclass(frozen=True)
class Part:
    """Consecutive rows of others."""

    rows: Rows
    begin: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: slice | Tensor) -> Pytree:
        """These rows of every tensor, [B, ...]."""
        if isinstance(rows, slice):
            picked = range(self.begin, self.begin + self.count)[rows]
            return self.rows[picked.start : picked.stop : picked.step]
        return self.rows[rows + self.begin]
