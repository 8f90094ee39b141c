"""The gate: whether a challenger replaces the champion, from their answers to the same locked test rows.

A tie keeps the champion. One test decides, at the level that the budget of looks leaves (`alpha_spending.py`); every
other check can only block, so none of them adds to the probability of a wrong promotion.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from components.core.evidence.alpha_spending import Budget
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
from components.core.settings import Settings

Array: TypeAlias = np.ndarray[Any, Any]

BLOCKING = 0.05  # level of the checks that can only block
CHANCE = 0.01  # a shift of label rates that chance explains with more than this probability blocks nothing


@dataclass(frozen=True)
class Figures:
    """A metric other than the share of right answers, as a function of sums over rows."""

    name: str
    sign: int  # 1 where higher is better, else -1
    champion: Array  # features float[n, k]
    challenger: Array
    figure: Callable[[Array], Array]  # sums float[r, k] -> float[r]


@dataclass(frozen=True)
class Contest:
    """Both models on the same test rows, those of classes that both know."""

    version: str  # the champion's
    champion: Array  # scores float[n], higher is better
    challenger: Array
    groups: Array  # str[n], unit of each row; empty: the row itself
    slices: Mapping[str, Sequence[str]]  # column, such as the class -> its value in each row
    locked: Array  # bool[n]: rows that were test rows when the champion was promoted
    recent: Array  # bool[n]: rows that came in last
    passed_over: int = 0  # rows that the champion was trained on
    new_classes: Sequence[str] = ()
    removed_classes: Sequence[str] = ()
    label_counts: tuple[Mapping[str, int], Mapping[str, int]] = field(default=({}, {}))  # champion's, challenger's
    calibration_error: float = math.nan  # of the challenger
    latency_ratio: float = math.nan  # challenger's seconds for a row over the champion's
    figures: Figures | None = None  # None: the scores themselves decide
    right_or_wrong: bool = True  # scores are 0 or 1; if they are not, units are compared by their mean


@dataclass(frozen=True)
class Check:
    """One condition of a promotion."""

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger goes to production, why, and against which version."""

    accepted: bool
    sentence: str
    champion: str  # the version compared with; empty where there was none
    evidence: Mapping[str, Any]


def first_version(metric: str, value: float, bound: float, trivial: float, rows: int, sign: int = 1) -> Verdict:
    """A model without a champion has to beat the trivial model: its bound against the other's figure.

    Args:
        metric: Its name.
        value: The model's figure.
        bound: Its one-sided 95 % bound: the lower one, or the upper one where lower is better.
        trivial: The trivial model's figure.
        rows: Test rows.
        sign: 1 where a higher figure is better, else -1.
    """
    accepted = sign * (bound - trivial) > 0
    end, side = ("lower", "above") if sign > 0 else ("upper", "below")
    sentence = (
        f"First version: the {end} bound of its {metric} {'is' if accepted else 'is not'} {side} the trivial model "
        f"({bound:.3f} against {trivial:.3f}, {metric} {value:.3f} on {rows} test rows)."
    )
    return Verdict(accepted, sentence, "", {"rule": "baseline", "bound": bound, "baseline": trivial})


def decide(contest: Contest, settings: Settings, budget: Budget, metric: str) -> Verdict:
    """Whether the challenger replaces the champion.

    Args:
        contest: The two models' answers.
        settings: The rules: `gate`, `gate_margin`, `slice_margin` and the limits.
        budget: What this look may use of alpha.
        metric: Name of what the scores are.
    """
    if not contest.champion.size:
        text = f"No test row is left that the champion, version {contest.version}, can be compared on."
        return Verdict(accepted=False, sentence=text, champion=contest.version, evidence={"rule": settings.gate})
    counts = paired_counts(contest.champion, contest.challenger, contest.groups)
    tested, outcome = _tested(contest, counts, settings, budget, metric)
    slices = _slices(contest, settings)
    checks = [tested, _on_locked_rows(contest, settings), *_conditions(contest, settings, slices)]
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
    """What a test of the two models gave."""

    metric: str
    champion: float
    challenger: float
    gain: float  # above 0 where the challenger is better
    interval: tuple[float, float]  # 95 %, of the gain
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
        sentence = f"The challenger gives the answers of the champion, version {contest.version}: a tie keeps it."
        return Check("test", passed=False, sentence=sentence), outcome
    passed = passes(outcome.p, outcome.gain, budget.level, superiority=superiority)
    verdict = {
        (True, True): "beats",
        (True, False): "does not beat",
        (False, True): f"is not worse by more than {margin:g} than",
        (False, False): f"is not shown to be within {margin:g} of",
    }[superiority, passed]
    groups = "" if counts.units == contest.champion.size else f" in {counts.units} groups"
    sentence = (
        f"The challenger {verdict} the champion, version {contest.version}, on the same {contest.champion.size} test "
        f"rows{groups}: {outcome.metric} {outcome.challenger:.3f} against {outcome.champion:.3f}{outcome.detail} "
        f"({outcome.method}, one-sided p {_told(outcome.p)}, level {budget.level:.4f} at look {budget.look.number} of "
        f"{budget.look.horizon})."
    )
    return Check("test", passed, sentence), outcome


def passes(p: float, gain: float, level: float, *, superiority: bool = True) -> bool:
    """Whether a test promotes, as far as it is up to the test: a tie never does where a challenger has to be better."""
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
        method="exact McNemar" if margin is None else _method(contest),
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
        p = max(bootstrap_p(differences, -margin), _above(contest, np.arange(contest.champion.size), -margin))
    return _Outcome(
        metric=figures.name,
        champion=champion,
        challenger=challenger,
        gain=figures.sign * (challenger - champion),
        interval=interval(differences),
        p=p,
        method="swap permutation test" if margin is None else f"bootstrap and {_method(contest)}",
        detail="",
        smallest_told=_finite(smallest_told_about(differences, differing, level, margin)),
        smallest_told_approximate=True,
    )


def _on_locked_rows(contest: Contest, settings: Settings) -> Check:
    """At least non-inferior on the rows on which the champion was promoted; without any left, nothing is shown."""
    rows = np.flatnonzero(contest.locked)
    name = "rows of the champion's promotion"
    if not rows.size:
        return Check(name, False, "can't be compared on the rows that the champion was promoted on: none is left")
    counts = paired_counts(contest.champion[rows], contest.challenger[rows], contest.groups[rows])
    p = _above(contest, rows, -settings.gate_margin) if counts.losses else 0.0
    sentence = (
        f"is not shown to be within {settings.gate_margin:g} on the {counts.units} units that the champion was "
        f"promoted on (better on {counts.wins}, worse on {counts.losses}, p {_told(p)})"
    )
    return Check(name, p <= BLOCKING, sentence)


def _above(contest: Contest, rows: Array, difference: float, *, swapped: bool = False) -> float:
    """One-sided p-value that the challenger's score on some rows is higher by more than `difference`.

    By the test that suits the scores: of shares where they say right or wrong, else of means. Swapped, the p-value that
    the champion's is.
    """
    sides = [contest.champion[rows], contest.challenger[rows]]
    old, new = reversed(sides) if swapped else sides
    if contest.right_or_wrong:
        return score_test(paired_counts(old, new, contest.groups[rows]), difference)
    return t_test(old, new, contest.groups[rows], difference)


def _method(contest: Contest) -> str:
    return "score test of Tango" if contest.right_or_wrong else "paired t-test"


def _slices(contest: Contest, settings: Settings) -> list[dict[str, Any]]:
    """Every slice with its counts and the adjusted p-value that it falls by more than the margin."""
    found: list[dict[str, Any]] = []
    for column, values in contest.slices.items():
        names = np.asarray(values, dtype=object)
        for value in sorted(set(values)):
            rows = np.flatnonzero(names == value)
            counts = paired_counts(contest.champion[rows], contest.challenger[rows], contest.groups[rows])
            found.append(
                {
                    "column": column,
                    "value": value,
                    "champion": float(contest.champion[rows].mean()),
                    "challenger": float(contest.challenger[rows].mean()),
                    **asdict(counts),
                    "p_fall": _above(contest, rows, settings.slice_margin, swapped=True),
                }
            )
    adjusted = holm([row["p_fall"] for row in found])
    return [{**row, "p_fall": p, "falls": p <= BLOCKING} for row, p in zip(found, adjusted, strict=True)]


def _conditions(contest: Contest, settings: Settings, slices: Sequence[Mapping[str, Any]]) -> list[Check]:
    """What else has to hold; limits that are 0 are not checked."""
    fallen = [
        f"{row['column']} {row['value']} ({row['champion']:.2f} to {row['challenger']:.2f})"
        for row in slices
        if row["falls"]
    ]
    shifted = label_shift(*contest.label_counts, settings.max_label_shift)
    gone = ", ".join(contest.removed_classes)
    checks = [
        Check("slices", not fallen, f"falls by more than {settings.slice_margin:g} in {', '.join(fallen)}"),
        Check("label rates", not shifted, f"was trained on other shares of {', '.join(shifted)}"),
        Check(
            "classes",
            not gone or settings.allow_removed_class,
            f"no longer knows {gone}, which takes --allow-removed-class",
        ),
    ]
    if limit := settings.max_calibration_error:
        error = contest.calibration_error
        checks.append(Check("calibration", error <= limit, f"has a calibration error of {error:.3f}, above {limit:g}"))
    if limit := settings.max_latency_ratio:
        ratio = contest.latency_ratio
        checks.append(Check("latency", ratio <= limit, f"takes {ratio:.2f} times as long for a row, above {limit:g}"))
    return checks


def label_shift(champion: Mapping[str, int], challenger: Mapping[str, int], limit: float) -> list[str]:
    """The classes whose share of the labels changed by more than `limit` times itself, and by more than chance.

    Shares are those among the classes that both have. Chance is judged by Fisher's exact test, adjusted for the number
    of classes.

    Args:
        champion: Training labels by class that the champion saw.
        challenger: Those that the challenger saw.
        limit: Relative change, such as 0.5; 0 looks for none.
    """
    common = sorted(champion.keys() & challenger.keys())
    before, after = (sum(counts[name] for name in common) for counts in (champion, challenger))
    if not limit or not before or not after:
        return []
    tables = [[[champion[n], before - champion[n]], [challenger[n], after - challenger[n]]] for n in common]
    p_values = holm([float(stats.fisher_exact(table).pvalue) for table in tables])
    found = []
    for name, p in zip(common, p_values, strict=True):
        old, new = champion[name] / before, challenger[name] / after
        if p <= CHANCE and abs(new - old) > limit * old:
            found.append(f"{name} ({old:.1%} to {new:.1%})")
    return found


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


def _told(p: float) -> str:
    return f"= {p:.4f}" if p >= 0.0001 else "< 0.0001"  # noqa: PLR2004 - four digits


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
