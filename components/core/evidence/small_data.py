"""The power of few test rows: how clearly a challenger has to win, reported before anything is trained."""

from collections.abc import Callable
from dataclasses import dataclass

from components.core.evidence.alpha_spending import level
from components.core.evidence.intervals import exact_lower_bound
from components.core.evidence.paired_tests import Counts, mcnemar_exact, score_test
from components.core.settings import Settings

FEW = 0.05  # share of the test units that a challenger has to win, above which they are few
SHORT_HORIZON = 4  # looks: what a shorter horizon than the default would ask for


def wins_needed(units: int, level_: float, margin: float | None = None) -> int | None:
    """The fewest units that a challenger without a loss has to win for the gate's exact test to promote it.

    Args:
        units: Test rows, or groups of them.
        level_: Significance level of a look.
        margin: Of non-inferiority; None for superiority.

    Returns:
        None if even all of them are too few.
    """

    def enough(wins: int) -> bool:
        p = mcnemar_exact(wins, 0) if margin is None else score_test(Counts(wins, 0, units), -margin)
        return p <= level_

    return _least(enough, 1, units)  # equal answers never promote


def right_needed(rows: int, trivial: float) -> int | None:
    """The fewest right answers whose exact one-sided 95% bound is above the trivial model's share; None: none do."""
    return _least(lambda right: exact_lower_bound(right, rows) > trivial, 1, rows)


@dataclass(frozen=True)
class Rows:
    """The rows that a model is judged on."""

    validation: int
    test: int
    units: int  # what the gate compares: the test rows, or groups of them
    trivial: float | None  # share of right answers of the trivial model; None where there is a champion to beat
    exact: bool = True  # whether answers are right or wrong, and that decides; else swaps of answers do


def sentence(rows: Rows, settings: Settings) -> str:
    """Say what a model must reach on few test rows under the rules of the gate; return "" if there are enough rows."""
    look, superiority = level(settings.gate_alpha, settings.gate_horizon), settings.gate == "superiority"
    needed = wins_needed(rows.units, look, None if superiority or not rows.exact else settings.gate_margin)
    if needed is not None and (not rows.exact or needed <= FEW * rows.units):  # m units have 2 ** m swaps
        return ""
    groups = "" if rows.units == rows.test else f" in {rows.units} groups"
    first = ""
    if rows.exact and rows.trivial is not None and (right := right_needed(rows.test, rows.trivial)):
        first = f"the first version needs {right} right answers, and "
    if needed is None:
        end = "no challenger can be promoted"
    else:
        end = f"a challenger needs {needed} {'win' if needed == 1 else 'wins'} and no loss"
    help_ = _help(rows.units, settings, needed) if rows.exact else ""
    return (
        f"{rows.validation} validation and {rows.test} test rows{groups}, which are few: {first}{end} at the level of "
        f"a look, {look:.2g}{help_}"
    )


def _help(units: int, settings: Settings, needed: int | None) -> str:
    """Name the changes that would require fewer wins."""
    short = level(settings.gate_alpha, SHORT_HORIZON)
    margin = None if settings.gate == "superiority" else settings.gate_margin
    ways = {f"with --gate-horizon {SHORT_HORIZON}": wins_needed(units, short, margin)}
    if margin is None:
        now = level(settings.gate_alpha, settings.gate_horizon)
        ways["with --gate non-inferiority"] = wins_needed(units, now, settings.gate_margin)
    better = [f"{wins} {way}" for way, wins in ways.items() if wins and (needed is None or wins < needed)]
    return f" ({', '.join([*better, 'a smaller share with more test rows'])})"


def _least(holds: Callable[[int], bool], start: int, stop: int) -> int | None:
    return next((number for number in range(start, stop + 1) if holds(number)), None)
