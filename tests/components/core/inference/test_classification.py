"""From a classifier's outputs to answers."""

import numpy as np
import pytest
import torch

from components.core.inference.classification import answers


def test_answers_are_softmax_at_the_temperature() -> None:
    """Probabilities are the softmax of logits over temperature, and the label is the most probable class."""
    outputs = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
    first, second = answers(outputs, {"classes": ["cat", "dog"], "temperature": 2.0})
    assert (first["label"], second["label"]) == ("cat", "dog")
    assert first["probabilities"]["cat"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert sum(second["probabilities"].values()) == pytest.approx(1)
