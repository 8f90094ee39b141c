"""The promotion gate: decide between champion and challenger from their answers to the same locked test rows.

A tie keeps the champion. One test decides, at the level that the budget of looks leaves (`alpha_spending.py`); every
other check can only block, so none of them adds to the probability of a wrong promotion.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from components.core.contract.metric_names import label
from components.core.evidence.alpha_spending import Budget
from components.core.evidence.contest import Array, Contest, Figures
from components.core.evidence.gate_checks import (
    BLOCKING,
    Check,
    conditions,
    method_of,
    on_locked_rows,
    p_above,
    p_in_words,
    slices_of,
)
from components.core.evidence.intervals import interval
from components.core.evidence.paired_tests import (
    Counts,
    bootstrap_differences,
    bootstrap_p,
    difference_interval,
    mcnemar_exact,
    paired_counts,
    score_test,
    smallest_told,
    smallest_told_about,
    swap_test,
    units_of,
)
from components.core.settings import Settings


@dataclass(frozen=True)
class Verdict:
    """The decision on a challenger, its reason, and the version it was compared with."""

    accepted: bool
    sentence: str
    champion: str  # the version compared with; empty where there was none
    evidence: Mapping[str, Any]


def first_version(
    metric: str, value: float, bound: float, trivial: float, rows: int, sign: int = 1, p: float | None = None
) -> Verdict:
    """A model without a champion has to beat the trivial model: its bound against the other's figure, and paired.

    The bound alone takes the trivial model's figure for certain, although it varies with the test rows too.

    Args:
        metric: Its name.
        value: The model's figure.
        bound: Its one-sided 95% bound: the lower one, or the upper one where lower is better.
        trivial: The trivial model's figure.
        rows: Test rows.
        sign: 1 if higher is better, else -1.
        p: One-sided p-value of a paired test against the trivial model's answers; None where these are no rows.
    """
    above, told = sign * (bound - trivial) > 0, p is None or p <= BLOCKING
    end, side = ("lower", "above") if sign > 0 else ("upper", "below")
    name = label(metric)
    sentence = (
        f"First version: the {end} bound of its {name} {'is' if above else 'is not'} {side} the trivial model's "
        f"({bound:.3f} against {trivial:.3f}, {name} {value:.3f} on {rows} test rows)."
    )
    if p is not None and above and not told:
        sentence += f" But row by row it can't be told apart from the trivial model (one-sided p {p_in_words(p)})."
    paired = {} if p is None else {"p": p}
    return Verdict(above and told, sentence, "", {"rule": "baseline", "bound": bound, "baseline": trivial, **paired})


def decide(contest: Contest, settings: Settings, budget: Budget, metric: str) -> Verdict:
    """Decide whether the challenger replaces the champion.

    Args:
        contest: The two models' answers.
        settings: The rules: `gate`, `gate_margin`, `slice_margin` and the limits.
        budget: What this look may use of alpha.
        metric: Name of what the scores are.
    """
    if not contest.champion.size:
        text = f"No test row is left for a comparison with the champion, version {contest.version}."
        return Verdict(accepted=False, sentence=text, champion=contest.version, evidence={"rule": settings.gate})
    counts = paired_counts(contest.champion, contest.challenger, contest.groups)
    tested, outcome = _tested(contest, counts, settings, budget, metric)
    slices = slices_of(contest, settings)
    checks = [tested, on_locked_rows(contest, settings), *conditions(contest, settings, slices)]
    failed = [check for check in checks[1:] if not check.passed]
    sentence = tested.sentence
    if failed:
        sentence += f" {'But it' if tested.passed else 'It also'} {'; it '.join(check.sentence for check in failed)}."
    evidence = {
        "rule": settings.gate,
        "version": contest.version,
        **{name: value for name, value in asdict(outcome).items() if name != "detail"},
        **asdict(counts),
        "difference": counts.difference,
        "alpha": budget.look.alpha,
        "level": budget.level,
        "look": budget.look.number,
        "horizon": budget.look.horizon,
        "spent": budget.spent,
        "opened": budget.opened,
        "checks": [asdict(check) for check in checks],
        "slices": slices,
        "recent": _side_by_side(contest, contest.recent),
        "older": _side_by_side(contest, ~contest.recent),
        "passed_over": contest.passed_over,
        "new_classes": list(contest.new_classes),
        "removed_classes": list(contest.removed_classes),
    }
    return Verdict(all(check.passed for check in checks), sentence, contest.version, evidence)


@dataclass(frozen=True)
class _Outcome:
    """Result of a test of the two models."""

    metric: str
    champion: float
    challenger: float
    gain: float  # above 0 where the challenger is better
    interval: tuple[float, float]  # 95%, of the gain
    p: float
    method: str
    detail: str  # for the sentence
    smallest_told: float | None  # difference that would have been enough; None where none would have been
    smallest_told_approximate: bool


def _tested(
    contest: Contest, counts: Counts, settings: Settings, budget: Budget, metric: str
) -> tuple[Check, _Outcome]:
    """The test that decides."""
    superiority, margin = settings.gate == "superiority", settings.gate_margin
    if contest.figures is None:
        outcome = _by_counts(contest, counts, metric, budget.level, None if superiority else margin)
    else:
        outcome = _by_resampling(contest, contest.figures, budget.level, None if superiority else margin)
    if not (counts.wins or counts.losses or outcome.gain):
        sentence = (
            f"The challenger gives the same answers as the champion, version {contest.version}: a tie keeps "
            "the champion."
        )
        return Check("test", passed=False, sentence=sentence), outcome
    passed = passes(outcome.p, outcome.gain, budget.level, superiority=superiority)
    verdict = {
        (True, True): "beats",
        (True, False): "does not beat",
        (False, True): f"is not worse by more than {margin:g} than",
        (False, False): f"is not shown to be within {margin:g} of",
    }[superiority, passed]
    groups = "" if counts.units == contest.champion.size else f" in {counts.units} groups"
    name = label(outcome.metric)
    sentence = (
        f"The challenger {verdict} the champion, version {contest.version}, on the same {contest.champion.size} test "
        f"rows{groups}: {name} {outcome.challenger:.3f} against {outcome.champion:.3f}{outcome.detail} "
        f"({outcome.method}, one-sided p {p_in_words(outcome.p)}, level {budget.level:.4f} at look "
        f"{budget.look.number} of {budget.look.horizon})."
    )
    return Check("test", passed, sentence), outcome


def passes(p: float, gain: float, level: float, *, superiority: bool = True) -> bool:
    """Return whether a test promotes by itself: a tie never does if a challenger has to be better."""
    return p <= level and (gain > 0 or not superiority)


def _by_counts(contest: Contest, counts: Counts, metric: str, level: float, margin: float | None) -> _Outcome:
    """By the units that the two answer differently; `margin` is that of non-inferiority."""
    p = mcnemar_exact(counts.wins, counts.losses) if margin is None else score_test(counts, -margin)
    return _Outcome(
        metric=metric,
        champion=float(contest.champion.mean()),
        challenger=float(contest.challenger.mean()),
        gain=counts.difference,
        interval=difference_interval(counts),
        p=p,
        method="exact McNemar" if margin is None else method_of(contest),
        detail=f", better on {counts.wins} and worse on {counts.losses}",
        smallest_told=_finite(smallest_told(counts, level, margin)),
        smallest_told_approximate=False,
    )


def _by_resampling(contest: Contest, figures: Figures, level: float, margin: float | None) -> _Outcome:
    """By drawing swaps of the answers and resamples of the units, for any metric.

    Resamples of few units without a loss hold none either, so alone they would call a worse model non-inferior far
    more often than the level allows: the test of the scores has to agree.
    """
    draws = max(9_999, math.ceil(50 / level))  # so many that a p-value at the level is told from its neighbours
    units, sides = units_of(contest.groups, contest.champion.size), (figures.champion, figures.challenger)

    def higher_is_better(sums: Array) -> Array:
        return figures.sign * figures.figure(sums)

    differences = bootstrap_differences(*sides, higher_is_better, units, draws)
    champion, challenger = (float(figures.figure(side.sum(0)[None])[0]) for side in sides)
    differing = np.unique(units[np.any(figures.champion != figures.challenger, axis=1)]).size
    if margin is None:
        p = swap_test(*sides, higher_is_better, units, draws)
    else:
        p = max(bootstrap_p(differences, -margin), p_above(contest, np.arange(contest.champion.size), -margin))
    return _Outcome(
        metric=figures.name,
        champion=champion,
        challenger=challenger,
        gain=figures.sign * (challenger - champion),
        interval=interval(differences),
        p=p,
        method="swap permutation test" if margin is None else f"bootstrap and {method_of(contest)}",
        detail="",
        smallest_told=_finite(smallest_told_about(differences, differing, level, margin)),
        smallest_told_approximate=True,
    )


def _side_by_side(contest: Contest, rows: Array) -> dict[str, Any]:
    """Figures of some rows only, for the eye: they decide nothing."""
    some = np.flatnonzero(rows)
    counts = paired_counts(contest.champion[some], contest.challenger[some], contest.groups[some])
    means = [float(side[some].mean()) if some.size else None for side in (contest.champion, contest.challenger)]
    low, high = difference_interval(counts)
    return {
        "rows": int(some.size),
        "champion": means[0],
        "challenger": means[1],
        **asdict(counts),
        "low": low,
        "high": high,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
