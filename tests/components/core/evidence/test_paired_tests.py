"""Paired tests on the same rows, against scipy and by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from components.core.evidence.intervals import interval
from components.core.evidence.paired_tests import (
    Counts,
    bootstrap_differences,
    bootstrap_p,
    difference_interval,
    holm,
    mcnemar_exact,
    paired_counts,
    score_test,
    smallest_told,
    smallest_told_about,
    swap_test,
    t_test,
    units_of,
)

counts = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 400))


def mean(sums: np.ndarray) -> np.ndarray:
    """The mean of the first column; the second counts rows."""
    return np.asarray(sums[:, 0] / sums[:, 1])


def with_ones(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones(len(values))], axis=1)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_one_sided_binomial_test(wins: int, losses: int) -> None:
    """The p-value is that of scipy's exact binomial test on the units where the two differ."""
    expected = stats.binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue if wins + losses else 1.0
    assert mcnemar_exact(wins, losses) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    """Eight wins and one loss: (9 + 1) / 2^9."""
    assert mcnemar_exact(8, 1) == pytest.approx(float(Fraction(10, 512)))
    assert mcnemar_exact(0, 0) == 1.0


def test_rows_are_counted_from_the_challengers_side() -> None:
    champion, challenger = np.array([1.0, 0.0, 0.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    assert paired_counts(champion, challenger) == Counts(wins=2, losses=1, units=5)


def test_a_group_is_one_unit() -> None:
    """A group in which the challenger has one row more right counts once, one with as many is a tie."""
    champion, challenger = np.array([1.0, 0.0, 0.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0, 1.0])
    found = paired_counts(champion, challenger, ["a", "a", "b", "b", ""])
    assert found == Counts(wins=2, losses=0, units=3)
    assert units_of(["a", "", "a", ""], 4).tolist() == [0, 1, 0, 2]


def test_scores_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        paired_counts(np.zeros(3), np.zeros(4))


@settings(deadline=None)
@given(counts)
def test_the_interval_excludes_nothing_exactly_where_the_test_rejects(drawn: tuple[int, int, int]) -> None:
    """Inverted from the exact test: 0 lies outside the 90% interval if and only if a one-sided p is at most 0.05."""
    wins, losses, ties = drawn
    found = Counts(wins, losses, wins + losses + ties)
    low, high = difference_interval(found, 0.9)
    assert low <= found.difference <= high
    if found.units:
        assert (low > 0) == (mcnemar_exact(wins, losses) < 0.05)
        assert (high < 0) == (mcnemar_exact(losses, wins) < 0.05)


@settings(deadline=None)
@given(counts)
def test_swapping_the_models_mirrors_the_evidence(drawn: tuple[int, int, int]) -> None:
    wins, losses, ties = drawn
    found, mirrored = Counts(wins, losses, wins + losses + ties), Counts(losses, wins, wins + losses + ties)
    low, high = difference_interval(found)
    assert difference_interval(mirrored) == pytest.approx((-high, -low))
    assert mirrored.difference == -found.difference


def test_the_score_test_by_a_published_example() -> None:
    """Tango 1998, a crossover trial: of 44 pairs one differs, to the new one's cost; margin 0.1 gives z = 1.709."""
    found = Counts(wins=0, losses=1, units=44)
    p = score_test(found, -0.1)
    assert stats.norm.isf(p) == pytest.approx(1.709, abs=0.01)


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 300), st.floats(-0.4, 0.4))
def test_the_score_test_uses_the_likeliest_probability(wins: int, losses: int, ties: int, difference: float) -> None:
    """Its variance is that of the maximum of the likelihood under the null hypothesis, found here by a search."""
    assume(wins + losses)
    found = Counts(wins, losses, wins + losses + ties)
    grid = np.linspace(max(0.0, -difference), (1 - difference) / 2, 20_001)[1:-1]
    likelihood = (
        wins * np.log(grid + difference)
        + losses * np.log(grid)
        + ties * np.log(np.maximum(1e-300, 1 - 2 * grid - difference))
    )
    best = grid[likelihood.argmax()]
    variance = found.units * (2 * best + difference * (1 - difference))
    if variance > 1e-3:
        z = (wins - losses - found.units * difference) / math.sqrt(variance)
        assert score_test(found, difference) == pytest.approx(stats.norm.sf(z), abs=2e-3)


def test_nothing_is_shown_without_units() -> None:
    assert score_test(Counts(0, 0, 0), -0.1) == 1.0
    assert score_test(Counts(0, 0, 50), 0.0) == 1.0
    assert difference_interval(Counts(0, 0, 0)) == (0.0, 0.0)


def test_holm_by_hand() -> None:
    """The smallest of three p-values counts three times; none falls below an earlier one."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_swapping_answers_agrees_with_the_exact_test() -> None:
    """For accuracy the permutation test is the exact one, but for the drawing."""
    champion = np.array([1.0] * 30 + [0.0] * 9 + [1.0] * 2)
    challenger = np.array([1.0] * 30 + [1.0] * 9 + [0.0] * 2)
    p = swap_test(with_ones(champion), with_ones(challenger), mean, np.arange(41), permutations=20_000)
    assert p == pytest.approx(mcnemar_exact(9, 2), abs=0.004)


def test_equal_answers_are_never_better() -> None:
    rows = with_ones(np.random.default_rng(0).random(20))
    assert swap_test(rows, rows, mean, np.arange(20)) == 1.0
    assert not bootstrap_differences(rows, rows, mean, np.arange(20)).any()


def test_a_group_is_swapped_as_a_whole() -> None:
    """Ten rows of one group that all got better are one observation, so they prove nothing."""
    champion, challenger = with_ones(np.zeros(10)), with_ones(np.ones(10))
    assert swap_test(champion, challenger, mean, np.zeros(10, dtype=np.int64)) > 0.4
    assert swap_test(champion, challenger, mean, np.arange(10)) < 0.01


def test_the_bootstrap_interval_holds_the_difference() -> None:
    """Its bounds are near those of the normal approximation of a paired mean."""
    generator = np.random.default_rng(1)
    champion = generator.normal(0, 1, 400)
    challenger = champion + generator.normal(0.2, 0.5, 400)
    differences = bootstrap_differences(with_ones(champion), with_ones(challenger), mean, np.arange(400))
    low, high = interval(differences)
    gain = challenger - champion
    error = 1.96 * gain.std() / math.sqrt(400)
    assert (low, high) == pytest.approx((gain.mean() - error, gain.mean() + error), abs=0.01)
    assert bootstrap_p(differences, gain.mean()) == pytest.approx(0.5, abs=0.05)
    assert bootstrap_p(differences, low) == pytest.approx(0.025, abs=0.003)
    assert bootstrap_p(differences, -1.0) == 1 / 2001  # never 0


def test_the_smallest_difference_that_could_have_been_told() -> None:
    """With 10 units that differ, 9 to 1 is the least lead at 0.05; with 3 none is enough."""
    assert smallest_told(Counts(6, 4, 100), 0.05) == pytest.approx(0.08)
    assert smallest_told(Counts(3, 0, 100), 0.05) == math.inf


@pytest.mark.parametrize(("counts", "margin"), [(Counts(6, 4, 100), 0.03), (Counts(2, 20, 400), 0.02)])
def test_the_smallest_difference_of_non_inferiority(counts: Counts, margin: float) -> None:
    """It is the least with as many units that differ at which the score test rejects; one unit less does not."""
    told = smallest_told(counts, 0.01, margin)
    differ = counts.wins + counts.losses
    wins = round((told * counts.units + differ) / 2)
    assert score_test(Counts(wins, differ - wins, counts.units), -margin) <= 0.01
    assert score_test(Counts(wins - 1, differ - wins + 1, counts.units), -margin) > 0.01


def test_non_inferiority_may_be_told_of_a_challenger_that_lost() -> None:
    """With many units the least difference is below 0; where none differs there is none, for a tie promotes nobody."""
    assert -0.05 < smallest_told(Counts(20, 20, 4000), 0.05, 0.05) < 0
    assert smallest_told(Counts(0, 0, 4000), 0.05, 0.05) == math.inf


@pytest.mark.parametrize("level", [0.05, 0.05 / 26])
def test_a_gain_of_the_smallest_told_by_resampling_is_about_at_the_level(level: float) -> None:
    """A challenger that leads by just that has about the level as p-value of the swap test; by 0.6 of it, far more."""
    generator = np.random.default_rng(4)
    champion, noise = generator.normal(0, 1, 500), generator.normal(0, 0.5, 500)
    units, noise = np.arange(500), noise - noise.mean()
    differences = bootstrap_differences(with_ones(champion), with_ones(champion + noise), mean, units)
    least = smallest_told_about(differences, 500, level)

    def p(gain: float) -> float:
        return swap_test(with_ones(champion), with_ones(champion + noise + gain), mean, units, 40_000)

    assert 0.6 * level < p(least) < 1.7 * level
    assert p(0.6 * least) > 2 * level
    assert smallest_told_about(differences, 500, level, margin=0.1) == pytest.approx(least - 0.1)


def test_resampling_says_where_it_could_tell_nothing() -> None:
    """Four units have 16 swaps, too few for 0.05; and without any difference there is no standard error."""
    assert smallest_told_about(np.array([-1.0, 1.0]), 4, 0.05) == math.inf
    assert smallest_told_about(np.array([-1.0, 1.0]), 5, 0.05) < math.inf
    assert smallest_told_about(np.zeros(9), 40, 0.05) == math.inf


def test_the_t_test_is_that_of_scipy() -> None:
    """Without groups it is the paired one-sided t-test; groups are units whose rows go together."""
    generator = np.random.default_rng(0)
    champion, challenger = generator.normal(size=50), generator.normal(0.2, size=50)
    expected = stats.ttest_rel(challenger, champion + 0.1, alternative="greater").pvalue
    assert t_test(champion, challenger, [], 0.1) == pytest.approx(expected)
    groups = [str(number // 2) for number in range(50)]
    sums = (challenger - champion).reshape(25, 2).sum(1)
    assert t_test(champion, challenger, groups, 0.1) == pytest.approx(
        stats.ttest_1samp(sums / 2, 0.1, alternative="greater").pvalue
    )


def test_the_t_test_says_nothing_of_one_unit() -> None:
    one = np.array([1.0])
    assert t_test(one, one + 5, [], 0.0) == 1.0
    equal = np.zeros(3)
    assert t_test(equal, equal, [], 0.0) == 1.0
    assert t_test(equal, equal, [], -0.1) == 0.0  # within any margin


def test_where_a_figure_is_undefined_nothing_is_shown() -> None:
    """R2 of test rows that all have one label is no number: neither test takes that for evidence."""
    rows = np.arange(12.0)[:, None]

    def undefined(sums: np.ndarray) -> np.ndarray:
        return np.full(len(sums), np.nan)

    units = np.arange(12)
    assert swap_test(rows, rows + 1, undefined, units) == 1.0
    assert bootstrap_p(bootstrap_differences(rows, rows + 1, undefined, units), -0.03) == 1.0
