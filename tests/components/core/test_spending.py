"""The budget of looks at the test rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from components.core.spending import Look, level, next_look


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
    assert "changed to 0.05 over 2" in next_look(past[:2], 0.05, 2).opened
    assert next_look([], 0.05, 3).opened == "the first look"


def promoted(looks: int, rows: int, discordance: float, growth: float, levels: np.ndarray) -> float:
    """Share of 10,000 simulated series of looks in which an equal challenger is promoted at least once.

    Every look has its own challenger, as good as the champion; the test set grows between looks.
    """
    generator = np.random.default_rng(looks * rows)
    sizes = (rows * (1 + growth) ** np.arange(looks)).astype(np.int64)
    differ = generator.binomial(np.broadcast_to(sizes, (10_000, looks)), discordance)
    wins = generator.binomial(differ, 0.5)
    p = np.where(wins > 0, special.betainc(np.maximum(wins, 1), differ - wins + 1, 0.5), 1.0)
    return float((p <= levels).any(axis=1).mean())


@pytest.mark.parametrize("rows", [50, 200, 1000, 4000])
@pytest.mark.parametrize("discordance", [0.02, 0.08, 0.25])
def test_equal_models_are_promoted_in_at_most_alpha_of_half_years(rows: int, discordance: float) -> None:
    """10,000 half years of equal challengers, the test set growing by 5 % a week: within 3 standard errors of alpha."""
    error = np.sqrt(0.05 * 0.95 / 10_000)
    assert promoted(26, rows, discordance, 0.05, np.full(26, level(0.05, 26))) <= 0.05 + 3 * error


def test_without_a_budget_half_of_the_half_years_go_wrong() -> None:
    """The same looks at 0.05 each promote an equal challenger more often than not: what the budget is for."""
    assert promoted(26, 1000, 0.08, 0.05, np.full(26, 0.05)) > 0.5


@pytest.mark.parametrize(("rows", "discordance", "gain", "power"), [(1000, 0.08, 0.035, 0.8), (4000, 0.08, 0.018, 0.8)])
def test_a_better_model_is_promoted_with_the_promised_power(
    rows: int, discordance: float, gain: float, power: float
) -> None:
    """The gains that the documentation promises to be told with 80 % at a 26th of 0.05."""
    generator = np.random.default_rng(rows)
    differ = generator.binomial(rows, discordance, 10_000)
    wins = generator.binomial(differ, 0.5 + gain / (2 * discordance))
    p = special.betainc(np.maximum(wins, 1), differ - wins + 1, 0.5)
    assert float((p <= level(0.05, 26)).mean()) >= power
