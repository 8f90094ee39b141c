"""What an evaluation on the test split says, for any problem."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Mistake:
    """One wrong answer, for the report's thumbnails."""

    row: int  # position in the test rows
    label: str
    predicted: str
    probability: float | None  # of the wrong label; None where answers have none


@dataclass(frozen=True)
class Evaluation:
    """Figures of one served model on the test rows."""

    metrics: Mapping[str, float]  # the target's own first
    intervals: Mapping[str, tuple[float, float]]  # 95 %, for each headline number
    baseline: Mapping[str, float]  # the same metrics of the trivial model
    reference: Mapping[str, float] = field(default_factory=dict, kw_only=True)  # of a simple model of these data
    reference_name: str = field(default="", kw_only=True)
    bound: float  # one-sided 95 % bound of the target's metric, on the side of the worse figures
    per_class: pd.DataFrame | None = None  # class, support, precision, recall, f1
    confusion: np.ndarray[Any, Any] | None = None  # counts[true, predicted], in the order of the classes
    reliability: pd.DataFrame | None = None  # bin, confidence, accuracy, count
    numbers: pd.DataFrame | None = None  # true, predicted; a row per test row
    mistakes: Sequence[Mistake] = field(default_factory=tuple)  # the surest or the largest first
