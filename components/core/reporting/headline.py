"""The first sentence of a report, for a reader who decides and does not test: what to do, and two counts."""

import math
from collections.abc import Mapping
from typing import Any

from components.core.contract.metric_names import label
from components.core.contract.task import Metric

REASONS = {  # of a condition that blocks a promotion, by its name; others speak for themselves
    "rows of the champion's promotion": "it may be worse on the rows that the champion was promoted on",
    "slices": "it is clearly worse on a part of the data",
    "label rates": "its training labels have shifted",
    "classes": "it no longer knows a class",
    "calibration": "its confidence is off",
    "latency": "it is too slow",
}


def headline(
    evidence: Mapping[str, Any], metric: Metric, figures: tuple[float, float], rows: int, kind: str, *, accepted: bool
) -> str:
    """Return what to do with a new model, and why, in one sentence.

    Args:
        evidence: Of the gate, as `evidence.json` has it.
        metric: The headline metric.
        figures: Its value, and that of the trivial model.
        rows: Test rows.
        kind: What they are: pictures, texts, sounds, or rows.
        accepted: Whether the gate accepted the model.
    """
    if evidence.get("rule") == "none":
        return "Keep the champion: the new model is the same, weight for weight."
    if "wins" not in evidence:
        return _first(metric, figures, rows, kind, accepted=accepted)
    version, compared = evidence["version"], _compared_rows(evidence, rows)
    ours, theirs = (float(evidence[side]) for side in ("challenger", "champion"))
    if metric.right_or_wrong and evidence["metric"] == metric.name:
        counts = (
            f"the new model was right on {round(ours * compared)} of {compared} test {kind}, version {version} on "
            f"{round(theirs * compared)}"
        )
    else:
        name = label(evidence["metric"])
        counts = (
            f"on {compared} test {kind} the new model has {name} {_number(ours)}, version {version} {_number(theirs)}"
        )
    if accepted:
        sure = "" if evidence.get("rule") == "superiority" else "; that is within the margin"
        return f"Use the new model instead of version {version}: {counts}{sure}."
    return f"Keep version {version}: {counts}; {_reason(evidence, ours - theirs)}."


def _first(metric: Metric, figures: tuple[float, float], rows: int, kind: str, *, accepted: bool) -> str:
    own, trivial = figures
    if metric.right_or_wrong:
        text = (
            f"it is right on {round(own * rows)} of {rows} test {kind}; the most frequent answer alone would be right "
            f"on {round(trivial * rows)}"
        )
    else:
        text = f"its {label(metric.name)} is {_number(own)} on {rows} test {kind}, {_number(trivial)} without learning"
    if accepted:
        return f"Use this first version: {text}."
    return f"Don't use this first version yet: {text}; that is no clear lead."


def _compared_rows(evidence: Mapping[str, Any], rows: int) -> int:
    parts = [evidence.get(name, {}).get("rows") for name in ("recent", "older")]
    return sum(parts) if all(isinstance(part, int) for part in parts) else rows


def _reason(evidence: Mapping[str, Any], gain: float) -> str:
    """Why the champion stays."""
    tested, *conditions = [*evidence.get("checks", ())] or [{"passed": False}]
    failed = next((check for check in conditions if not check["passed"]), None)
    if tested["passed"] and failed:
        return REASONS.get(failed["name"], f"it {failed['sentence']}")
    if not gain:
        return "no better"
    return "too few to tell" if evidence["wins"] > evidence["losses"] else "not better"


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "undefined"
