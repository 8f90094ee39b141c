"""Activations are addressed by all that they depend on, and by nothing else."""

from pathlib import Path

import pytest
import torch
from torch import nn

from components.core.activations import spaces as addresses
from components.core.activations.requests import row_key
from components.core.activations.spaces import spaces
from tests.components.core.activations.test_passes import KEYS, Join, Pair, tiny


@pytest.mark.parametrize(
    "change",
    [
        "weights",
        "preprocessing",
        "precision",
        "libraries",
        "their library",
        "view",
        "encoding",
        "double",
        "GPU",
        "code",
    ],
)
def test_another_address_for_everything_that_matters(change: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights below the line, preprocessing, precision, versions or view never read the old activations."""
    network = tiny()
    monkeypatch.setattr(Pair, "__module__", "transformers.models.pair")
    before = spaces(network, "float32")[1]
    if change == "weights":
        network.stages[0][0].weight.data += 1
    elif change == "preprocessing":
        network.preprocessing = {"size": 1}
    elif change == "double":
        network.double()
    elif change == "code":
        network.stages[0] = nn.Sequential(*network.stages[0], nn.Tanh())
    elif change == "libraries":
        monkeypatch.setattr(addresses, "version", lambda name: f"another {name}")
    elif change == "their library":
        known = addresses.version
        monkeypatch.setattr(addresses, "version", lambda name: "5" if name == "transformers" else known(name))
    elif change == "GPU":
        monkeypatch.setattr(addresses, "computed_in", lambda _device, _dtype: torch.bfloat16)
    elif change == "encoding":
        assert row_key("example 1", encoding="one") not in {*KEYS, row_key("example 1", encoding="other")}
        return
    elif change == "view":
        assert row_key("example 1", "basic/0/1") not in {*KEYS, row_key("example 1", "basic/0/2")}
        return
    assert spaces(network, "float16" if change == "precision" else "float32")[1] != before


def test_weights_above_the_line_do_not_matter(home: Path) -> None:
    """Training what lies above leaves the activations valid."""
    network, before = tiny(), spaces(tiny(), "float32")
    network.head.weight.data += 1
    network.stages[1] = Join()
    after = spaces(network, "float32")
    assert (after[0], after[1]) == (before[0], before[1])
    assert after[2] != before[2]
