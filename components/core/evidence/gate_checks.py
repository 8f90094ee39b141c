"""The checks that only block a promotion: locked rows, slices, label rates, classes, calibration, latency."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from components.core.evidence.contest import Array, Contest
from components.core.evidence.paired_tests import (
    holm,
    paired_counts,
    score_test,
    t_test,
)
from components.core.settings import Settings

BLOCKING = 0.05  # level of the checks that can only block
CHANCE = 0.01  # a shift of label rates that chance explains with more than this probability blocks nothing


@dataclass(frozen=True)
class Check:
    """One condition of a promotion."""

    name: str
    passed: bool
    sentence: str


def on_locked_rows(contest: Contest, settings: Settings) -> Check:
    """At least non-inferior on the rows on which the champion was promoted; without any left, nothing is shown."""
    rows = np.flatnonzero(contest.locked)
    name = "rows of the champion's promotion"
    if not rows.size:
        return Check(name, False, "can't be compared on the rows that the champion was promoted on: none is left")
    counts = paired_counts(contest.champion[rows], contest.challenger[rows], contest.groups[rows])
    p = p_above(contest, rows, -settings.gate_margin) if counts.losses else 0.0
    sentence = (
        f"is not shown to be within {settings.gate_margin:g} on the {counts.units} units that the champion was "
        f"promoted on (better on {counts.wins}, worse on {counts.losses}, p {p_in_words(p)})"
    )
    return Check(name, p <= BLOCKING, sentence)


def p_above(contest: Contest, rows: Array, difference: float, *, swapped: bool = False) -> float:
    """One-sided p-value that the challenger's score on some rows is higher by more than `difference`.

    By the test that suits the scores: of shares where they say right or wrong, else of means. Swapped, the p-value that
    the champion's is.
    """
    sides = [contest.champion[rows], contest.challenger[rows]]
    old, new = reversed(sides) if swapped else sides
    if contest.right_or_wrong:
        return score_test(paired_counts(old, new, contest.groups[rows]), difference)
    return t_test(old, new, contest.groups[rows], difference)


def method_of(contest: Contest) -> str:
    """Name the test that `p_above` makes."""
    return "score test of Tango" if contest.right_or_wrong else "paired t-test"


def slices_of(contest: Contest, settings: Settings) -> list[dict[str, Any]]:
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
                    "p_fall": p_above(contest, rows, settings.slice_margin, swapped=True),
                }
            )
    adjusted = holm([row["p_fall"] for row in found])
    return [{**row, "p_fall": p, "falls": p <= BLOCKING} for row, p in zip(found, adjusted, strict=True)]


def conditions(contest: Contest, settings: Settings, slices: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Check the further conditions; limits that are 0 are not checked."""
    fallen = [
        f"{row['column']} {row['value']} ({row['champion']:.2f} to {row['challenger']:.2f})"
        for row in slices
        if row["falls"]
    ]
    shifted = label_shift(*contest.label_counts, settings.max_label_shift)
    gone = ", ".join(contest.removed_classes)
    checks = [
        Check("slices", not fallen, f"falls by more than {settings.slice_margin:g} in {', '.join(fallen)}"),
        Check("label rates", not shifted, f"was trained on different shares of {', '.join(shifted)}"),
        Check(
            "classes",
            not gone or settings.allow_removed_class,
            f"no longer knows {gone}, which needs --allow-removed-class",
        ),
    ]
    if limit := settings.max_calibration_error:
        error = contest.calibration_error
        checks.append(Check("calibration", error <= limit, f"has a calibration error of {error:.3f}, above {limit:g}"))
    if limit := settings.max_latency_ratio:
        ratio = contest.latency_ratio
        checks.append(Check("latency", ratio <= limit, f"takes {ratio:.2f} times as long per row, above {limit:g}"))
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


def p_in_words(p: float) -> str:
    """Write a p-value as a sentence takes it, with its sign of comparison."""
    return f"= {p:.4f}" if p >= 0.0001 else "< 0.0001"  # noqa: PLR2004 - four digits
