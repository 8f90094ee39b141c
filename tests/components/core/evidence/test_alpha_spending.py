"""The budget of looks at the test rows."""

from functools import cache
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.evidence.alpha_spending import Budget, Look, next_look
from components.core.evidence.contest import Contest
from components.core.evidence.gate import decide, passes
from components.core.evidence.paired_tests import mcnemar_exact
from components.core.settings import Settings

SERIES = 300  # contests of a better model with the champion


def series(plan: list[tuple[float, int]]) -> list[Look]:
    past: list[Look] = []
    for alpha, horizon in plan:
        past.append(next_look(past, alpha, horizon).look)
    return past


@given(st.floats(0.001, 0.4), st.integers(1, 60))
def test_the_levels_of_a_horizon_add_up_to_alpha(alpha: float, horizon: int) -> None:
    """Whatever depends on what, the probability of a wrong promotion is then at most alpha."""
    past: list[Look] = []
    total = 0.0
    for _ in range(horizon):
        budget = next_look(past, alpha, horizon)
        total += budget.level
        past.append(budget.look)
        assert budget.spent == pytest.approx(total)
    assert total == pytest.approx(alpha)
    assert next_look(past, alpha, horizon).look.number == 1


def test_only_a_used_up_or_changed_horizon_refills_the_budget() -> None:
    """The first look, the one after the last and the one after a change open a horizon, and say why."""
    past = series([(0.05, 3)] * 3)
    assert [look.number for look in past] == [1, 2, 3]
    assert "used up" in next_look(past, 0.05, 3).opened
    assert next_look(past[:2], 0.05, 3).opened == ""
    assert next_look(series([(0.05, 3)] * 5), 0.05, 3).look == Look(3, 0.05, 3, 2)
    assert "changed to 0.05 over 2" in next_look(past[:2], 0.05, 2).opened
    assert next_look([], 0.05, 3).opened == "the first look"


def test_looks_that_overtake_each_other_are_counted_all_the_same() -> None:
    """A run that began before another one may look after it: the order of the runs refills nothing."""
    past = series([(0.05, 3)] * 5)
    for order in permutations(past):
        assert next_look(order, 0.05, 3).look == Look(3, 0.05, 3, 2)


HALF_YEARS, LOOKS, RIGHT = 10_000, 26, 0.7


def horizon(alpha: float, looks: int) -> list[Budget]:
    """The budgets of a horizon, as `evaluate` takes them one by one."""
    past: list[Look] = []
    found = []
    for _ in range(looks):
        found.append(next_look(past, alpha, looks))
        past.append(found[-1].look)
    return found


def promoted(rows: int, discordance: float, levels: list[float]) -> float:
    """Share of simulated half years in which an equal challenger is promoted at least once.

    The test set grows by 5% a look and keeps its rows, with the champion's answers to them: a champion that was lucky
    on them stays so. Every look has its own challenger, as good as the champion, that answers a share otherwise.
    """
    generator = np.random.default_rng(rows * 100 + round(discordance * 100))
    sizes = (rows * 1.05 ** np.arange(LOOKS)).astype(np.int64)
    right = np.cumsum(generator.binomial(np.diff(sizes, prepend=0), RIGHT, (HALF_YEARS, LOOKS)), axis=1)
    losses = generator.binomial(right, discordance / 2 / RIGHT)
    wins = generator.binomial(sizes - right, discordance / 2 / (1 - RIGHT))

    @cache
    def passed(won: int, lost: int, level: float) -> bool:
        return passes(mcnemar_exact(won, lost), won - lost, level)

    series_ = zip(wins.tolist(), losses.tolist(), strict=True)
    return float(np.mean([any(map(passed, won, lost, levels)) for won, lost in series_]))


FEW = {(50, 0.25), (1000, 0.08), (4000, 0.02)}
CORNERS = [
    pytest.param(rows, discordance, marks=[] if (rows, discordance) in FEW else pytest.mark.slow)
    for rows in (50, 200, 1000, 4000)
    for discordance in (0.02, 0.08, 0.25)
]


@pytest.mark.parametrize(("rows", "discordance"), CORNERS)
def test_equal_models_are_promoted_in_at_most_alpha_of_half_years(rows: int, discordance: float) -> None:
    """10,000 half years of equal challengers, the test set growing every week: within 3 standard errors of alpha."""
    error = np.sqrt(0.05 * 0.95 / HALF_YEARS)
    levels = [budget.level for budget in horizon(0.05, LOOKS)]
    assert promoted(rows, discordance, levels) <= 0.05 + 3 * error


def test_without_a_budget_half_of_the_half_years_go_wrong() -> None:
    """The same looks at 0.05 each promote an equal challenger more often than not: what the budget is for."""
    assert promoted(1000, 0.08, [0.05] * LOOKS) > 0.5


@pytest.mark.parametrize(
    ("looks", "gain"),
    [(1, 0.023), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((4, 0.028), (26, 0.034)))],
)
def test_a_better_model_is_promoted_with_the_promised_power(looks: int, gain: float) -> None:
    """Gains that the documentation's table has told with 80% on 1,000 rows pass the whole gate as often."""
    generator, settings = np.random.default_rng(looks), Settings(gate_horizon=looks)
    budget, accepted = horizon(0.05, looks)[0], 0
    for _ in range(SERIES):
        won, lost, same = generator.multinomial(1000, [0.04 + gain / 2, 0.04 - gain / 2, 0.92])
        champion = np.repeat([0.0, 1.0, 1.0], [won, lost, same])
        challenger = np.repeat([1.0, 0.0, 1.0], [won, lost, same])
        ones = np.ones(1000, dtype=bool)
        slices = {"class": [f"class{row % 10}" for row in range(1000)]}
        contest = Contest("1", champion, challenger, np.full(1000, "", dtype=object), slices, ones, ~ones)
        accepted += decide(contest, settings, budget, "accuracy").accepted
    assert accepted / SERIES >= 0.8 - 3 * np.sqrt(0.8 * 0.2 / SERIES)
