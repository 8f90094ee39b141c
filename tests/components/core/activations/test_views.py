"""Augmented views that are kept, mixup of activations, and half precision."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from components.core.activations import caching_plan, store
from components.core.activations.requests import RowRequest
from components.core.contract.listener import Callbacks
from components.core.contract.optional_members import Overlay
from components.core.fitting import thaw_line
from components.core.fitting.data import Data, open_data
from components.core.fitting.thaw_line import rows_of_split, rows_of_splits
from components.core.networks.network import Network
from components.core.settings import Hyperparameters, Settings
from components.core.targets.classification import Classification
from components.core.training.phase import build_network, train_phase
from tests.conftest import TOY
from tests.fakes import toy

EPOCHS, THAWED = 6, 1
CHOSEN = Hyperparameters(head_learning_rate=0.05, thaw_learning_rate=0.02, thaw_epochs=EPOCHS, dropout=0.2)
VIEWS = {"augment": "basic", "views": 3}


@dataclass
class Seen:
    """What one training did."""

    network: Network
    data: Data
    figures: list[dict[str, float]] = field(default_factory=list)
    asked: list[Tensor] = field(default_factory=list)  # rows of the training split, batch by batch
    augmented: list[tuple[bytes, int]] = field(default_factory=list)  # content and seed
    encoded: list[bytes] = field(default_factory=list)
    mixed: list[Tensor] = field(default_factory=list)  # inputs of mix
    targets: list[Tensor] = field(default_factory=list)  # of the training loss

    def epochs(self) -> list[Tensor]:
        """The views that each example had in each epoch, by example."""
        count = len(self.data.rows["train"])
        drawn = []
        for rows in torch.cat(self.asked).view(-1, count):
            assert sorted((rows % count).tolist()) == list(range(count)), "an epoch has every example once"
            drawn.append((rows // count)[(rows % count).argsort()])
        return drawn


def phase(dataset: Path, monkeypatch: pytest.MonkeyPatch, thaw: int = THAWED, **options: Any) -> Seen:
    """Train on the toy task and write down what is asked for on the way."""
    data = open_data(dataset, Settings(**TOY | {"optimizer": "sgd", "head_epochs": EPOCHS} | options))
    seen = Seen(build_network(data, CHOSEN), data)

    def augment(
        contents: Any, targets: Any, preprocessing: Any, settings: Settings, seeds: Any
    ) -> tuple[Tensor, Tensor]:
        seen.augmented += zip(contents, seeds, strict=True)
        return toy.augment(contents, targets, preprocessing, settings, seeds)

    def encode(contents: Any, preprocessing: Any) -> Tensor:
        seen.encoded += contents
        return toy.encode(contents, preprocessing)

    def mix(inputs: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        seen.mixed.append(inputs)
        return toy.mix(inputs, *rest)

    def loss(outputs: Tensor, targets: Tensor, *rest: Any) -> Tensor:
        seen.targets.append(targets)
        return Classification().loss(outputs, targets, *rest)

    class Noted:
        def __init__(self, rows: Any) -> None:
            self.rows = rows

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, picks: Any) -> Any:
            seen.asked.append(picks)
            return self.rows[picks]

    def noted(*arguments: Any) -> Any:
        found = rows_of_splits(*arguments)
        if "train" in found:
            found["train"] = {line: Noted(rows) for line, rows in found["train"].items()}
        return found

    own = {"augment": augment, "encode": encode, "mix": mix}
    target = Overlay(data.target, loss=loss)
    data = replace(data, task=Overlay(data.task, **own), target=target)
    with monkeypatch.context() as patch:
        patch.setattr(thaw_line, "rows_of_splits", noted)
        seen.figures = train_phase(seen.network, data, CHOSEN, thaw=thaw)
    return seen


def assert_same_weights(one: Network, other: Network) -> None:
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def contents(data: Data, split: str) -> set[bytes]:
    return set(data.examples.contents(data.rows[split]))


@pytest.mark.usefixtures("home")
class TestViews:
    def test_rows(self, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each training example has as many rows as views, a validation example has one."""
        seen = phase(toy_dataset, monkeypatch, activations="keep", **VIEWS)
        [space] = store.spaces(store.store())
        assert space["examples"] == 3 * len(seen.data.rows["train"]) + len(seen.data.rows["validation"])

    def test_draws(self, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every epoch draws one view of each example, each epoch others, and all views are used alike."""
        drawn = phase(toy_dataset, monkeypatch, activations="keep", **VIEWS).epochs()
        assert len(drawn) == EPOCHS
        shares = torch.cat(drawn).bincount() / torch.cat(drawn).numel()
        torch.testing.assert_close(shares, torch.full((3,), 1 / 3), rtol=0, atol=0.06)
        for i, one in enumerate(drawn):
            for other in drawn[:i]:
                assert 0.15 < float((one == other).double().mean()) < 0.55  # chance: a third

    @pytest.mark.parametrize("mode", ["keep", "recompute"])
    def test_seeds(self, mode: str, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same seed gives the same views, draws and weights, another seed others."""
        one, other, third = (
            phase(toy_dataset, monkeypatch, activations=mode, seed=seed, **VIEWS) for seed in (0, 0, 1)
        )
        assert all(map(torch.equal, one.epochs(), other.epochs()))
        assert_same_weights(one.network, other.network)
        assert not any(map(torch.equal, one.epochs(), third.epochs()))
        assert not {seed for _, seed in one.augmented} & {seed for _, seed in third.augmented}

    @pytest.mark.parametrize("thaw", [0, 1, 2])
    @pytest.mark.parametrize("mixup", [0.0, 0.4])
    def test_kept_and_recomputed(
        self, thaw: int, mixup: float, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Kept views, mixed or not, give the weights of views that are computed again in each epoch."""
        kept, again = (
            phase(toy_dataset, monkeypatch, thaw, activations=mode, mixup=mixup, **VIEWS)
            for mode in ("keep", "recompute")
        )
        plain = phase(toy_dataset, monkeypatch, thaw, activations="keep", mixup=mixup)
        assert_same_weights(kept.network, again.network)
        with pytest.raises(AssertionError):
            assert_same_weights(kept.network, plain.network)

    @pytest.mark.parametrize("options", [VIEWS, {"augment": "basic"}])
    def test_validation(self, options: dict[str, Any], toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What validation sees is encoded, never augmented; what training sees is augmented, never plain."""
        seen = phase(toy_dataset, monkeypatch, **options)
        assert {content for content, _ in seen.augmented} == contents(seen.data, "train")
        assert set(seen.encoded) == contents(seen.data, "validation")

    def test_everything_thawed(self, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the line at the bottom nothing is stored, and each epoch augments afresh."""
        seen = phase(toy_dataset, monkeypatch, 3, activations="keep", **VIEWS)
        assert not store.store().exists() or not store.entries(store.store())
        count = len(seen.data.rows["train"])
        assert len(seen.augmented) == EPOCHS * count
        assert len({seed for _, seed in seen.augmented}) == EPOCHS * count

    def test_more_views(self, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of four views the three that were there are not computed again."""
        phase(toy_dataset, monkeypatch, activations="keep", **VIEWS)
        seen = phase(toy_dataset, monkeypatch, activations="keep", augment="basic", views=4)
        assert {seed for _, seed in seen.augmented} == {
            thaw_line.view_seed(id_, "basic/0/3") for id_ in seen.data.examples.ids(seen.data.rows["train"])
        }

    def test_options(self, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Views that other options of the task made are not taken for those of these."""
        options = {"activations": "keep", **VIEWS}
        phase(toy_dataset, monkeypatch, option={"noise": "1"}, **options)
        other = phase(toy_dataset, monkeypatch, option={"noise": "2"}, **options)
        assert {content for content, _ in other.augmented} == contents(other.data, "train")
        assert phase(toy_dataset, monkeypatch, option={"noise": "2"}, **options).augmented == []

    def test_measured_options(self, toy_dataset: Path) -> None:
        """What the data decide anew every week, such as the mean of the labels, makes no other views."""
        data = open_data(toy_dataset, Settings(**TOY))

        def encoding(mean: str, **given: str) -> str:
            data.examples.info = data.examples.info.model_copy(update={"options": {"label_mean": mean}})
            settings = Settings(**TOY, option={"label_mean": mean, **given})
            return thaw_line._encoding(replace(data, settings=settings), 3)

        assert encoding("1.0") == encoding("2.0")
        assert encoding("1.0", noise="1") != encoding("1.0")

    def test_uses(self, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An epoch draws one view of each example, so the plan counts with each view in a third of the epochs."""
        asked, real = list[tuple[int, dict[int, float]]](), caching_plan.rows_at

        def noted(request: RowRequest, *rest: Any) -> Any:
            asked.append((len(request.keys), request.lines))
            return real(request, *rest)

        monkeypatch.setattr(caching_plan, "rows_at", noted)
        data = open_data(toy_dataset, Settings(**TOY, **VIEWS))
        rows_of_splits(build_network(data, CHOSEN), data, {3: 6.0}, {"train": 3, "validation": 0})
        train, validation = (len(data.rows[split]) for split in ("train", "validation"))
        assert asked == [(3 * train, {3: 2.0}), (validation, {3: 6.0})]


@pytest.mark.usefixtures("home")
class TestMixup:
    @pytest.mark.parametrize("thaw", [0, 1])
    def test_activations(self, thaw: int, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Activations at the line are mixed, kept or recomputed with the same result, and another than without."""
        kept, again, plain = (
            phase(toy_dataset, monkeypatch, thaw, activations=mode, mixup=mixup)
            for mode, mixup in (("keep", 0.4), ("recompute", 0.4), ("keep", 0.0))
        )
        assert {mixed.shape[1] for mixed in kept.mixed} == {8}, "the input has two features"
        assert_same_weights(kept.network, again.network)
        with pytest.raises(AssertionError):
            assert_same_weights(kept.network, plain.network)

    def test_soft_targets(self, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The training loss gets a distribution over the classes, most of them with two classes in it."""
        targets = torch.cat(phase(toy_dataset, monkeypatch, mixup=1.0).targets)
        assert targets.shape[1] == 3
        torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)))
        assert float(((targets > 0).sum(1) == 2).double().mean()) > 0.3
        assert not targets.is_floating_point() or float(targets.min()) >= 0


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"views": 3}, ("--views", "--augment")),
        ({"views": 3, "augment": "basic", "cutmix": 0.5}, ("--views", "--cutmix")),
        ({"activations": "keep", "cutmix": 0.5}, ("--activations keep", "--cutmix")),
        ({"activations": "keep", "augment": "basic"}, ("--activations keep", "--views")),
        ({"views": -1}, ("views",)),
    ],
)
def test_contradictions(options: dict[str, Any], names: tuple[str, ...]) -> None:
    """Options that contradict each other are refused with their names."""
    with pytest.raises(ValidationError) as refused:
        Settings(**options)
    assert all(name in str(refused.value) for name in names)


@pytest.mark.usefixtures("home")
class TestHalfPrecision:
    @pytest.mark.parametrize("lines", [(1, 2, 3), (3, 1), (1, 3)])
    def test_rounding(self, lines: tuple[int, ...], toy_dataset: Path) -> None:
        """Kept activations differ from those in float32 by no more than the decision's line tells, line by line."""
        settings = Settings(**TOY, activations="keep")
        half = open_data(toy_dataset, settings.model_copy(update={"activation_precision": "float16"}))
        exact = open_data(toy_dataset, settings)
        network = build_network(exact, CHOSEN)
        for line in lines:
            said: list[str] = []
            rounded = rows_of_split(network, half, {line: 1.0}, "train", Callbacks(note=said.append))[line][:]
            expected = rows_of_split(network, exact, {line: 1.0}, "train")[line][:]
            told = re.findall(r"error of (\S+) of the largest at most", said[0])
            assert rounded.dtype == torch.float32
            assert 0 < float((rounded - expected).abs().max() / expected.abs().max()) <= float(told[0])
            # whatever was kept before: a row that is computed from rounded ones would be off by more
            assert torch.equal(rounded, expected.half().float())

    def test_training(self, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Training on half precision takes half the disk and ends close to, not at, the weights of float32."""
        exact, half = (
            phase(toy_dataset, monkeypatch, activations="keep", activation_precision=precision)
            for precision in ("float32", "float16")
        )
        small, large = sorted(space["bytes"] for space in store.spaces(store.store()))
        assert small < 0.8 * large
        states = zip(exact.network.state_dict().values(), half.network.state_dict().values(), strict=True)
        assert 0 < max(float((one - other).abs().max()) for one, other in states) < 1e-2
        assert half.figures[-1]["loss"] < half.figures[0]["loss"]
