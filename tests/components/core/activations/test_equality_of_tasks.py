"""Training from the store gives the plain loop's weights for texts, sounds and networks of transformers too."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from components.core.compute.device import place
from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.fitting.data import open_data
from components.core.fitting.thaw_line import rows_of_split
from components.core.networks.images.image_networks import build_backbone
from components.core.networks.network import Network
from components.core.settings import Settings
from components.core.training import phase
from tests.components.core.activations.test_equality import (
    ACTIVATIONS,
    PLAIN_STEPS,
    assert_same_rows,
    assert_same_training,
    pictures,
    some,
)
from tests.components.core.networks.images.test_from_transformers import saved
from tests.components.tasks.test_audio_classification import write_tones
from tests.components.tasks.test_text_classification import write_films
from tests.data import sound_models, text_models

__all__ = ["pictures"]

TEXTS, SOUNDS = "text_classification", "audio_classification"
CASES: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "bert": lambda folder: {"task": TEXTS, "weights": str(text_models.save_model(folder, "bert"))},
    "gpt2": lambda folder: {"task": TEXTS, "weights": str(text_models.save_model(folder, "gpt2"))},
    "speaker": lambda _folder: {"task": SOUNDS, "weights": "none"},
    **{
        family: lambda folder, family=family: {
            "task": SOUNDS,
            "backbone": "hf/x",
            "weights": str(sound_models.save_model(folder, family)),
        }
        for family in ("wav2vec2", "whisper", "ast")
    },
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] if case not in ("ast", "gpt2") else []) for case in CASES],
)
def test_texts_and_sounds(case: str, home: Path, tmp_path: Path) -> None:
    """At the head and below two stages, activations are within rounding, and so are the weights after each epoch."""
    options = PLAIN_STEPS | CASES[case](tmp_path / "model")
    write = write_films if options["task"] == TEXTS else write_tones
    source = write(tmp_path / "source.jsonl", 60)
    prepare(str(source), Settings(**options), tmp_path / "dataset", Lineage("0"), lambda *_: None)
    keep, recompute = (
        open_data(tmp_path / "dataset", Settings(**options, activations=mode)) for mode in ("keep", "recompute")
    )
    network = phase.build_network(keep, keep.settings.defaults())
    for thaw in (2, 0):
        line = len(network.stages) - thaw
        assert_same_training(network, keep, recompute, thaw, torch.float32)
        kept, again = (rows_of_split(network, data, {line: 1.0}, "train")[line] for data in (keep, recompute))
        picks = torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))[:8]
        for ours, theirs in zip(tree_leaves(kept[picks]), tree_leaves(again[picks]), strict=True):
            assert ours.dtype == theirs.dtype
            largest = float(theirs.double().abs().max())
            assert float((ours.double() - theirs.double()).abs().max()) <= ACTIVATIONS[torch.float32] * largest


@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_pictures_by_transformers(kind: str, home: Path, tmp_path: Path, pictures: Path) -> None:
    """Networks of transformers that take pictures train from the store as those of the other libraries do."""
    folder, _ = saved(kind, tmp_path / "model")
    built = build_backbone("", str(folder))
    head = nn.Sequential(nn.Dropout(0.2), nn.Linear(built.features, 3))
    stages = [stage for _, stage in built.stages]
    network = place(Network(stages, head, built.preprocessing, built.weights_digest, built.config), "cpu")
    for thaw in (2, 0):
        line = len(network.stages) - thaw
        keep, recompute = (some(pictures, activations=mode) for mode in ("keep", "recompute"))
        assert_same_training(network, keep, recompute, thaw, torch.float32)
        rows = [rows_of_split(network, data, {line: 1.0}, "train")[line] for data in (keep, recompute)]
        assert_same_rows(*rows, torch.float32)
