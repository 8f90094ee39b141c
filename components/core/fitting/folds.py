"""Folds of the training and validation rows: where few rows validate, all of them do, in turn."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch

from components.core.digests import digest
from components.core.fitting.data import Data

Array: TypeAlias = np.ndarray[Any, Any]

FEW = 1_000  # training and validation rows, below which folds of them are held out
ENOUGH = 5_000  # of which the validation split alone can tell


def few(data: Data) -> bool:
    """Return whether the validation split is too small to decide by, so that folds are held out."""
    return len(data.rows["train"]) + len(data.rows["validation"]) < FEW


def enough(data: Data) -> bool:
    """Return whether the validation split alone can judge a thawed network; otherwise a third of the rows does."""
    return len(data.rows["train"]) + len(data.rows["validation"]) > ENOUGH


def fold_of_rows(units: Sequence[str], strata: Sequence[str], count: int, purpose: str = "") -> Array:
    """The fold of each row, int[N]: units stay whole, and every stratum is spread evenly.

    Args:
        units: The unit of each row, such as its group; folds depend on these names, not on their order.
        strata: The class of each row; the first row's counts for the unit.
        count: Number of folds.
        purpose: Makes the folds of different purposes different.

    Returns:
        0 to `count` - 1, or -1 for the only unit that has rows of a stratum: a model without it would not know that
        class.
    """
    first = dict(zip(reversed(units), reversed(strata), strict=True))
    having: dict[str, set[str]] = {}  # the units of each stratum
    for unit, stratum in zip(units, strata, strict=True):
        having.setdefault(stratum, set()).add(unit)
    needed = {unit for some in having.values() if len(some) == 1 for unit in some}
    members: dict[str, list[str]] = {}
    for unit in sorted(first.keys() - needed, key=lambda unit: digest([purpose, unit])):
        members.setdefault(first[unit], []).append(unit)
    # each stratum goes on where the one before ended, so that small ones don't all fill the first fold
    spread = [unit for _, some in sorted(members.items()) for unit in some]
    fold = {unit: number % count for number, unit in enumerate(spread)}
    return np.array([fold.get(unit, -1) for unit in units], dtype=np.int64)


def units_and_strata(data: Data, rows: Sequence[int]) -> tuple[list[str], list[str]]:
    """The unit of each row, its group or itself, and its class."""
    ids, groups = data.examples.ids(rows), data.examples.column("group", rows)
    units = [f"group {group}" if group else id_ for id_, group in zip(ids, groups, strict=True)]
    return units, data.target.strata(data.examples.labels(rows))


def joined(data: Data) -> Data:
    """The same data, whose validation rows include those that calibrate, where folds of them calibrate better.

    These are few rows, of which units can be held out. Views of a row are no rows to calibrate by.
    """
    known = data.rows["train"] + data.rows["validation"]
    if enough(data) or data.settings.views or (fold_of_rows(*units_and_strata(data, known), 2) < 0).all():
        return data
    more = data.rows["calibrate"]
    targets = data.target.targets(data.examples.labels(more), data.examples.classes)
    rows = {**data.rows, "validation": data.rows["validation"] + more, "calibrate": []}
    return replace(
        data, rows=rows, targets={**data.targets, "validation": torch.cat([data.targets["validation"], targets])}
    )


def pooled(data: Data) -> Data:
    """The same data, whose training rows are those of training and validation; nothing is left to validate."""
    return _with_rows(data, data.rows["train"] + data.rows["validation"], [])


def held_out(data: Data, count: int, purpose: str) -> list[Data]:
    """Divide the training and validation rows into folds; each becomes the validation rows of one of the results.

    Folds without rows, as of too few units, are left out.
    """
    rows = data.rows["train"] + data.rows["validation"]
    fold = fold_of_rows(*units_and_strata(data, rows), count, purpose)
    found = []
    for number in range(count):
        held = [row for row, own in zip(rows, fold, strict=True) if own == number]
        rest = [row for row, own in zip(rows, fold, strict=True) if own != number]
        if held and rest:
            found.append(_with_rows(data, rest, held))
    return found


def _with_rows(data: Data, train: list[int], validation: list[int]) -> Data:
    known = data.rows["train"] + data.rows["validation"]
    place = {row: position for position, row in enumerate(known)}
    targets = torch.cat([data.targets["train"], data.targets["validation"]])
    rows = {"train": train, "validation": validation}
    chosen = {name: targets[[place[row] for row in some]] for name, some in rows.items()}
    return replace(data, rows={**data.rows, **rows}, targets={**data.targets, **chosen})
