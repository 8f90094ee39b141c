"""Numbers as the target, against scikit-learn and hand-computed values."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as peer

from components.core.errors import RejectedRecord
from components.core.targets.regression import Regression

TARGET = Regression(mean=10.0, scale=2.0, loss="mse")


def answers(numbers: list[float], margin: float = 1.0) -> pd.DataFrame:
    values = np.array(numbers)
    return pd.DataFrame({"number": values, "low": values - margin, "high": values + margin})


@pytest.mark.parametrize("label", ["", "far", "nan", "inf", "1,5", "1e308"])
def test_what_is_no_number_is_rejected(label: str) -> None:
    with pytest.raises(RejectedRecord, match="number"):
        TARGET.check_label(label)


def test_equal_numbers_are_one_label() -> None:
    """However a number is written, it is the same label, so a manifest in another format changes nothing."""
    assert {TARGET.check_label(text) for text in ("3", "3.0", " 3.00", "3e0")} == {"3.0"}
    assert TARGET.check_label("-0.0") == TARGET.check_label("0")


def test_answers_are_in_the_labels_unit() -> None:
    """Targets are standardised; answers undo it, and a right output gives the label back."""
    targets = TARGET.targets(["12", "7"], ["number"])
    assert targets.tolist() == [[1.0], [-1.5]]
    found = TARGET.answers(targets, {"mean": 10.0, "scale": 2.0, "margin": 0.5})
    assert found == [{"number": 12.0, "low": 11.5, "high": 12.5}, {"number": 7.0, "low": 6.5, "high": 7.5}]


def test_huber_is_quadratic_near_and_linear_far() -> None:
    huber = Regression(0.0, 1.0, "huber")
    near, far = (torch.tensor([[value]]) for value in (0.5, 10.0))
    assert huber.loss(near, torch.zeros(1, 1)) == pytest.approx(0.125)
    assert huber.loss(far, torch.zeros(1, 1)) == pytest.approx(9.5)
    assert Regression(0.0, 1.0, "mse").loss(far, torch.zeros(1, 1)) == pytest.approx(100.0)


def test_metrics_are_those_of_scikit_learn() -> None:
    """R2, MAE and RMSE on labels far from 0, whose squares would drown the variance."""
    generator = np.random.default_rng(0)
    true = 1e6 + generator.normal(size=200)
    said = true + 0.3 * generator.normal(size=200)
    found = TARGET.evaluate(answers(said.tolist()), [repr(float(x)) for x in true], ["number"], {"1e6": 3}).metrics
    assert found["r2"] == pytest.approx(peer.r2_score(true, said), abs=1e-6)
    assert found["mae"] == pytest.approx(peer.mean_absolute_error(true, said))
    assert found["rmse"] == pytest.approx(peer.root_mean_squared_error(true, said))
    assert found["coverage"] == np.mean(np.abs(said - true) <= 1.0)


def test_the_trivial_model_answers_the_training_mean() -> None:
    """Its figures come from the training labels, each as often as it occurs."""
    found = TARGET.evaluate(answers([1.0, 2.0]), ["1", "3"], ["number"], {"1": 3, "5": 1})
    assert found.baseline["mae"] == pytest.approx((1 + 1) / 2)  # the mean is 2
    assert found.baseline["r2"] == pytest.approx(0.0)
    assert found.bound <= found.metrics["r2"]


def test_the_largest_errors_come_first() -> None:
    found = TARGET.evaluate(answers([1.0, 9.0, 3.5]), ["1", "2", "3"], ["number"], {"1": 1})
    assert [(m.row, m.label, m.predicted) for m in found.mistakes] == [(1, "2", "9"), (2, "3", "3.5"), (0, "1", "1")]


def test_the_interval_covers_as_promised() -> None:
    """In repeated draws of calibration and test rows, nine of ten numbers lie in the interval."""
    covered = []
    for seed in range(200):
        noise = torch.randn(40, 1, generator=torch.Generator().manual_seed(seed))
        margin = TARGET.calibrate(torch.zeros(39, 1), noise[:39])["margin"]
        covered.append(float(noise[39]) * TARGET.scale <= margin and float(noise[39]) * TARGET.scale >= -margin)
    assert 0.85 <= np.mean(covered) <= 0.96


def test_the_mean_score_is_the_r2() -> None:
    """What slices and the t-test look at adds up to the headline."""
    labels, said = ["1", "2", "4", "8"], answers([1.5, 2.0, 3.0, 7.0])
    metrics = TARGET.evaluate(said, labels, ["number"], {"1": 1}).metrics
    assert TARGET.scores(said, labels).mean() == pytest.approx(metrics["r2"])
    for metric in (one for one in TARGET.metrics if one.may_decide):
        sums = metric.features(said, labels, ["number"]).sum(0)[None]
        assert metric.figure(sums)[0] == pytest.approx(metrics[metric.name])


def test_resamples_of_one_number_have_no_r2() -> None:
    """Where a resample holds one number only, its spread is 0 but for rounding: it does not decide the bound."""
    labels, said = ["0.1"] * 5 + ["0.7", "0.8"], answers([0.2, 0.1, 0.0, 0.1, 0.1, 0.6, 0.8])
    for shift in range(20):
        moved = [repr(float(label) + shift / 7) for label in labels]
        found = TARGET.evaluate(said + shift / 7, moved, ["number"], {"1": 1, "2": 1})
        assert -100 < found.intervals["r2"][0] <= found.metrics["r2"]
        headline = TARGET.metrics[0]
        sums = headline.features(said, moved, ["number"])[:5].sum(0)[None]
        assert np.isnan(headline.figure(sums)[0])


def test_of_one_number_the_score_is_by_the_error_itself() -> None:
    """The variance of equal labels may be a rounding error, and nothing is to be divided by that."""
    assert TARGET.scores(answers([0.1] * 6 + [1.1]), ["0.1"] * 7).tolist() == pytest.approx([1.0] * 6 + [0.0])


def test_validation_figures_are_in_the_labels_unit() -> None:
    targets = TARGET.targets(["8", "10", "12"], ["number"])
    found = TARGET.validate(targets + 0.5, targets)
    assert found["mae"] == pytest.approx(1.0)
    assert found["loss"] == pytest.approx(0.25)
    assert found["r2"] == pytest.approx(1 - 3 / 8)
