"""Intervals."""

import numpy as np
import pytest
from scipy import stats

from components.core.evidence.intervals import (
    bootstrap_interval,
    bootstrap_sums,
    exact_lower_bound,
    interval,
)


def test_bootstrap_interval_agrees_with_scipy() -> None:
    """The percentile interval of a mean is scipy's, up to the noise of the draws."""
    values = np.random.default_rng(1).exponential(size=80)
    low, high = bootstrap_interval(lambda rows: float(values[rows].mean()), len(values), resamples=4000)
    peer = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=2).confidence_interval
    assert low == pytest.approx(peer.low, abs=0.02)
    assert high == pytest.approx(peer.high, abs=0.02)


def test_bootstrap_interval_covers_the_truth() -> None:
    """In 300 samples of 100 rows the 95% interval of a proportion holds the truth in 91 to 98 of 100."""
    generator = np.random.default_rng(0)
    samples = generator.random((300, 100)) < 0.7
    covered = 0
    for sample in samples:
        sums = bootstrap_sums(sample[:, None].astype(float), resamples=500)
        low, high = interval(sums[:, 0] / 100)
        covered += low <= 0.7 <= high
    assert 0.91 <= covered / 300 <= 0.98


def test_sums_and_rows_draw_the_same_resamples() -> None:
    """The fast way over sums gives exactly the interval of the general one, over several blocks of draws."""
    values = np.random.default_rng(3).normal(size=3000)
    general = bootstrap_interval(lambda rows: float(values[rows].mean()), 3000, resamples=1500, seed=5)
    fast = interval(bootstrap_sums(values[:, None], resamples=1500, seed=5)[:, 0] / 3000)
    assert fast == pytest.approx(general, rel=1e-12)


def test_bootstrap_repeats_with_its_seed() -> None:
    """One seed gives one interval, another seed another."""
    features = np.random.default_rng(0).normal(size=(40, 2))
    first, again, other = (bootstrap_sums(features, 100, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_basic_interval_mirrors_the_percentiles() -> None:
    """The basic interval is the percentile one mirrored at the point."""
    values = np.linspace(0, 1, 1001)
    assert interval(values, 0.9) == pytest.approx((0.05, 0.95))
    assert interval(values, 0.9, method="basic", point=0.4) == pytest.approx((-0.15, 0.75))


def test_interval_leaves_undefined_resamples_out() -> None:
    """A resample without a value does not turn the interval into NaN."""
    assert interval(np.array([np.nan, 2.0, 2.0])) == (2.0, 2.0)


@pytest.mark.parametrize(("successes", "n"), [(1, 1), (5, 10), (40, 47), (47, 47), (900, 1000)])
def test_exact_lower_bound_is_clopper_pearson(successes: int, n: int) -> None:
    """The bound is the proportion at which so many successes or more have probability 5%."""
    bound = exact_lower_bound(successes, n)
    assert stats.binom.sf(successes - 1, n, bound) == pytest.approx(0.05)
    peer = stats.binomtest(successes, n, alternative="greater").proportion_ci(0.95, method="exact").low
    assert bound == pytest.approx(peer)


def test_exact_lower_bound_without_success_is_zero() -> None:
    assert exact_lower_bound(0, 20) == 0.0
    assert exact_lower_bound(0, 0) == 0.0
