"""Two models on the same test rows: exact and permutation tests, their intervals, and what could have been told.

The unit of every test is what is exchangeable: a group (patient, near-duplicate cluster), a picture, a user. A unit is
won by the challenger if its score is higher there, lost if it is lower.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy import special

from components.core.evidence.intervals import exact_interval

Array: TypeAlias = np.ndarray[Any, Any]

DRAWN_AT_ONCE = 4_000_000  # numbers in memory at a time
ROUNDING = 1e-12  # of a figure, so that the observed arrangement counts as no smaller than itself


@dataclass(frozen=True)
class Counts:
    """Units that the challenger wins and loses, of `units` that both were scored on."""

    wins: int
    losses: int
    units: int

    @property
    def difference(self) -> float:
        """Share of units won minus share of units lost; with single rows scored 0 or 1, the gain in accuracy."""
        return (self.wins - self.losses) / self.units if self.units else 0.0


def paired_counts(champion: Array, challenger: Array, groups: Sequence[str] | Array = ()) -> Counts:
    """Units won, lost and in all, from scores float[n] of both models on the same rows.

    Args:
        champion: Its scores.
        challenger: Its scores.
        groups: For each row, the unit that it belongs to; empty text or nothing: the row is a unit of its own. A
            group's score is the sum over its rows.

    Raises:
        ValueError: The two did not score the same number of rows.
    """
    if champion.shape != challenger.shape:
        raise ValueError(f"champion scored {champion.shape} rows, challenger {challenger.shape}")
    differences = np.bincount(units_of(groups, champion.size), weights=challenger - champion)
    # a group's sum may miss 0 by rounding
    return Counts(int((differences > 1e-9).sum()), int((differences < -1e-9).sum()), differences.size)  # noqa: PLR2004


def units_of(groups: Sequence[str] | Array, rows: int) -> Array:
    """The number of each row's unit, int[rows]: rows with the same non-empty group share one."""
    numbers: dict[str, int] = {}
    named = [group or f"\0{row}" for row, group in enumerate(groups if len(groups) else [""] * rows)]
    return np.array([numbers.setdefault(name, len(numbers)) for name in named], dtype=np.int64)


def mcnemar_exact(wins: int, losses: int) -> float:
    """One-sided exact p-value that the challenger is better, given the units on which the two differ.

    McNemar 1947 in its conditional form: the probability of at least `wins` heads in `wins + losses` fair tosses.
    1.0 when the challenger wins nowhere, so also when the two never differ.
    """
    if wins == 0:
        return 1.0
    return float(special.betainc(wins, losses + 1, 0.5))


def difference_interval(counts: Counts, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of the difference by inverting the exact conditional test.

    Given the units that differ, the share p of them that the challenger wins has the interval of Clopper & Pearson
    (1934), and the difference is (2p - 1) times their share of all units. It excludes 0 exactly where the two-sided
    conditional test rejects.
    """
    wins, differ = counts.wins, counts.wins + counts.losses
    if not differ:
        return 0.0, 0.0
    low, high = exact_interval(wins, differ, confidence)
    scale = differ / counts.units
    return (2 * low - 1) * scale, (2 * high - 1) * scale


def score_test(counts: Counts, difference: float) -> float:
    """One-sided p-value that the true difference is above `difference`: the score test of Tango (1998).

    With `-margin` it tests non-inferiority within a margin. 1.0 without units.

    Args:
        counts: Units won and lost.
        difference: Of the null hypothesis, above -1 and below 1.
    """
    b, c, n, d = counts.wins, counts.losses, counts.units, difference
    if not n:
        return 1.0
    linear = -b - c + (2 * n - b + c) * d
    # the probability of a loss that makes the counts likeliest among those with this difference
    loss = (math.sqrt(max(0.0, linear**2 + 8 * n * c * d * (1 - d))) - linear) / (4 * n)
    variance = n * (2 * loss + d * (1 - d))
    if variance <= 1e-12:  # noqa: PLR2004 - none of the units differs, and none is expected to
        return 1.0
    return float(special.ndtr(-(b - c - n * d) / math.sqrt(variance)))


def t_test(champion: Array, challenger: Array, groups: Sequence[str] | Array, difference: float) -> float:
    """One-sided p-value that the challenger's mean score is higher by more than `difference`: the paired t-test.

    The units are as in `paired_counts`, each weighing as much as it has rows. 1.0 with fewer than two.

    Args:
        champion: Its scores float[n].
        challenger: Its scores float[n].
        groups: Unit of each row; empty text or nothing: the row itself.
        difference: Of the null hypothesis.
    """
    sums = np.bincount(units_of(groups, champion.size), weights=challenger - champion)
    if sums.size < 2:  # noqa: PLR2004 - one unit has no variance
        return 1.0
    gains = sums * sums.size / champion.size - difference
    error = float(gains.std(ddof=1)) / math.sqrt(gains.size)
    if error < ROUNDING:
        return float(gains.mean() <= 0)
    return float(special.stdtr(gains.size - 1, -gains.mean() / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number by the step-down method of Holm (1979), in the same order."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def swap_test(
    champion: Array,
    challenger: Array,
    figure: Callable[[Array], Array],
    units: Array,
    permutations: int = 9999,
    seed: int = 0,
) -> float:
    """One-sided p-value that the challenger's figure is higher, for any figure that is a function of sums over rows.

    If the two models are exchangeable, swapping their answers in any unit changes nothing in distribution (the
    randomisation test for paired systems, Noreen 1989). The observed arrangement counts as one of the permutations,
    so the p-value is valid for any number of them and never 0.

    Args:
        champion: Features float[n, k] of its answers.
        challenger: The same of the challenger's.
        figure: Takes sums of features float[r, k], gives float[r]; higher is better.
        units: Number of each row's unit, int[n].
        permutations: How many are drawn.
        seed: Of the draws.
    """
    theirs, ours = champion.sum(0)[None], challenger.sum(0)[None]
    change = _by_unit(challenger - champion, units)
    change = change[np.any(change != 0, axis=1)]  # swapping equal answers changes nothing
    if not len(change):
        return 1.0
    generator = np.random.default_rng(seed)

    def draw(count: int) -> Array:
        swapped = generator.integers(2, size=(count, len(change))) @ change
        return figure(ours - swapped) - figure(theirs + swapped)

    observed = float((figure(ours) - figure(theirs))[0])
    # where the figure is undefined (NaN), nothing is shown
    return _share(~(_in_blocks(draw, permutations, len(change)) < observed - ROUNDING))


def bootstrap_differences(
    champion: Array,
    challenger: Array,
    figure: Callable[[Array], Array],
    units: Array,
    resamples: int = 2000,
    seed: int = 0,
) -> Array:
    """The difference of a figure on resamples of whole units with replacement, float[resamples]; see `swap_test`."""
    theirs, ours = _by_unit(champion, units), _by_unit(challenger, units)
    generator, number = np.random.default_rng(seed), len(ours)

    def draw(count: int) -> Array:
        times = generator.multinomial(number, np.full(number, 1 / number), size=count).astype(np.float64)
        return figure(times @ ours) - figure(times @ theirs)

    return _in_blocks(draw, resamples, number)


def bootstrap_p(differences: Array, bound: float) -> float:
    """One-sided p-value that the true difference is above `bound`, from `bootstrap_differences`; never 0.

    A resample in which the figure is undefined (NaN) counts against it.
    """
    return _share(~(differences > bound))


def smallest_told(counts: Counts, level: float, margin: float | None = None) -> float:
    """The smallest difference that the test of counts could have told, had it favoured the challenger more.

    As many units differ as did; infinite where even all of them would have been too few.

    Args:
        counts: Units won and lost.
        level: Of the look.
        margin: Of non-inferiority, so that the score test is asked and the answer may be below 0; None for the exact
            test of superiority.
    """
    differ = counts.wins + counts.losses

    def told(wins: int) -> bool:
        if margin is None:
            return mcnemar_exact(wins, differ - wins) <= level
        return score_test(Counts(wins, differ - wins, counts.units), -margin) <= level

    wins = next((w for w in range(differ + 1) if differ and told(w)), None)
    return math.inf if wins is None else (2 * wins - differ) / counts.units


def smallest_told_about(differences: Array, differing: int, level: float, margin: float | None = None) -> float:
    """About the smallest difference of a figure that resampling could have told at this level.

    The normal quantile of the level times the standard error of the paired bootstrap, above 0 or above minus the
    margin: an approximation, for the spread would have been another one had the answers been others. Infinite where
    nothing could have been told: no resample differs, or the swaps of so few units are too few for the level.

    Args:
        differences: From `bootstrap_differences`.
        differing: Units that the two answer differently; m of them have 2 ** m swaps.
        level: Of the look.
        margin: Of non-inferiority; None for superiority.
    """
    error = float(np.nanstd(differences))
    if not error or (margin is None and 0.5**differing > level):
        return math.inf
    return float(-special.ndtri(level)) * error - (margin or 0.0)


def _in_blocks(draw: Callable[[int], Array], count: int, width: int) -> Array:
    """`count` values, drawn so many at a time that the memory of `width` numbers for each is bounded."""
    block = max(1, DRAWN_AT_ONCE // width)
    return np.concatenate([draw(min(block, count - start)) for start in range(0, count, block)])


def _share(hits: Array) -> float:
    """The share of draws that are hits, the observed one among both."""
    return float((hits.sum() + 1) / (hits.size + 1))


def _by_unit(features: Array, units: Array) -> Array:
    sums = np.zeros((int(units.max()) + 1, features.shape[1]))
    np.add.at(sums, units, features)
    return sums
