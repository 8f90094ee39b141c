"""Rows at a thaw line, and what reading kept ones saves: seconds of the usual loop, which computes them each time.

Reading and computing are timed as they happen; what a row would have cost is measured on a few examples, once for each
space, in one process. So the figure is an estimate, and below zero where keeping cost more than it saved.
"""

import time
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from components.core.networks.network import Pytree


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
