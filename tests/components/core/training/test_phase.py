"""A phase of fine-tuning."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.core.contract.listener import Callbacks
from components.core.contract.optional_members import Overlay
from components.core.data.lineage import Lineage
from components.core.errors import InputError
from components.core.fitting.data import open_data
from components.core.settings import Hyperparameters, Settings
from components.core.training.phase import build_network, train_phase
from tests.conftest import TOY
from tests.fakes import toy

SETTINGS = Settings(**TOY)
CHOSEN = Hyperparameters(head_learning_rate=0.05, thaw_learning_rate=0.02, thaw=1, thaw_epochs=3, dropout=0.0)


def phase(dataset: Path, settings: Settings, thaw: int) -> tuple[torch.nn.Module, list[dict[str, float]]]:
    data = open_data(dataset, settings)
    network = build_network(data, CHOSEN)
    return network, train_phase(network, data, CHOSEN, thaw=thaw)


@pytest.mark.parametrize("thaw", [0, 1, 2, 3])
def test_kept_activations_give_the_plain_loops_weights(thaw: int, home: Path, toy_dataset: Path) -> None:
    """With the same seed and batches, training from the store and recomputing end in the same weights."""
    kept, _ = phase(toy_dataset, SETTINGS.model_copy(update={"activations": "keep"}), thaw)
    plain, _ = phase(toy_dataset, SETTINGS.model_copy(update={"activations": "recompute"}), thaw)
    for ours, theirs in zip(kept.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_one_pass_serves_both_phases(home: Path, toy_dataset: Path) -> None:
    """The head phase keeps what the thawed phase needs, so no example passes below the line a second time."""
    data = open_data(toy_dataset, SETTINGS.model_copy(update={"activations": "keep"}))
    network, computed = build_network(data, CHOSEN), list[str]()
    for thaw in (0, CHOSEN.thaw):
        computed.clear()
        listener = Callbacks(progress=lambda _done, _total, text: computed.append(text))
        train_phase(network, data, CHOSEN, thaw=thaw, listener=listener)
        assert any("activations" in text for text in computed) == (thaw == 0)


def test_only_what_is_thawed_changes(home: Path, toy_dataset: Path) -> None:
    """Frozen stages end as they began; the head and the thawed stage move."""
    data = open_data(toy_dataset, SETTINGS)
    network = build_network(data, CHOSEN)
    before = [[p.clone() for p in m.parameters()] for m in (*network.stages, network.head)]
    train_phase(network, data, CHOSEN, thaw=1)
    after = [list(m.parameters()) for m in (*network.stages, network.head)]
    moved = [
        any(not torch.equal(a, b) for a, b in zip(old, new, strict=True))
        for old, new in zip(before, after, strict=True)
    ]
    assert moved == [False, False, True, True]


def test_deterministic_runs_are_equal_bit_for_bit(home: Path, toy_dataset: Path) -> None:
    """With --deterministic, same seed and CPU, two trainings end in the same weights."""
    settings = SETTINGS.model_copy(update={"deterministic": True, "augment": "basic"})
    one, two = phase(toy_dataset, settings, 2)[0], phase(toy_dataset, settings, 2)[0]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_seed_changes_training_and_not_splits(home: Path, toy_dataset: Path) -> None:
    """Another seed gives another head from the same rows."""
    other = SETTINGS.model_copy(update={"seed": 1})
    assert open_data(toy_dataset, SETTINGS).rows == open_data(toy_dataset, other).rows
    one, two = phase(toy_dataset, SETTINGS, 0)[0], phase(toy_dataset, other, 0)[0]
    assert not torch.equal(one.head[1].weight, two.head[1].weight)


def test_augmented_batches_differ_between_epochs(home: Path, toy_dataset: Path) -> None:
    """With augmentation the head never sees the same batch twice, and nothing is read from the store."""
    plain, _ = phase(toy_dataset, SETTINGS, 0)
    augmented, _ = phase(toy_dataset, SETTINGS.model_copy(update={"augment": "basic"}), 0)
    assert not torch.allclose(plain.head[1].weight, augmented.head[1].weight)


@pytest.mark.slow
@pytest.mark.parametrize("thaw", [0, 2])
def test_a_real_network_is_deterministic(thaw: int, home: Path, tmp_path: Path) -> None:
    """With --deterministic, a convolutional network with BatchNorm ends in the same weights, bit for bit."""
    from components.core.data.preparation import prepare
    from tests.data.pictures import write_pictures

    options = {"backbone": "torchvision/resnet18", "weights": "none", "image_size": 32, "head_epochs": 3}
    settings = Settings(**options, deterministic=True, batch_size=8, augment="basic")
    source = write_pictures(tmp_path / "pictures", per_class=12)
    prepare(str(source), settings, tmp_path / "dataset", Lineage("0"), lambda _done, _total, _text: None)
    one, two = (phase(tmp_path / "dataset", settings, thaw)[0] for _ in range(2))
    states = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)


def test_the_rate_falls_to_its_end(home: Path, toy_dataset: Path) -> None:
    """A last batch of one, which is left out, does not count as a step of the schedule."""
    count = len(open_data(toy_dataset, SETTINGS).rows["train"])
    _, history = phase(toy_dataset, SETTINGS.model_copy(update={"batch_size": count - 1, "patience": 99}), 0)
    assert len(history) == SETTINGS.head_epochs
    assert history[-1]["learning_rate"] < 0.1 * CHOSEN.head_learning_rate


def mirrored(contents: Any, targets: Any, preprocessing: Any, settings: Any, seeds: Any) -> tuple[torch.Tensor, Any]:
    """Points, each on the other side of the origin with a target of its own where its seed is odd."""
    signs = torch.tensor([-1.0 if seed % 2 else 1.0 for seed in seeds])
    return toy.encode(contents, preprocessing) * signs[:, None], torch.where(signs < 0, 2 - targets, targets)


def test_targets_move_with_the_records(home: Path, toy_dataset: Path) -> None:
    """What augmentation makes of targets is what the loss compares the outputs of those very records with."""
    data = open_data(toy_dataset, SETTINGS.model_copy(update={"augment": "basic", "head_epochs": 1}))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def mix(inputs: torch.Tensor, targets: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((inputs, targets))
        return inputs, targets

    data = replace(data, task=Overlay(data.task, augment=mirrored, mix=mix))
    train_phase(build_network(data, CHOSEN), data, CHOSEN, thaw=0)
    points = toy.encode(data.examples.contents(data.rows["train"]), {"scale": 1.0})
    moved = 0
    for point, target in ((p, int(t)) for inputs, targets in seen for p, t in zip(inputs, targets, strict=True)):
        [row] = (points.abs() == point.abs()).all(1).nonzero()[:, 0].tolist()
        was = int(data.targets["train"][row])
        turned = not torch.equal(points[row], point)
        assert target == (2 - was if turned else was)
        moved += turned
    assert 0 < moved < len(points)


def test_views_keep_no_targets_that_move(home: Path, toy_dataset: Path) -> None:
    """Kept views would train on the targets of other places, so they are refused with a sentence."""
    data = open_data(toy_dataset, SETTINGS.model_copy(update={"augment": "basic", "views": 2}))
    data = replace(data, task=Overlay(data.task, augment=mirrored))
    with pytest.raises(InputError, match="--views does not cache"):
        train_phase(build_network(data, CHOSEN), data, CHOSEN, thaw=0)
