"""Intervals: what a number on a finite test set can claim. Two models are compared in `paired_tests.py`."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy import sparse, special

Array: TypeAlias = np.ndarray[Any, Any]

# Rows drawn at once: bounds the memory of a bootstrap at about 40 MB whatever the number of resamples.
DRAWN_AT_ONCE = 2_000_000


def bootstrap_interval(
    statistic: Callable[[Array], float], n: int, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of any statistic (Efron & Tibshirani 1993, chapter 13).

    Where the statistic is a function of sums over rows, `bootstrap_sums` is faster and draws the same resamples.

    Args:
        statistic: Takes row numbers int[n], drawn with replacement, and returns the figure of these rows.
        n: Number of rows, at least 1.
        resamples: How often the rows are drawn.
        confidence: Of the two-sided interval.
        seed: Of the draws; the same seed and n draw the same rows.
    """
    drawn = [statistic(rows) for block in _draws(n, resamples, seed) for rows in block]
    return interval(np.asarray(drawn), confidence)


def bootstrap_sums(features: Array, resamples: int = 2000, seed: int = 0) -> Array:
    """Column sums of `features` float[n, k] (dense or sparse) over each bootstrap resample: float[resamples, k]."""
    columns = sparse.csr_array(features).T.tocsr()
    n = columns.shape[1]
    blocks = []
    for rows in _draws(n, resamples, seed):
        offsets = np.arange(len(rows))[:, None] * n
        counts = np.bincount((rows + offsets).ravel(), minlength=rows.size).reshape(len(rows), n)
        blocks.append((columns @ counts.T.astype(np.float64)).T)
    return np.concatenate(blocks)


def interval(
    values: Array, confidence: float = 0.95, method: Literal["percentile", "basic"] = "percentile", point: float = 0.0
) -> tuple[float, float]:
    """Two-sided interval from bootstrap values float[resamples]; resamples in which it is undefined (NaN) are left out.

    Args:
        values: The statistic on each resample.
        confidence: Of the interval.
        method: `basic` (Davison & Hinkley 1997, section 5.2) mirrors the percentiles at `point` and so takes out
            the bias that resampling adds; it is for statistics that noise can only raise, such as ECE.
        point: The statistic on the rows themselves; read by `basic` only.
    """
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return (2 * point - float(high), 2 * point - float(low)) if method == "basic" else (float(low), float(high))


def exact_lower_bound(successes: int, n: int, confidence: float = 0.95) -> float:
    """One-sided exact lower bound of a proportion (Clopper & Pearson 1934); 0.0 without a success."""
    if successes == 0:
        return 0.0
    return float(special.betaincinv(successes, n - successes + 1, 1 - confidence))


def exact_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided exact interval of a proportion (Clopper & Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    high = float(special.betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return low, high


def _draws(n: int, resamples: int, seed: int) -> Iterator[Array]:
    """Row numbers int[some, n] of the resamples, a block at a time."""
    generator = np.random.default_rng(seed)
    block = max(1, DRAWN_AT_ONCE // n)
    for start in range(0, resamples, block):
        yield generator.integers(n, size=(min(block, resamples - start), n))
