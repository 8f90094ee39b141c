"""The basis for comparing two models: their scores, features and places on the same test rows."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Figures:
    """A metric other than the share of right answers, as a function of sums over rows."""

    name: str
    sign: int  # 1 where higher is better, else -1
    champion: Array  # features float[n, k]
    challenger: Array
    figure: Callable[[Array], Array]  # sums float[r, k] -> float[r]


@dataclass(frozen=True)
class Contest:
    """Both models on the same test rows, those of classes that both know."""

    version: str  # the champion's
    champion: Array  # scores float[n], higher is better
    challenger: Array
    groups: Array  # str[n], unit of each row; empty: the row itself
    slices: Mapping[str, Sequence[str]]  # column, such as the class -> its value in each row
    locked: Array  # bool[n]: rows that were test rows when the champion was promoted
    recent: Array  # bool[n]: rows that came in last
    passed_over: int = 0  # rows that the champion was trained on
    new_classes: Sequence[str] = ()
    removed_classes: Sequence[str] = ()
    label_counts: tuple[Mapping[str, int], Mapping[str, int]] = field(default=({}, {}))  # champion's, challenger's
    calibration_error: float = math.nan  # of the challenger
    latency_ratio: float = math.nan  # challenger's seconds for a row over the champion's
    figures: Figures | None = None  # None: the scores themselves decide
    right_or_wrong: bool = True  # scores are 0 or 1; if they are not, units are compared by their mean
