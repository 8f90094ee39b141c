"""Training from the store gives the plain loop's weights, for every family of backbones and at every line."""

import copy
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from components.core.activations import caching_plan, segments, spaces, store
from components.core.activations.rows import Counted, Recomputed
from components.core.compute import determinism, engines, onnx_exports
from components.core.compute.determinism import seed_everything
from components.core.compute.device import place, to_device
from components.core.contract.listener import Callbacks
from components.core.contract.optional_members import Overlay
from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.fitting import batches, thaw_line
from components.core.fitting.data import Data, open_data
from components.core.fitting.thaw_line import rows_of_split, rows_of_splits
from components.core.networks.images.image_networks import build_backbone
from components.core.networks.network import Network, set_thawed, set_training
from components.core.settings import Hyperparameters, Settings
from components.core.training.phase import train_phase
from components.tasks import image_classification
from tests.components.core.networks.images.test_image_networks import QUICK, SLOW, images, randomise
from tests.conftest import TOY

ACTIVATIONS = {torch.float32: 1e-5, torch.float64: 1e-10}  # of the largest activation
WEIGHTS = {torch.float32: 2e-4, torch.float64: 1e-10}  # of the change that training made
ROUNDING = 3e-7  # of the largest activation: a few units in the last place of float32
TYPES = [
    pytest.param(torch.float32, id="float32"),
    pytest.param(torch.float64, id="float64", marks=pytest.mark.slow),
]
# SGD: the first steps of Adam are signs of the gradient, which make any rounding as large as the step. Eight examples:
# BatchNorm over fewer blows rounding up a thousandfold
PLAIN_STEPS = {"head_solver": "sgd", "optimizer": "sgd", "batch_size": 8, "head_epochs": 2}
CHOSEN = Hyperparameters(head_learning_rate=0.1, thaw_learning_rate=0.1, layer_decay=1.0, thaw_epochs=2)
DEPTHS = {  # where one stage more has 100 million weights, gigabytes to train in float64, or takes minutes
    "vgg": (1, 0),
    "vgg-timm": (0,),
    "wide-resnet": (1, 0),
    "maxvit-torchvision": (1, 0),
}
FAST = {"mobilenet-v3", "deit"}
# families whose blocks others have: in float64, which takes several times as long, those others are enough
ALIKE = {
    *("resnext", "wide-resnet", "vgg", "vgg-timm"),  # as resnet
    "convnext",  # as convnext-v2
    *("vit", "deit-distilled", "dinov2"),  # as deit
    *("swin-v2", "swin-timm"),  # as swin
    "maxvit-torchvision",  # as maxvit, which takes smaller pictures than 224
}
FAMILIES = [
    pytest.param(family, id=family, marks=[] if family in FAST else pytest.mark.slow) for family in QUICK | SLOW
]
UNLIKE = [pytest.param(family, id=family, marks=pytest.mark.slow) for family in QUICK | SLOW if family not in ALIKE]
# that no stage of any family writes into its input is tested beside the networks
SMALL = [family for family in FAMILIES if family.id in QUICK]


@dataclass(frozen=True)
class Family:
    name: str
    network: Network  # in float32; a test that changes it puts it back


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 small pictures as unlike each other as a network could wish, prepared."""
    folder = tmp_path_factory.mktemp("pictures")
    source = folder / "source"
    for i, picture in enumerate(images(64, count=36, seed=2)):
        (source / f"class{i % 3}").mkdir(parents=True, exist_ok=True)
        pixels = (128 + 60 * picture).clamp(0, 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(source / f"class{i % 3}" / f"{i}.png")
    prepare(str(source), Settings(), folder / "dataset", Lineage("0"), lambda _done, _total, _text: None)
    return folder / "dataset"


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    """A backbone with random weights and statistics, and a head with dropout."""
    return build(request.param)


def build(name: str) -> Family:
    torch.manual_seed(0)
    backbone, size = (QUICK | SLOW)[name]
    built = build_backbone(backbone, "none", size)
    stages = [stage for _, stage in built.stages]
    randomise(nn.Sequential(*stages), size)
    head = nn.Sequential(nn.Dropout(0.2), nn.Linear(built.features, 3))
    return Family(name, place(Network(stages, head, built.preprocessing), "cpu"))


def some(dataset: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Data:
    """Eight training pictures and three for validation, encoded in that type."""
    data = open_data(dataset, Settings(**PLAIN_STEPS | options))
    counts = {"train": 8, "validation": 3}
    encode = image_classification.encode
    changed = {"encode": lambda contents, preprocessing: encode(contents, preprocessing).to(dtype)}
    return replace(
        data,
        task=Overlay(data.task, **changed),
        rows={split: data.rows[split][:count] for split, count in counts.items()},
        targets={split: data.targets[split][:count] for split, count in counts.items()},
    )


def thawed_state(network: Network, line: int) -> dict[str, Tensor]:
    """Parameters above the line, by module and name; statistics of BatchNorm stay as they are."""
    modules = {"head": network.head, **{f"stage {i}": network.stages[i] for i in range(line, len(network.stages))}}
    return {
        f"{owner}: {name}": parameter.detach().clone()
        for owner, module in modules.items()
        for name, parameter in module.named_parameters()
    }


def keeping(states: list[dict[str, Tensor]], network: Network, line: int) -> Callbacks:
    """A listener that adds what lies above the line to `states` after every epoch."""
    return Callbacks(epoch=lambda _figures: states.append(thawed_state(network, line)))


def trained(network: Network, data: Data, thaw: int) -> list[dict[str, Tensor]]:
    """What is thawed: at the start, after every epoch, and at the end; then the network is as it was."""
    line = len(network.stages) - thaw
    before = copy.deepcopy(nn.ModuleList([*network.stages[line:], network.head]).state_dict())
    states = [thawed_state(network, line)]
    seed_everything(data.settings)  # as `build_network` does; dropout draws from here on
    train_phase(network, data, CHOSEN, thaw=thaw, listener=keeping(states, network, line))
    states.append(thawed_state(network, line))
    nn.ModuleList([*network.stages[line:], network.head]).load_state_dict(before)
    return states


def difference(ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]]) -> float:
    """The largest distance of two trainings at any time, module by module, as a share of what training changed."""
    start, shares = theirs[0], []
    assert len(ours) == len(theirs) == 4, "start, two epochs, end"
    for owner in {name.partition(":")[0] for name in start}:
        names = [name for name in start if name.startswith(f"{owner}:")]
        for one, other in zip(ours[1:], theirs[1:], strict=True):
            moved = torch.stack([(other[name] - start[name]).norm() for name in names]).norm()
            size = torch.stack([start[name].norm() for name in names]).norm()
            assert moved > 1e-4 * size, f"{owner} was hardly trained"
            apart = torch.stack([(one[name] - other[name]).norm() for name in names]).norm()
            shares.append(float(apart / moved))
    return max(shares)


class Perturbed:
    """Rows with noise, as a share of the largest value of the batch."""

    def __init__(self, rows: Any, share: float) -> None:
        self.rows, self.share = rows, share

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, picks: Any) -> Tensor:
        batch: Tensor = self.rows[picks]
        generator = torch.Generator().manual_seed(0)
        return batch + self.share * batch.abs().max() * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


def trained_on_perturbed(network: Network, data: Data, thaw: int, share: float) -> list[dict[str, Tensor]]:
    asked = rows_of_splits

    def perturbed(*arguments: Any) -> dict[str, dict[int, Any]]:
        found = asked(*arguments).items()
        return {split: {line: Perturbed(rows, share) for line, rows in lines.items()} for split, lines in found}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thaw_line, "rows_of_splits", perturbed)
        return trained(network, data, thaw)


def assert_same_training(
    network: Network, kept: Data, recomputed: Data, thaw: int, dtype: torch.dtype, rounding: float = ROUNDING
) -> None:
    """The plain loop's weights; in float32 as near as it comes to itself when its activations are rounded otherwise.

    Narrow stages behind BatchNorm over eight examples blow rounding up tens of thousands of times (RegNet). What a
    loose bound might hide there, the same training in float64 shows.
    """
    ours, theirs = trained(network, kept, thaw), trained(network, recomputed, thaw)
    apart = difference(ours, theirs)
    if dtype == torch.float32 and apart > WEIGHTS[dtype]:
        rounded = difference(trained_on_perturbed(network, recomputed, thaw, rounding), theirs)
        assert apart <= 3 * rounded
        assert apart < 0.1
    else:
        assert apart <= WEIGHTS[dtype]


def assert_tells_apart(values: Tensor) -> None:
    """Activations [N, ...] that are the same for all examples would make any comparison worthless."""
    features = values.flatten(1)
    spread = features.std(0)
    assert float((spread < 1e-3 * features.abs().mean()).double().mean()) < 0.5, "dead units"
    assert float((spread / features.abs().mean(0).clamp(min=1e-30)).median()) > 0.05, "5,000 times the tolerance"


def assert_same_rows(kept: Any, recomputed: Any, dtype: torch.dtype) -> None:
    """Compare in batches of the plain loop: kernels differ by the size of the batch."""
    assert isinstance(kept.rows, Counted), "read from the store"
    assert isinstance(recomputed.rows, Recomputed)
    picks = torch.randperm(len(recomputed), generator=torch.Generator().manual_seed(0)).split(8)
    theirs = torch.cat([recomputed[some] for some in picks])
    ours = torch.cat([kept[some] for some in picks])
    assert ours.dtype == theirs.dtype == dtype
    assert_tells_apart(theirs)
    assert float((ours - theirs).abs().max()) <= ACTIVATIONS[dtype] * float(theirs.abs().max())


def frozen_buffers(network: Network, line: int) -> list[Tensor]:
    return [tensor.clone() for tensor in network.stages[:line].state_dict().values()]


@pytest.fixture
def _batches_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is computed in smaller batches than the plain loop's, whose kernels may be others."""
    monkeypatch.setattr(determinism, "BATCH", 3)
    monkeypatch.setattr(
        caching_plan,
        "choose",
        lambda network, lines, _sample, _count, _folder, start, *_: (engines.eager(network, lines, start), ""),
    )


@pytest.mark.usefixtures("home", "_batches_differ")
class TestEveryFamily:
    def test_training(self, family: Family, pictures: Path) -> None:
        """Activations at the line, and weights after every epoch and at the end, are those of the plain loop."""
        self.assert_trains_alike(family, torch.float32, pictures)

    @pytest.mark.parametrize("family", UNLIKE, indirect=True)
    def test_training_in_float64(self, family: Family, pictures: Path) -> None:
        """As above, within the rounding of float64, where a difference can't hide."""
        self.assert_trains_alike(family, torch.float64, pictures)

    @staticmethod
    def assert_trains_alike(family: Family, dtype: torch.dtype, pictures: Path) -> None:
        network = family.network.to(dtype)
        usual = (2, 1, 0) if dtype == torch.float32 or family.name in QUICK else (2, 0)  # the others are large
        for thaw in DEPTHS.get(family.name, usual):  # each higher line is filled from the lower one
            line = len(network.stages) - thaw
            frozen = frozen_buffers(network, line)
            keep, recompute = (some(pictures, dtype, activations=mode) for mode in ("keep", "recompute"))
            assert_same_training(network, keep, recompute, thaw, dtype)
            assert all(map(torch.equal, frozen, frozen_buffers(network, line))), "statistics below the line moved"
            for split in ("train", "validation"):
                kept, recomputed = (
                    rows_of_split(network, data, {line: 1.0}, split)[line] for data in (keep, recompute)
                )
                assert_same_rows(kept, recomputed, dtype)

    @pytest.mark.parametrize("family", SMALL, indirect=True)
    def test_nothing_writes_into_the_store(self, family: Family, pictures: Path) -> None:
        """At every line, forward and backward passes leave the batch, the files and a second read as they were."""
        network = copy.deepcopy(family.network).float()
        lines = range(1, len(network.stages) + 1)
        rows = rows_of_split(network, some(pictures, activations="keep"), dict.fromkeys(lines, 1.0), "train")
        files = sorted(store.store().rglob("*.bin"))
        before = [hashlib.sha256(file.read_bytes()).digest() for file in files]
        assert len(files) == len(lines)
        for line in lines:
            picks = torch.tensor([5, 0, 7, 2])
            batch, untouched = rows[line][picks], rows[line][picks]
            set_training(network, set_thawed(network, len(lines) - line))
            network.zero_grad()
            version = batch._version
            network.above(to_device(batch, torch.device("cpu")), line).square().mean().backward()
            assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
            assert batch._version == version
            assert torch.equal(batch, untouched)
            assert torch.equal(rows[line][picks], untouched)
        assert [hashlib.sha256(file.read_bytes()).digest() for file in files] == before


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("fault", ["perturbed", "reordered"])
def test_a_difference_is_seen(
    fault: str, dtype: torch.dtype, home: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison fails where activations are wrong by a thousandth, or batches come in another order."""
    network = build("mobilenet-v3").network.to(dtype)
    plain = trained(network, some(pictures, dtype, activations="recompute", batch_size=4), 1)
    order = batches._order

    def reordered(data: Data, epoch: int) -> Iterator[Tensor]:
        yield from reversed(list(order(data, epoch)))

    if fault == "reordered":
        monkeypatch.setattr(batches, "_order", reordered)
    kept = some(pictures, dtype, activations="keep", batch_size=4)
    faulty = trained_on_perturbed(network, kept, 1, 1e-3 if fault == "perturbed" else 0.0)
    assert difference(faulty, plain) > 5 * WEIGHTS[dtype]


@pytest.fixture
def _other_engines_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports cost nothing and run faster, however short the pass is."""
    monkeypatch.setattr(determinism, "BATCH", 2)  # one batch is never worth another engine
    monkeypatch.setattr(engines, "OVERHEAD_SECONDS", -math.inf)
    monkeypatch.setattr(engines, "FOLDING_SECONDS", -math.inf)
    monkeypatch.setattr(onnx_exports, "PREPARATION", dict.fromkeys(onnx_exports.PREPARATION, 0.0))
    speeds = {"eager": 1.0, "folded": 0.75}  # seconds an example
    monkeypatch.setattr(engines, "_seconds", lambda engine, _sample: speeds.get(engine.name.partition(" ")[0], 0.5))


@pytest.mark.usefixtures("_other_engines_win")
@pytest.mark.parametrize(
    "name",
    [
        "mobilenet-v3",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("resnet", "efficientnet-lite", "densenet", "regnet", "deit", "convnext-v2")
        ),
    ],
)
def test_onnxruntime(name: str, home: Path, pictures: Path) -> None:
    """Where ONNX Runtime computed what is kept, training still gives the plain loop's weights."""
    network = build(name).network
    for thaw in DEPTHS.get(name, (2, 0)):
        line = len(network.stages) - thaw
        keep, recompute = (some(pictures, activations=mode) for mode in ("keep", "recompute"))
        assert_same_training(network, keep, recompute, thaw, torch.float32, ACTIVATIONS[torch.float32])
        space = spaces.spaces(network, "float32")[line]
        assert {segment.engine.split()[0] for segment in segments.segments(space)} == {"onnxruntime"}
        kept, recomputed = (rows_of_split(network, data, {line: 1.0}, "train")[line] for data in (keep, recompute))
        assert_same_rows(kept, recomputed, torch.float32)


def test_deterministic(home: Path, pictures: Path) -> None:
    """With --deterministic, training from the store and the plain loop end in the same weights, bit for bit."""
    network = build("mobilenet-v3").network
    ours, theirs = (
        trained(network, some(pictures, activations=mode, deterministic=True), 2) for mode in ("keep", "recompute")
    )
    assert all(torch.equal(one[name], other[name]) for one, other in zip(ours, theirs, strict=True) for name in one)


@pytest.mark.usefixtures("home")
class TestFrozen:
    """A network with BatchNorm and much dropout in every stage."""

    SETTINGS = Settings(**TOY | {"head_epochs": 2, "optimizer": "sgd"})

    @staticmethod
    def network() -> Network:
        torch.manual_seed(0)
        stages = [
            nn.Sequential(nn.Linear(width, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5)) for width in (2, 16, 16)
        ]
        return Network(stages, nn.Linear(16, 3), {"scale": 1.0})

    def phase(self, dataset: Path, thaw: int, mode: str) -> tuple[Network, list[dict[str, Tensor]], Any]:
        network = self.network()
        data = open_data(dataset, self.SETTINGS.model_copy(update={"activations": mode}))
        seed_everything(data.settings)
        states: list[dict[str, Tensor]] = []
        line = len(network.stages) - thaw
        train_phase(network, data, CHOSEN, thaw=thaw, listener=keeping(states, network, line))
        return network, states, data

    @pytest.mark.parametrize("mode", ["keep", "recompute"])
    def test_statistics(self, mode: str, toy_dataset: Path) -> None:
        """BatchNorm ends with the statistics that it began with, bit for bit, frozen or thawed."""
        start, (network, _, _) = self.network(), self.phase(toy_dataset, 1, mode)
        same = [
            torch.equal(old[1].running_mean, new[1].running_mean)
            and torch.equal(old[1].running_var, new[1].running_var)
            for old, new in zip(start.stages, network.stages, strict=True)
        ]
        assert same == [True, True, True]

    @pytest.mark.parametrize("thaw", [0, 1, 2])
    def test_dropout(self, thaw: int, toy_dataset: Path) -> None:
        """A frozen stage drops nothing, kept or recomputed, while a thawed one drops the same in both."""
        network, ours, keep = self.phase(toy_dataset, thaw, "keep")
        _, theirs, recompute = self.phase(toy_dataset, thaw, "recompute")
        for one, other in zip(ours, theirs, strict=True):
            for name in one:
                torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6)
        line = len(network.stages) - thaw
        set_training(network, line)
        expected = network.below(keep.task.encode(keep.examples.contents(keep.rows["train"]), {"scale": 1.0}), line)
        for data in (keep, recompute):
            set_training(network, line)
            torch.testing.assert_close(rows_of_split(network, data, {line: 1.0}, "train")[line][:], expected)
