"""Losses of calibrated outputs."""

import numpy as np
import pytest
import torch
from torch import Tensor

from components.core.contract.task import Target, complete_target
from components.core.fitting.calibration import calibrated_figures, calibrated_losses
from components.core.targets.classification import Classification
from components.core.targets.regression import Regression


def sampled() -> tuple[Target, Tensor, Tensor]:
    """Classes, logits, and labels drawn by these logits."""
    logits = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    return complete_target(Classification()), logits, torch.distributions.Categorical(logits=logits).sample()


def test_being_too_sure_costs_nothing() -> None:
    """Logits that are only too large have the losses of the right ones."""
    target, logits, labels = sampled()
    np.testing.assert_allclose(
        calibrated_losses(target, logits, labels), calibrated_losses(target, 5 * logits, labels), atol=1e-3
    )


def test_the_figures_are_the_targets_with_the_calibrated_loss() -> None:
    """Accuracy is that of the outputs, and the loss the mean of the rows' calibrated losses."""
    target, logits, labels = sampled()
    found = calibrated_figures(target, 5 * logits, labels)
    assert found["accuracy"] == target.validate(logits, labels)["accuracy"]
    assert found["loss"] == pytest.approx(calibrated_losses(target, 5 * logits, labels).mean(), rel=1e-5)
    assert found["loss"] < target.validate(5 * logits, labels)["loss"]


def test_numbers_have_no_temperature() -> None:
    """A target without one is judged by its outputs as they are."""
    target = complete_target(Regression(0.0, 1.0, "mse"))
    outputs, targets = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.5], [2.0]])
    assert calibrated_losses(target, outputs, targets).tolist() == [0.25, 0.0]
