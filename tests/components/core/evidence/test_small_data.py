"""What few test rows can show."""

import pytest

from components.core.evidence.alpha_spending import level
from components.core.evidence.intervals import exact_lower_bound
from components.core.evidence.paired_tests import Counts, mcnemar_exact, score_test
from components.core.evidence.small_data import Rows, right_needed, sentence, wins_needed
from components.core.settings import Settings

LOOK = level(0.05, 26)


@pytest.mark.parametrize("units", [10, 33, 1000])
def test_the_wins_needed_are_those_of_the_gate(units: int) -> None:
    """The exact test promotes with so many wins and no loss, and not with one fewer."""
    needed = wins_needed(units, LOOK)
    assert needed == 10
    assert mcnemar_exact(needed, 0) <= LOOK < mcnemar_exact(needed - 1, 0)
    assert wins_needed(9, LOOK) is None


def test_non_inferiority_needs_fewer_wins_of_more_rows() -> None:
    """The score test decides, and with enough rows one win is enough; equal answers never are."""
    needed = wins_needed(100, LOOK, 0.03)
    assert needed is not None
    assert score_test(Counts(needed, 0, 100), -0.03) <= LOOK < score_test(Counts(needed - 1, 0, 100), -0.03)
    assert wins_needed(5000, LOOK, 0.03) == 1


def test_the_first_version_has_to_beat_the_trivial_model() -> None:
    """So many right answers have a lower bound above the trivial model's share, and one fewer does not."""
    right = right_needed(49, 0.2)
    assert right is not None
    assert exact_lower_bound(right, 49) > 0.2 >= exact_lower_bound(right - 1, 49)
    assert right_needed(3, 0.9) is None


def test_few_rows_are_told_with_what_helps() -> None:
    """The sentence names the rows, what is needed, and how many wins other rules would need."""
    assert sentence(Rows(50, 49, 49, 0.2), Settings()) == (
        "50 validation and 49 test rows, which are few: the first version needs 16 right answers, and a challenger "
        "needs 10 wins and no loss at the level of a look, 0.0019 (7 with --gate-horizon 4, 7 with --gate "
        "non-inferiority, a smaller share with more test rows)"
    )
    assert sentence(Rows(50, 49, 40, None), Settings()).startswith(
        "50 validation and 49 test rows in 40 groups, which are few: a challenger needs 10 wins and no loss"
    )
    assert "no challenger can be promoted" in sentence(Rows(8, 8, 8, None), Settings())


@pytest.mark.parametrize(
    "rows", [Rows(200, 200, 200, 0.2), Rows(9, 5000, 5000, None), Rows(40, 40, 40, 0.2, exact=False)]
)
def test_enough_rows_are_no_news(rows: Rows) -> None:
    """Nothing is said where a challenger needs 5% of the rows or less, or where the answers are no counts."""
    assert sentence(rows, Settings()) == ""


def test_too_few_rows_for_any_swap_are_told() -> None:
    """Eight rows have 256 swaps: no p-value reaches the level of a look."""
    assert "no challenger can be promoted" in sentence(Rows(8, 8, 8, None, exact=False), Settings())
