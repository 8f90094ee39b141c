"""Whether new data can be told from old ones."""

import numpy as np
import pytest

from components.core.evaluation.drift import drift


def rows(number: int, shift: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (number, 12))


def test_rows_of_the_same_kind_are_not_told_apart() -> None:
    """Of 300 new rows about 5% are above the mark that 5% of the old ones are above; the interval holds it."""
    found = drift(rows(600, 0, 1), rows(300, 0, 2), [""] * 900)
    assert found is not None
    assert found.low <= 0.05 <= found.high
    assert (found.new, found.old) == (300, 600)


def test_rows_of_another_kind_are_told_apart() -> None:
    found = drift(rows(600, 0, 1), rows(300, 1, 2), [""] * 900)
    assert found is not None
    assert found.low > 0.5


def test_a_group_is_not_learned_by_heart() -> None:
    """Near-copies of old rows among the new ones are in the same fold, so they are no drift and no evidence of none."""
    old = rows(200, 0, 1)
    found = drift(old, old + 1e-3, [f"g{i}" for i in range(200)] * 2)
    assert found is not None
    assert found.share <= 0.1


@pytest.mark.parametrize(("old", "new"), [(5, 300), (300, 5), (300, 0)])
def test_few_rows_say_nothing(old: int, new: int) -> None:
    assert drift(rows(old, 0, 1), rows(new, 3, 2), [""] * (old + new)) is None
