"""What classification tasks share: targets, loss, validation figures and temperature."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from components.core.targets.classification import Classification, fit_temperature

TARGET = Classification()
CLASSES = ["cat", "dog", "eel"]


def drawn(n: int, sharpness: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits[n, 5], and targets drawn from their softmax: calibrated at sharpness 1, too sure above."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, 5, generator=generator)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return logits * sharpness, targets


def test_targets_number_the_labels() -> None:
    """A label becomes its class's number; one that is no class is named."""
    assert TARGET.targets(["eel", "cat"], CLASSES).tolist() == [2, 0]
    assert TARGET.targets([], CLASSES).dtype == torch.long
    with pytest.raises(ValueError, match="yak"):
        TARGET.targets(["cat", "yak"], CLASSES)


def test_loss_takes_hard_and_soft_targets() -> None:
    """One-hot soft targets give the loss of the class numbers; mixed ones the mixture of two losses."""
    logits, targets = drawn(6)
    hard = TARGET.loss(logits, targets, 0.1, None)
    one_hot = functional.one_hot(targets, 5).float()
    assert torch.allclose(hard, TARGET.loss(logits, one_hot, 0.1, None))
    mixed = 0.3 * one_hot + 0.7 * one_hot.flip(0)
    expected = 0.3 * TARGET.loss(logits, targets) + 0.7 * TARGET.loss(logits, targets.flip(0))
    assert torch.allclose(TARGET.loss(logits, mixed), expected)


def test_class_weights_are_balanced() -> None:
    """Weights are n / (C * n_c) and 1 on average over the rows; a class without rows weighs nothing."""
    weights = TARGET.class_weights(torch.tensor([0, 0, 0, 1]), 3)
    assert weights.tolist() == pytest.approx([4 / 6, 2.0, 0.0])


def test_validate_figures() -> None:
    """Validation reports the plain cross-entropy, the accuracy, and the mean recall of the classes that occur."""
    logits = torch.tensor([[3.0, 0.0, 0.0], [2.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    targets = torch.tensor([0, 0, 1, 1])
    figures = TARGET.validate(logits[:3], targets[:3])
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert figures["balanced_accuracy"] == pytest.approx(0.5)
    assert figures["loss"] == pytest.approx(float(functional.cross_entropy(logits[:3], targets[:3])))


@pytest.mark.parametrize("temperature", [0.5, 2.0, 4.0])
def test_temperature_is_recovered(temperature: float) -> None:
    """Logits that were sharpened by a known factor get that factor back."""
    logits, targets = drawn(4000, temperature)
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.06)
    assert TARGET.calibrate(logits, targets) == {"temperature": fit_temperature(logits, targets)}


def test_temperature_never_raises_the_log_loss() -> None:
    """On rows of any kind, the fitted temperature's log loss is at most that of 1."""
    for seed in range(20):
        logits, targets = drawn(15, 0.5 + seed / 5, seed)
        cooled = functional.cross_entropy(logits / fit_temperature(logits, targets), targets)
        assert cooled <= functional.cross_entropy(logits, targets) + 1e-6


def test_few_rows_move_the_temperature_little() -> None:
    """Two dozen rows of logits that are right give temperatures near 1; the likelihood alone misses it by a fifth."""
    temperatures = [fit_temperature(*drawn(24, 1.0, seed)) for seed in range(40)]
    assert np.abs(np.log(temperatures)).mean() < 0.12


def test_temperature_without_evidence_is_one() -> None:
    """No rows, or only right answers, say nothing of how sure the network may be."""
    assert fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)) == 1.0
    assert fit_temperature(torch.eye(3), torch.arange(3)) == 1.0
