"""The optimum of a linear head."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional

from components.core.errors import StepError
from components.core.fitting import linear_head
from components.core.fitting.linear_head import Features, choose, solve

CPU = torch.device("cpu")
loss = partial(functional.cross_entropy, weight=None)


def problem(rows: int, width: int, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of very different scales, around a center for each class, and the classes."""
    draw = torch.Generator().manual_seed(seed)
    targets = torch.arange(rows) % classes
    centers = torch.randn(classes, width, generator=draw)
    points = centers[targets] + 2 * torch.randn(rows, width, generator=draw)
    return points * torch.logspace(-2, 2, width) + 5, targets


def head(found: Tensor, targets: Tensor, strength: float, classes: int = 3) -> linear_head.LinearFit:
    features = Features([found], CPU)
    return features.unstandardized(solve(features.rows, targets, classes, loss, strength))


@pytest.mark.parametrize(("rows", "width"), [(300, 20), (40, 200)])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_the_optimum_is_scikit_learns(rows: int, width: int, strength: float) -> None:
    """Probabilities are those of scikit-learn's logistic regression on standardized features, wide or narrow."""
    points, targets = problem(rows, width)
    fit = head(points, targets, strength)
    ours = (points.double() @ fit.weight.T + fit.bias).softmax(1).numpy()
    scaled = StandardScaler().fit_transform(points.double().numpy())
    theirs = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000).fit(scaled, targets.numpy())
    assert np.abs(ours - theirs.predict_proba(scaled)).max() < 1e-3


def test_squared_loss_has_the_optimum_of_ridge_regression() -> None:
    """For numbers the head is ridge regression in closed form, whose penalty counts the mean of squares."""
    points, _ = problem(200, 10)
    targets = (
        points @ torch.ones(10, 1) / 100 + torch.randn(200, 1, generator=torch.Generator().manual_seed(1))
    ).double()
    features = Features([points], CPU)
    fit = features.unstandardized(solve(features.rows, targets, 1, functional.mse_loss, 0.1))
    scaled = StandardScaler().fit_transform(points.double().numpy())
    theirs = Ridge(alpha=1 / (2 * 0.1)).fit(scaled, targets.numpy()[:, 0])
    ours = (points.double() @ fit.weight.T + fit.bias)[:, 0].numpy()
    np.testing.assert_allclose(ours, theirs.predict(scaled), rtol=1e-3, atol=1e-3)


def test_a_start_changes_nothing_but_the_way() -> None:
    """From another head the same optimum is found."""
    points, targets = problem(300, 20)
    features = Features([points], CPU)
    far = solve(features.rows, targets, 3, loss, 100.0)
    one, two = (solve(features.rows, targets, 3, loss, 0.1, start) for start in (None, far))
    torch.testing.assert_close(one.weight, two.weight, rtol=0.02, atol=2e-3)


def test_constant_features_have_no_weight() -> None:
    """A feature that is the same in every row gets the weight 0, and changes no output."""
    points, targets = problem(100, 10)
    points[:, 4] = 12_345.6
    fit = head(points, targets, 1.0)
    assert bool((fit.weight[:, 4] == 0).all())
    assert bool(torch.isfinite(fit.weight).all())


def test_only_constant_features_give_the_classes_shares() -> None:
    """Where no feature varies, the head answers how frequent the classes are."""
    points, targets = torch.ones(90, 4), torch.tensor([0] * 60 + [1] * 20 + [2] * 10)
    fit = head(points, targets, 1.0)
    shares = (points.double() @ fit.weight.T + fit.bias).softmax(1)[0]
    torch.testing.assert_close(shares, torch.tensor([6, 2, 1]).double() / 9, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_reported(value: float) -> None:
    """One value that is not finite ends the step with a sentence."""
    points, _ = problem(50, 5)
    points[7, 2] = value
    with pytest.raises(StepError, match="not finite"):
        Features([points], CPU)


@pytest.mark.parametrize("positives", [0, 1])
def test_a_label_that_hardly_any_row_has_gets_a_finite_head(positives: int) -> None:
    """One logistic regression of several has no positive row, as in a fold, or a single one; it says no."""
    points, targets = problem(60, 5)
    there = torch.stack([targets == 0, torch.arange(60) < positives], dim=1).double()
    features = Features([points], CPU)
    fit = solve(features.rows, there, 2, functional.binary_cross_entropy_with_logits, 1.0)
    found = fit(features.rows)
    assert torch.isfinite(found).all()
    assert (found[positives:, 1] < 0).all()


def test_the_path_stops_at_the_strength_that_suits_unseen_rows() -> None:
    """Noise asks for a strong penalty and a clear signal for a weak one."""
    draw = torch.Generator().manual_seed(3)
    targets, folds = torch.arange(200) % 2, np.arange(200) // 2 % 5
    noise, signal = torch.randn(200, 50, generator=draw), torch.randn(200, 50, generator=draw)
    signal[:, 0] = (targets * 2.0 - 1) * 3 + torch.randn(200, generator=draw)
    chosen = [choose(Features([points], CPU), targets, 2, folds, loss, loss) for points in (noise, signal)]
    assert chosen[0].strength < chosen[1].strength / 10


def test_rows_are_judged_by_models_that_did_not_see_them() -> None:
    """On labels drawn by chance the held-out outputs are no better than chance."""
    draw = torch.Generator().manual_seed(5)
    points, targets = torch.randn(200, 300, generator=draw), torch.randint(0, 2, (200,), generator=draw)
    choice = choose(Features([points], CPU), targets, 2, np.arange(200) % 5, loss, loss)
    assert sorted(choice.held.tolist()) == list(range(200))
    right = (choice.outputs.argmax(1) == targets[choice.held]).double().mean()
    assert 0.35 < float(right) < 0.65


def test_many_rows_hold_out_one_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the few, one fold of the first rows chooses."""
    monkeypatch.setattr(linear_head, "FEW", 50)
    monkeypatch.setattr(linear_head, "MOST_ON_PATH", 100)
    points, targets = problem(200, 5)
    choice = choose(Features([points], CPU), targets, 3, np.arange(200) % 5, loss, loss)
    assert choice.held.tolist() == list(range(0, 100, 5))


def test_without_folds_the_middle_of_the_path_is_taken() -> None:
    """Rows that can't be held out leave a moderate penalty."""
    points, targets = problem(30, 5)
    choice = choose(Features([points], CPU), targets, 3, np.full(30, -1), loss, loss)
    assert (choice.strength, len(choice.held)) == (linear_head.STRENGTHS[7], 0)


def test_features_in_a_file_are_those_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into memory lies in a file, and gives the same head."""
    points, targets = problem(300, 20)
    inside = head(points, targets, 1.0)
    monkeypatch.setattr(linear_head, "IN_MEMORY", 0)
    outside = head(points, targets, 1.0)
    torch.testing.assert_close(inside.weight, outside.weight)
