"""The first sentence of a report."""

from typing import Any

import pytest

from components.core.contract.task import Metric
from components.core.reporting.headline import headline

ACCURACY = Metric("accuracy", right_or_wrong=True)
PART = {"rows": 20}
EVIDENCE: dict[str, Any] = {
    "rule": "superiority",
    "version": "1",
    "metric": "accuracy",
    "champion": 22 / 33,
    "challenger": 24 / 33,
    "wins": 3,
    "losses": 1,
    "recent": {"rows": 13},
    "older": {"rows": 20},
    "checks": [{"name": "test", "passed": False, "sentence": ""}],
}
PASSED = {"name": "test", "passed": True, "sentence": ""}


def said(evidence: dict[str, Any], *, accepted: bool = False, metric: Metric = ACCURACY) -> str:
    return headline(evidence, metric, (0.75, 0.2), 40, "pictures", accepted=accepted)


def test_a_tie_keeps_the_champion_with_both_counts() -> None:
    """Where the lead is within chance, the sentence has the right answers of both, on the rows that were compared."""
    assert said(EVIDENCE) == (
        "Keep version 1: the new model was right on 24 of 33 test pictures, version 1 on 22; too few to tell."
    )


@pytest.mark.parametrize(
    ("changed", "end"),
    [
        ({"challenger": 22 / 33, "wins": 1}, "; no better."),
        ({"challenger": 20 / 33, "wins": 0, "losses": 2}, "; not better."),
        (
            {"checks": [PASSED, {"name": "slices", "passed": False, "sentence": "falls"}]},
            "; it is clearly worse on a part of the data.",
        ),
        ({"checks": [PASSED, {"name": "own", "passed": False, "sentence": "is blue"}]}, "; it is blue."),
    ],
)
def test_the_reason_stands_behind_the_counts(changed: dict[str, Any], end: str) -> None:
    """No lead, a worse model and a failed condition are told apart."""
    assert said({**EVIDENCE, **changed}).endswith(end)


def test_an_accepted_challenger_replaces_the_champion() -> None:
    """The sentence says what to use instead of what, by the same counts."""
    expected = (
        "Use the new model instead of version 1: the new model was right on 24 of 33 test pictures, version 1 on 22."
    )
    assert said(EVIDENCE, accepted=True) == expected
    assert "within the margin" in said({**EVIDENCE, "rule": "non-inferiority"}, accepted=True)


def test_other_metrics_have_their_figures() -> None:
    """Where no answer is right or wrong, the metric's name and both figures stand in place of counts."""
    evidence = {**EVIDENCE, "metric": "ndcg_at_10", "champion": 0.31, "challenger": 0.32}
    assert said(evidence, metric=Metric("ndcg_at_10")) == (
        "Keep version 1: on 33 test pictures the new model has NDCG@10 0.320, version 1 0.310; too few to tell."
    )


def test_a_first_version_is_compared_with_the_most_frequent_answer() -> None:
    """Without a champion the sentence has the counts of the model and of the trivial one."""
    assert said({"rule": "baseline"}, accepted=True) == (
        "Use this first version: it is right on 30 of 40 test pictures; the most frequent answer alone would be right "
        "on 8."
    )
    assert said({"rule": "baseline"}).startswith("Don't use this first version yet: it is right on 30")
    assert said({"rule": "none"}) == "Keep the champion: the new model is the same, weight for weight."
