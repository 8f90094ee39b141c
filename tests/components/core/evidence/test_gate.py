"""The gate: what promotes a challenger, and what holds it back."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.evidence.alpha_spending import next_look
from components.core.evidence.contest import Contest, Figures
from components.core.evidence.gate import Verdict, decide, first_version, passes
from components.core.evidence.gate_checks import label_shift
from components.core.evidence.paired_tests import Counts, mcnemar_exact, score_test
from components.core.settings import Settings

ONE_LOOK = {"gate_horizon": 1}


def contest(wins: int, losses: int, right: int = 100, wrong: int = 10, **changes: Any) -> Contest:
    """Rows that only the challenger has right, only the champion, both, and none; all in one class."""
    champion = np.array([0.0] * wins + [1.0] * (losses + right) + [0.0] * wrong)
    challenger = np.array([1.0] * wins + [0.0] * losses + [1.0] * right + [0.0] * wrong)
    rows = champion.size
    defaults: dict[str, Any] = {
        "version": "3",
        "groups": np.full(rows, "", dtype=object),
        "slices": {"class": ["a"] * rows},
        "locked": np.ones(rows, dtype=bool),
        "recent": np.zeros(rows, dtype=bool),
    }
    return Contest(champion=champion, challenger=challenger, **{**defaults, **changes})


def judged(some: Contest, **changes: Any) -> Verdict:
    chosen = Settings(**{**ONE_LOOK, **changes})
    return decide(some, chosen, next_look([], chosen.gate_alpha, chosen.gate_horizon), "accuracy")


def failed(verdict: Verdict) -> list[str]:
    return [check["name"] for check in verdict.evidence["checks"] if not check["passed"]]


def test_a_better_challenger_is_accepted() -> None:
    """The sentence has counts, figures, p-value and look; the evidence has them as numbers."""
    verdict = judged(contest(12, 2))
    assert verdict.accepted
    assert "beats the champion, version 3, on the same 124 test rows: accuracy 0.903 against 0.823" in verdict.sentence
    evidence = verdict.evidence
    assert (evidence["wins"], evidence["losses"], evidence["units"]) == (12, 2, 124)
    assert evidence["p"] == pytest.approx(0.00647, abs=1e-5)
    assert (evidence["level"], evidence["look"], evidence["horizon"]) == (0.05, 1, 1)
    assert evidence["interval"][0] > 0


def test_the_same_lead_is_too_small_at_a_26th_of_alpha() -> None:
    """With 26 looks to come the lead has to be clearer, and the evidence says how clear."""
    verdict = judged(contest(12, 2), gate_horizon=26)
    assert not verdict.accepted
    assert failed(verdict) == ["test"]
    assert verdict.evidence["smallest_told"] == pytest.approx(12 / 124)


def test_without_the_rows_of_its_promotion_the_champion_stays() -> None:
    """Where none of them is left, nothing shows that the challenger is as good on them."""
    verdict = judged(contest(12, 2, locked=np.zeros(124, dtype=bool)))
    assert not verdict.accepted
    assert failed(verdict) == ["rows of the champion's promotion"]
    assert "none is left" in verdict.sentence


@given(st.integers(0, 200), st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_a_champion_against_itself_is_never_promoted(right: int, wrong: int) -> None:
    """Equal answers keep the champion, whatever is asked."""
    for gate in ("superiority", "non-inferiority"):
        verdict = judged(contest(0, 0, right + 1, wrong), gate=gate, gate_alpha=0.49)
        assert not verdict.accepted
        assert "a tie keeps the champion" in verdict.sentence


def test_a_tie_in_numbers_keeps_the_champion() -> None:
    """As many rows better as worse is no win, at any alpha."""
    assert not judged(contest(20, 20), gate_alpha=0.49).accepted


@given(st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_swapping_the_models_mirrors_the_evidence(wins: int, losses: int) -> None:
    one, other = judged(contest(wins, losses)).evidence, judged(contest(losses, wins)).evidence
    assert (one["wins"], one["losses"]) == (other["losses"], other["wins"])
    assert one["interval"] == pytest.approx([-other["interval"][1], -other["interval"][0]])
    assert one["difference"] == pytest.approx(-other["difference"])


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_one_test_decides_and_the_rest_only_blocks(wins: int, losses: int, horizon: int) -> None:
    """What is promoted has passed the exact test at the level of its look; without other faults that is enough."""
    verdict = judged(contest(wins, losses, right=2000), gate_horizon=horizon)
    passed = passes(mcnemar_exact(wins, losses), wins - losses, 0.05 / horizon)
    assert verdict.evidence["checks"][0]["passed"] == passed
    assert verdict.accepted == passed


def test_a_model_that_is_not_worse_is_enough_when_asked() -> None:
    """Non-inferiority within a margin: few losses on many rows pass, many don't, and superiority does not."""
    close, far = contest(10, 12, right=3000), contest(10, 120, right=3000)
    assert judged(close, gate="non-inferiority", gate_margin=0.02).accepted
    assert not judged(far, gate="non-inferiority", gate_margin=0.02).accepted
    assert not judged(close).accepted


def test_a_group_is_one_observation() -> None:
    """Twelve better rows of one patient are one win."""
    groups = np.array(["patient"] * 12 + [""] * 112, dtype=object)
    verdict = judged(replace(contest(12, 2), groups=groups))
    assert (verdict.evidence["wins"], verdict.evidence["units"]) == (1, 113)
    assert not verdict.accepted
    assert "in 113 groups" in verdict.sentence


def test_it_may_not_lose_on_the_rows_of_the_champions_promotion() -> None:
    """A challenger that wins on new rows only, and loses on those that the champion was promoted on, is held back."""
    some = contest(30, 8)
    locked = np.arange(some.champion.size) >= 30
    verdict = judged(replace(some, locked=locked))
    assert not verdict.accepted
    assert failed(verdict) == ["rows of the champion's promotion"]
    assert "But it is not shown to be within 0.03" in verdict.sentence


def test_a_slice_that_falls_holds_it_back() -> None:
    """Better overall, but a tenth of the rows of one camera got wrong: blocked, and the slice is named."""
    some = contest(60, 15, right=400)
    cameras = ["new"] * 60 + ["old"] * 15 + ["old"] * 30 + ["new"] * 370 + ["new"] * 10
    verdict = judged(replace(some, slices={"class": ["a"] * len(cameras), "camera": cameras}))
    assert failed(verdict) == ["slices"]
    assert "camera old (1.00 to 0.67)" in verdict.sentence
    assert judged(replace(some, slices={"camera": cameras}), slice_margin=0.6).accepted


def test_many_slices_need_more_evidence() -> None:
    """One row lost in one of 200 slices is chance, not a fall."""
    some = contest(40, 3, right=400)
    names = [f"s{i % 200}" for i in range(some.champion.size)]
    assert judged(replace(some, slices={"shop": names})).accepted


def test_damaged_labels_in_training_hold_it_back() -> None:
    """A class that lost more than half of its share, beyond chance, blocks; small data do not."""
    before, after = {"a": 500, "b": 500, "c": 100}, {"a": 500, "b": 560, "c": 30}
    assert label_shift(before, after, 0.5) == ["c (9.1% to 2.8%)"]
    assert label_shift({"a": 10, "b": 6}, {"a": 10, "b": 2}, 0.5) == []
    assert label_shift(before, after, 0.0) == []
    assert failed(judged(contest(40, 3))) == []
    assert failed(judged(contest(40, 3, label_counts=(before, after)))) == ["label rates"]


def test_a_class_that_went_needs_a_word() -> None:
    some = contest(40, 3, removed_classes=["dodo"], new_classes=["yak"])
    assert failed(judged(some)) == ["classes"]
    assert judged(some, allow_removed_class=True).accepted
    assert judged(some).evidence["new_classes"] == ["yak"]


def test_limits_of_calibration_and_latency_hold_only_when_asked_for() -> None:
    some = contest(40, 3, calibration_error=0.2, latency_ratio=3.0)
    assert judged(some).accepted
    assert failed(judged(some, max_calibration_error=0.1)) == ["calibration"]
    assert failed(judged(some, max_latency_ratio=1.5)) == ["latency"]


def test_new_rows_and_old_ones_stand_side_by_side() -> None:
    some = contest(12, 2)
    verdict = judged(replace(some, recent=np.arange(some.champion.size) < 20))
    assert verdict.evidence["recent"]["rows"] == 20
    assert (verdict.evidence["recent"]["wins"], verdict.evidence["older"]["wins"]) == (12, 0)
    assert verdict.evidence["older"]["champion"] == pytest.approx(94 / 104)


def figures(champion: np.ndarray, challenger: np.ndarray) -> Figures:
    sides = [np.stack([values, np.ones(len(values))], axis=1) for values in (champion, challenger)]
    return Figures("log_loss", -1, sides[0], sides[1], lambda sums: sums[:, 0] / sums[:, 1])


def test_another_metric_decides_by_swapping_answers() -> None:
    """Lower log loss on nearly all rows wins by the permutation test, though accuracy ties."""
    generator = np.random.default_rng(0)
    champion = generator.random(110)
    better = figures(champion, champion - generator.normal(0.05, 0.1, 110))
    equal = figures(champion, champion + generator.normal(0.0, 0.1, 110) * generator.choice([-1, 1], 110))
    accepted = judged(contest(0, 0, figures=better))
    assert accepted.accepted
    assert accepted.evidence["method"] == "swap permutation test"
    assert accepted.evidence["metric"] == "log_loss"
    assert accepted.evidence["challenger"] < accepted.evidence["champion"]
    assert accepted.evidence["gain"] > 0
    assert accepted.evidence["interval"][0] > 0
    assert not judged(contest(0, 0, figures=equal)).accepted
    assert not judged(contest(0, 0, figures=figures(champion, champion))).accepted


def test_another_metric_may_be_shown_not_worse() -> None:
    """Of the bootstrap's p-value and that of the right answers the larger one counts."""
    champion = np.random.default_rng(1).random(110)
    close = figures(champion, champion + 0.001)
    shown = judged(contest(0, 0, figures=close), gate="non-inferiority", gate_margin=0.05)
    assert shown.accepted
    assert shown.evidence["p"] == pytest.approx(score_test(Counts(0, 0, 110), -0.05))
    assert not judged(contest(0, 0, figures=close), gate="non-inferiority", gate_margin=0.0005).accepted


def test_without_rows_the_champion_stays() -> None:
    """A champion that was trained on every test row can't be compared: no promotion, and no crash."""
    verdict = judged(contest(0, 0, 0, 0))
    assert not verdict.accepted
    assert "No test row is left" in verdict.sentence


def test_a_first_version_has_to_beat_the_trivial_model() -> None:
    assert first_version("accuracy", 0.9, 0.8, 0.5, 50).accepted
    refused = first_version("accuracy", 0.6, 0.5, 0.5, 50)
    assert not refused.accepted
    assert "is not above the trivial model's (0.500 against 0.500" in refused.sentence


def test_a_first_version_has_to_be_told_from_the_trivial_model_row_by_row() -> None:
    """A bound above the other's figure is not enough where the paired test does not tell the two apart."""
    refused = first_version("ndcg", 0.6, 0.55, 0.5, 50, p=0.07)
    assert not refused.accepted
    assert refused.sentence.endswith(
        "But row by row it can't be told apart from the trivial model (one-sided p = 0.0700)."
    )
    assert refused.evidence["p"] == 0.07
    assert first_version("ndcg", 0.6, 0.55, 0.5, 50, p=0.05).accepted
    assert not first_version("ndcg", 0.6, 0.5, 0.5, 50, p=0.05).accepted


def test_few_rows_without_a_loss_show_no_non_inferiority() -> None:
    """Resamples of 50 rows with a win and no loss hold no loss either, as 8% do of a model that is worse by 0.03."""
    some = contest(1, 0, right=45, wrong=4)
    ones = np.ones(50)
    sides = [np.stack([side, ones], axis=1) for side in (some.champion, some.challenger)]
    other = Figures("other", 1, *sides, lambda sums: sums[:, 0] / sums[:, 1])
    rules = {"gate": "non-inferiority", "gate_margin": 0.03, "gate_horizon": 26}
    assert not judged(replace(some, figures=other), **rules).accepted
    assert not judged(some, **rules).accepted


def test_every_test_tells_what_lead_it_takes() -> None:
    """The exact tests by counting, and resampling approximately; None where no lead would have been enough."""
    exact = judged(contest(3, 3)).evidence
    assert exact["smallest_told"] == pytest.approx(6 / 116)
    assert exact["smallest_told_approximate"] is False
    non_inferior = judged(contest(3, 3), gate="non-inferiority").evidence
    assert non_inferior["smallest_told"] < exact["smallest_told"]
    assert non_inferior["smallest_told_approximate"] is False
    champion = np.linspace(0.1, 0.9, 116)
    other = contest(3, 3, figures=figures(champion, champion[::-1]))
    about = judged(other).evidence
    assert about["smallest_told"] > 0
    assert about["smallest_told_approximate"] is True
    assert judged(other, gate="non-inferiority").evidence["smallest_told"] == pytest.approx(
        about["smallest_told"] - 0.03
    )
    assert judged(contest(3, 0)).evidence["smallest_told"] is None


def graded(gain: float, noise: float = 0.3, rows: int = 100, seed: int = 0, **changes: Any) -> Contest:
    """Rows with an error each, of which less is better; the challenger's are less by `gain` on average."""
    generator = np.random.default_rng(seed)
    champion = generator.gamma(2.0, size=rows)
    challenger = champion - gain + noise * generator.normal(size=rows)
    ones = np.ones(rows)
    sides = [np.stack([side, ones], axis=1) for side in (champion, challenger)]
    figures = Figures("error", -1, *sides, lambda sums: sums[:, 0] / sums[:, 1])
    some = contest(0, 0, right=rows, wrong=0, figures=figures, right_or_wrong=False, **changes)
    return replace(some, champion=-champion, challenger=-challenger)


def test_errors_are_compared_by_permutation() -> None:
    """A challenger with a lower error wins, one with the same error does not; neither scores 0 or 1."""
    better, same = judged(graded(0.2)), judged(graded(0.0))
    assert better.accepted
    assert "swap permutation test" in better.sentence
    assert better.evidence["gain"] == pytest.approx(0.2, abs=0.1)
    assert not same.accepted


@pytest.mark.slow
def test_an_equal_model_is_seldom_promoted() -> None:
    """Of 200 challengers that differ from the champion by noise only, about one in twenty wins, as alpha says."""
    wins = sum(judged(graded(0.0, rows=40, seed=seed)).accepted for seed in range(200))
    assert wins <= 18  # 5% of 200, and three standard errors


def test_a_fall_of_a_slice_holds_a_better_model_back() -> None:
    """Scores that are no shares fall by their mean, which the paired t-test judges."""
    some = graded(0.3)
    bad = np.arange(100) < 15
    names = ["night" if b else "day" for b in bad]
    fallen = replace(some, challenger=some.challenger - 0.8 * bad, slices={"light": names})
    assert failed(judged(fallen)) == ["slices"]
    assert "falls by more than 0.05 in light night" in judged(fallen).sentence
    assert judged(replace(fallen, challenger=some.challenger)).accepted


def test_errors_within_the_margin_are_not_inferior() -> None:
    """With non-inferiority a slightly larger error passes if the margin allows it, and else does not."""
    rules = {"gate": "non-inferiority"}
    assert judged(graded(0.0), **rules, gate_margin=0.2).accepted
    worse = judged(graded(-0.3), **rules, gate_margin=0.2)
    assert not worse.accepted
    assert "bootstrap and paired t-test" in worse.sentence


def test_a_first_version_may_need_a_lower_figure() -> None:
    """Where lower is better it is the upper bound that has to lie below the trivial model's figure."""
    assert first_version("error", 0.3, 0.4, 0.5, 50, sign=-1).accepted
    refused = first_version("error", 0.3, 0.6, 0.5, 50, sign=-1)
    assert not refused.accepted
    assert "the upper bound of its error is not below the trivial model's (0.600 against 0.500" in refused.sentence
