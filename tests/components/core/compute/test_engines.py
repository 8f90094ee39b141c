"""Engines other than eager PyTorch give its activations, are taken where they pay, and never stop a run."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_structure

from components.core.compute import engines, onnx_exports
from components.core.compute.device import place, rows_of
from components.core.compute.engines import Engine, choose, eager
from components.core.networks.images.image_networks import build_backbone
from components.core.networks.network import Network, Pytree, set_thawed, set_training
from tests.components.core.networks.images.test_image_networks import images, randomise

LONG = 10**9  # examples: any export pays
SPEEDS = {"eager": 1.0, "folded": 0.75}  # seconds an example; all others are faster
FAMILIES = [
    pytest.param("torchvision/mobilenet_v3_small", 64, id="mobilenet-v3"),
    *(
        pytest.param(name, size, id=name.partition("/")[2], marks=pytest.mark.slow)
        for name, size in (
            ("torchvision/resnet18", 64),
            ("timm/tf_efficientnet_lite0", 64),
            ("torchvision/densenet121", 64),
            ("torchvision/efficientnet_v2_s", 64),
            ("torchvision/swin_t", 64),
            ("torchvision/vgg11_bn", 64),  # at this size in the newer exporter only
            ("torchvision/vit_b_16", 64),
            ("timm/convnextv2_atto", 64),
            ("timm/deit_tiny_patch16_224", 64),
            ("timm/eva02_tiny_patch14_224", 56),
            ("timm/mobilenetv4_conv_small", 64),
            ("timm/regnety_002", 64),
        )
    ),
]


class Embed(nn.Module):
    """Ids and a mask, which travels along; a third input that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.table(inputs["ids"]), {"mask": inputs["mask"]}


class Mix(nn.Module):
    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, size), nn.Dropout(0.5), nn.Tanh())

    def forward(self, inputs: tuple[Tensor, dict[str, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
        values, rest = inputs
        return self.layers(values) * rest["mask"][..., None], rest


class Pool(nn.Module):
    def forward(self, inputs: tuple[Tensor, dict[str, Tensor]]) -> Tensor:
        return inputs[0].mean(1)


class Eigenvalues(nn.Module):
    """An operation that no exporter knows."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(inputs[:, :, None] * inputs[:, None, :])


class Counted(nn.Module):
    """The TorchScript exporter takes the number of examples for a constant here."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.reshape(int(inputs.shape[0]), 2, -1).sum(1)


def texts(count: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 10, (count, 5), generator=generator)
    return {"ids": ids, "mask": ids > 2, "unread": torch.randn(count, 2, generator=generator)}


def reader() -> Network:
    torch.manual_seed(0)
    return Network([Embed(), Mix(), Mix(), Pool()], nn.Linear(4, 2), {})


def plain(*stages: nn.Module) -> Network:
    torch.manual_seed(0)
    return Network([nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), *stages], nn.Linear(4, 2), {})


POINTS = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _other_engines_measure_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which engine is faster on networks this small is chance."""
    monkeypatch.setattr(engines, "_seconds", lambda engine, _sample: SPEEDS.get(engine.name.partition(" ")[0], 0.5))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The way of every export that is made."""
    made: list[str] = []
    write = onnx_exports._write

    def noted(prefix: onnx_exports.Prefix, way: str, path: Path) -> None:
        made.append(way)
        write(prefix, way, path)

    monkeypatch.setattr(onnx_exports, "_write", noted)
    return made


def only(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the other exporters cost too much."""
    costs = {name: cost if name == way else float("inf") for name, cost in onnx_exports.PREPARATION.items()}
    monkeypatch.setattr(onnx_exports, "PREPARATION", costs)


def assert_equal(engine: Engine, reference: Engine, batch: Pytree, tolerance: float) -> None:
    for found, expected in zip(engine.run(batch), reference.run(batch), strict=True):
        assert tree_structure(found) == tree_structure(expected)
        for leaf, wanted in zip(tree_leaves(found), tree_leaves(expected), strict=True):
            assert leaf.dtype == wanted.dtype
            assert leaf.shape == wanted.shape
            assert not leaf.requires_grad
            error = (leaf.double() - wanted.double()).abs().max()
            assert error <= tolerance * wanted.double().abs().max()


class TestEqualToEager:
    @pytest.mark.parametrize(("name", "size"), FAMILIES)
    def test_families(self, name: str, size: int, tmp_path: Path) -> None:
        """One pass gives the activations at all lines of a real network, at any batch size, within 1e-5."""
        torch.manual_seed(0)
        stages = [stage for _, stage in build_backbone(name, "none", size).stages]
        randomise(nn.Sequential(*stages), size)
        network = place(Network(stages, nn.Identity(), {}), "cpu")
        lines, batch = range(len(stages) + 1), images(size, count=7)
        engine, reason = choose(network, lines, batch, LONG, tmp_path)
        assert engine.name.startswith("onnxruntime"), reason
        for value in eager(network, lines).run(batch):
            assert 1e-3 < value.std() < 1e3, "degenerate activations prove nothing"
            assert (value[0] - value[1]).abs().mean() > 1e-2 * value.std()
        for count in (1, 2, 3, 7):
            assert_equal(engine, eager(network, lines), batch[:count], 1e-5)

    @pytest.mark.parametrize("way", ["torchscript", pytest.param("dynamo", marks=pytest.mark.slow)])
    def test_trees(self, way: str, tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """Trees of several types between the stages keep their structure, whichever exporter writes them."""
        only(way, monkeypatch)
        network, lines = reader().train(), [0, 1, 2, 4]
        engine, reason = choose(network, lines, texts(), LONG, tmp_path)
        assert engine.name.startswith("onnxruntime"), reason
        assert written == [way]
        for count in (1, 2, 3, 7):
            assert_equal(engine, eager(network, lines), texts(count), 1e-6)

    def test_from_a_lower_line(self, tmp_path: Path) -> None:
        """Activations at a higher line are computed from those at a lower one, as from the input."""
        network, lower = reader(), eager(reader(), [1]).run(texts())[0]
        engine, reason = choose(network, [1, 3, 4], lower, LONG, tmp_path, start=1)
        assert engine.name.startswith("onnxruntime"), reason
        assert_equal(engine, eager(network, [1, 3, 4], 1), lower, 1e-6)
        assert torch.equal(eager(network, [4], 1).run(lower)[0], eager(network, [4]).run(texts())[0])

    def test_double(self, tmp_path: Path) -> None:
        """A network in double precision stays within 1e-10, on eager where the engine has no such kernel."""
        network = plain(nn.Tanh()).double()
        engine, reason = choose(network, [2], POINTS.double(), LONG, tmp_path)
        assert engine.name.startswith("onnxruntime"), reason
        assert_equal(engine, eager(network, [2]), POINTS.double(), 1e-10)

    def test_differences(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An engine whose activations differ by more than rounding is not taken."""
        make = engines._onnxruntime

        def wrong(*arguments: Any) -> tuple[str, Any, str]:
            name, flat, note = make(*arguments)
            return name, lambda leaves: [leaf + 1e-3 for leaf in flat(leaves)], note

        monkeypatch.setattr(engines, "_onnxruntime", wrong)
        only("torchscript", monkeypatch)
        engine, reason = choose(plain(), [1], POINTS, LONG, tmp_path)
        assert engine.name == "eager"
        assert "torchscript: activations at line 1 differ from eager's by" in reason

    @pytest.mark.slow
    def test_batch_size_as_a_constant(self, tmp_path: Path, written: list[str]) -> None:
        """An export that holds for its own batch size only is found out, and the newer exporter steps in."""
        engine, reason = choose(plain(Counted()), [2], POINTS, LONG, tmp_path)
        assert written == ["torchscript", "dynamo"]
        assert engine.name.startswith("onnxruntime"), reason
        assert_equal(engine, eager(plain(Counted()), [2]), POINTS[:7], 1e-6)


class InPlace(nn.Module):
    """Begins in place, with an operation that changes its own result."""

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.silu(inputs, inplace=True)


class TestEager:
    def test_in_place(self) -> None:
        """What begins in place above a line leaves the activations there as they were."""
        network = Network([nn.Linear(3, 4), InPlace(), nn.Linear(4, 2)], nn.Linear(2, 2), {}).eval()
        inputs = torch.randn(5, 3)
        for line, found in zip((1, 2), eager(network, [1, 2]).run(inputs), strict=True):
            with torch.no_grad():
                assert torch.equal(found, network.below(inputs, line))

    def test_modes(self) -> None:
        """What lies below the line runs in eval mode; what is being trained above stays in training mode."""
        network = reader()
        set_training(network, set_thawed(network, 2))
        network.stages[1].train()
        first, second = (eager(network, [2]).run(texts())[0][0] for _ in range(2))
        assert torch.equal(first, second)
        assert [stage.training for stage in network.stages] == [False, False, True, True]

    @pytest.mark.parametrize("count", [1, LONG])
    def test_inputs_of_training(self, count: int, tmp_path: Path) -> None:
        """The activations are plain tensors that what lies above trains on."""
        network = plain()
        engine, _ = choose(network, [1], POINTS, count, tmp_path)
        assert (engine.name == "eager") == (count == 1)
        value = engine.run(POINTS)[0]
        value.add_(1)  # inference tensors refuse both
        network.head(value.requires_grad_()).sum().backward()
        assert value.grad is not None


class TestChoice:
    def test_short_pass(self, tmp_path: Path, written: list[str]) -> None:
        """A pass over a few examples stays eager and exports nothing."""
        engine, reason = choose(plain(), [1], POINTS, 20, tmp_path)
        assert (engine.name, reason) == ("eager", "eager: a pass over 20 examples is short")
        assert not written

    def test_costs(self, tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """An export whose preparation takes longer than it saves is not made, even in a long pass."""
        monkeypatch.setattr(onnx_exports, "PREPARATION", dict.fromkeys(onnx_exports.PREPARATION, 1e9))
        engine, reason = choose(plain(), [1], POINTS, LONG, tmp_path)
        assert engine.name == "eager"
        assert f"would not pay off for {LONG} examples" in reason
        assert not written

    def test_kept_exports_are_free(self, tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """A kept export is used, whatever another would cost."""
        choose(plain(), [1], POINTS, LONG, tmp_path)
        monkeypatch.setattr(onnx_exports, "PREPARATION", dict.fromkeys(onnx_exports.PREPARATION, 1e9))
        _, reason = choose(plain(), [1], POINTS, LONG, tmp_path)
        assert "export kept" in reason
        assert written == ["torchscript"]

    def test_room(self, tmp_path: Path, written: list[str]) -> None:
        """An export is made only where there is room for its size, which is asked for before; a kept one needs none."""
        asked: list[float] = []

        def full(needed: float) -> bool:
            asked.append(needed)
            return False

        engine, reason = choose(plain(), [1], POINTS, LONG, tmp_path, room=full)
        assert engine.name == "eager"
        assert "torchscript: there is no room for an export of 0 MB" in reason
        assert not written
        choose(plain(), [1], POINTS, LONG, tmp_path)
        [path] = tmp_path.glob("*/model.onnx")
        assert path.stat().st_size <= asked[0]
        asked.clear()
        _, reason = choose(plain(), [1], POINTS, LONG, tmp_path, room=full)
        assert "export kept" in reason
        assert "torchscript" in written
        assert asked == []

    def test_size(self, tmp_path: Path) -> None:
        """The size that is asked for is about that of the export, and not less."""
        stages = [stage for _, stage in build_backbone("torchvision/mobilenet_v3_small", "none", 64).stages]
        prefix = onnx_exports.Prefix(Network(stages, nn.Identity(), {}), [len(stages)], 0, images(64))
        onnx_exports.exported(prefix, "torchscript", tmp_path / "export")
        size = (tmp_path / "export" / "model.onnx").stat().st_size
        assert size <= onnx_exports.export_bytes(prefix) <= 1.2 * size

    def test_measured_costs(self, tmp_path: Path) -> None:
        """What exports cost is estimated from those made on this machine."""
        choose(plain(), [1], POINTS, LONG, tmp_path)
        facts = next(tmp_path.glob("*/facts.json"))
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"seconds": 50.0, "modules": 10}))
        other = onnx_exports.Prefix(plain(nn.Tanh()), [2], 0, POINTS)  # three modules
        place = onnx_exports.place_of(other, "torchscript", tmp_path)
        assert onnx_exports.seconds_to_prepare(other, "torchscript", place) == 15.0
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"seconds": [50.0]}))
        assert onnx_exports.seconds_to_prepare(other, "torchscript", place) < 15.0

    def test_slower(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An engine that measures slower than eager is not taken."""
        monkeypatch.setattr(engines, "_seconds", lambda engine, _sample: 1.0 if engine.name == "eager" else 2.0)
        engine, reason = choose(plain(), [1], POINTS, LONG, tmp_path)
        assert (engine.name, engine.seconds) == ("eager", 1.0)
        assert "exported in" in reason

    def test_deterministic(self, tmp_path: Path) -> None:
        """With deterministic algorithms the engine is eager."""
        torch.use_deterministic_algorithms(mode=True)
        assert choose(plain(), [1], POINTS, LONG, tmp_path)[0].name == "eager"

    def test_input_alone(self, tmp_path: Path) -> None:
        """At line 0 the activations are the input itself."""
        engine, _ = choose(plain(), [0], POINTS, LONG, tmp_path)
        assert torch.equal(engine.run(POINTS)[0], POINTS)

    @pytest.mark.parametrize("sample", [POINTS[:0], torch.zeros(16, 3), "no tensor"])
    def test_any_failure(self, sample: Any, tmp_path: Path) -> None:
        """A sample that the stages can't take gives eager and a reason: choosing never fails."""
        engine, reason = choose(plain(), [1], sample, LONG, tmp_path)
        assert engine.name == "eager"
        assert reason.startswith("eager: ")

    def test_no_room(self, tmp_path: Path) -> None:
        """A folder that can't be written gives eager."""
        (tmp_path / "file").write_text("")
        assert choose(plain(), [1], POINTS, LONG, tmp_path / "file")[0].name == "eager"


def test_a_pass_that_measuring_would_outlast_is_eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow a network is, some dozens of examples don't pay for the runs that compare engines."""
    timed = engines._timed
    monkeypatch.setattr(engines, "_timed", lambda engine, sample: (4.0, timed(engine, sample)[1]))
    engine, reason = choose(plain(), [1], POINTS, 96, tmp_path)
    assert (engine.name, reason) == ("eager", "eager: a pass over 96 examples is short")
    engine, _ = choose(plain(), [1], POINTS, 200, tmp_path)
    assert engine.eager_seconds == 1.0


class TestSpeeds:
    """Measurements that an earlier pass left."""

    @pytest.fixture
    def measured(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The engines that are measured."""
        found: list[str] = []
        seconds = engines._seconds

        def noted(engine: Engine, sample: Pytree) -> float:
            found.append(engine.name.partition(" ")[0])
            return seconds(engine, sample)

        monkeypatch.setattr(engines, "_seconds", noted)
        return found

    def test_remembered(self, tmp_path: Path, measured: list[str]) -> None:
        """A later pass takes the fastest engine without a measurement; other weights or threads are measured."""
        choose(plain(), [1], POINTS, LONG, tmp_path, speeds=tmp_path / "home")
        assert measured == ["eager", "onnxruntime"]
        measured.clear()
        engine, reason = choose(plain(), [1], POINTS, LONG, tmp_path, speeds=tmp_path / "home")
        assert measured == []
        assert (engine.name.partition(" ")[0], engine.seconds, engine.eager_seconds) == ("onnxruntime", 0.5, 1.0)
        assert "measured earlier" in reason
        assert_equal(engine, eager(plain(), [1]), POINTS[:7], 1e-6)
        other = plain()
        other.stages[0][0].bias.data += 1
        choose(other, [1], POINTS, LONG, tmp_path, speeds=tmp_path / "home")
        assert measured == ["eager", "onnxruntime"]

    def test_lost(self, tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """What measured slower than eager is not even made again."""
        monkeypatch.setitem(SPEEDS, "onnxruntime", 4.0)
        choose(plain(), [1], POINTS, LONG, tmp_path / "exports", speeds=tmp_path / "home")
        engine, reason = choose(plain(), [1], POINTS, LONG, tmp_path / "others", speeds=tmp_path / "home")
        assert (engine.name, engine.seconds) == ("eager", 1.0)
        assert "torchscript 0/s, as measured earlier" in reason
        assert measured == ["eager", "onnxruntime"]
        assert not (tmp_path / "others").exists()

    def test_paying_later(self, tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """An export that would not have paid off earlier is made and measured when it does."""
        with monkeypatch.context() as patch:
            patch.setattr(onnx_exports, "PREPARATION", dict.fromkeys(onnx_exports.PREPARATION, 1e9))
            choose(plain(), [1], POINTS, LONG, tmp_path, speeds=tmp_path)
        assert measured == ["eager"]
        engine, _ = choose(plain(), [1], POINTS, LONG, tmp_path, speeds=tmp_path)
        assert engine.name.startswith("onnxruntime")
        assert measured == ["eager", "onnxruntime"]

    @pytest.mark.parametrize("content", ["", "{", "[1]", '{"eager": "fast"}', '{"eager": 0, "folded": 1}'])
    def test_damage(self, content: str, tmp_path: Path, measured: list[str]) -> None:
        """A damaged file is measured over."""
        choose(plain(), [1], POINTS, LONG, tmp_path, speeds=tmp_path / "home")
        [file] = (tmp_path / "home").iterdir()
        file.write_text(content)
        choose(plain(), [1], POINTS, LONG, tmp_path, speeds=tmp_path / "home")
        assert measured == 2 * ["eager", "onnxruntime"]


def test_waiting_threads_sleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's threads do not spin: the cores belong to decoding, and to others."""
    import onnxruntime

    said: list[str] = []
    session = onnxruntime.InferenceSession

    def noted(model: bytes, options: Any, **more: Any) -> Any:
        said.append(options.get_session_config_entry("session.intra_op.allow_spinning"))
        return session(model, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    choose(plain(), [1], POINTS, LONG, tmp_path)
    assert said == ["0"]


class TestExports:
    def test_kept(self, tmp_path: Path, written: list[str]) -> None:
        """The same stages are exported once; other weights, lines or shapes are another export."""
        for network, lines, sample in (
            (plain(), [1], POINTS),
            (plain(), [1], POINTS),
            (plain(), [0, 1], POINTS),  # the same outputs as before: the input is none of the export's
            (plain(), [1], POINTS[:, None, :].expand(16, 4, 4)),
        ):
            choose(network, lines, sample, LONG, tmp_path)
        assert len(written) == 3
        other = plain()
        other.stages[0][0].bias.data += 1
        engine, _ = choose(other, [1], POINTS, LONG, tmp_path)
        assert len(written) == 4
        assert_equal(engine, eager(other, [1]), POINTS, 1e-6)

    @pytest.mark.parametrize("file", ["model.onnx", "facts.json"])
    @pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
    def test_damage(self, file: str, damage: str, tmp_path: Path, written: list[str]) -> None:
        """A damaged export is made again."""
        choose(plain(), [1], POINTS, LONG, tmp_path)
        path = next(tmp_path.glob(f"*/{file}"))
        content = path.read_bytes()
        path.unlink()
        if damage == "truncated":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "flipped":
            path.write_bytes(bytes([content[0] ^ 255]) + content[1:])
        engine, reason = choose(plain(), [1], POINTS, LONG, tmp_path)
        assert engine.name.startswith("onnxruntime"), reason
        assert len(written) == 2

    def test_interrupted(self, tmp_path: Path) -> None:
        """What a killed export left behind is cleared away."""
        place = onnx_exports.place_of(onnx_exports.Prefix(plain(), [1], 0, POINTS), "torchscript", tmp_path)
        place.with_suffix(".part").mkdir(parents=True)
        (place.with_suffix(".part") / "model.onnx").write_text("half")
        assert choose(plain(), [1], POINTS, LONG, tmp_path)[0].name.startswith("onnxruntime")
        assert not list(tmp_path.glob("*.part"))

    def test_at_the_same_time(self, tmp_path: Path, written: list[str]) -> None:
        """Several workers that want the same export make it once."""
        found: list[Engine] = []
        networks = [plain() for _ in range(3)]  # seeding is not for threads
        workers = [
            threading.Thread(target=lambda n=network: found.append(choose(n, [1], POINTS, LONG, tmp_path)[0]))
            for network in networks
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [engine.name.split()[0] for engine in found] == ["onnxruntime"] * 3
        assert written == ["torchscript"]
        for engine in found:
            assert_equal(engine, eager(plain(), [1]), POINTS, 1e-6)

    @pytest.mark.slow
    def test_unknown_operation(self, tmp_path: Path, written: list[str], capfd: pytest.CaptureFixture[str]) -> None:
        """What can't be exported runs eagerly, without a word on stdout, and is not tried again."""
        network = plain(Eigenvalues())
        for _ in range(2):
            engine, reason = choose(network, [2], POINTS, LONG, tmp_path)
            assert engine.name == "eager"
            assert "torchscript: " in reason
            assert "dynamo: " in reason
            assert "\n" not in reason
        assert written == ["torchscript", "dynamo"]
        assert capfd.readouterr().out == ""

    def test_modes(self, tmp_path: Path) -> None:
        """Exporting leaves the frozen stages in eval mode."""
        network = plain().train()
        onnx_exports._write(onnx_exports.Prefix(network, [1], 0, POINTS), "torchscript", tmp_path / "model.onnx")
        assert not any(module.training for module in network.stages[0].modules())

    def test_too_large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stages with more weights than one file holds run eagerly."""
        monkeypatch.setattr(onnx_exports, "LARGEST", 10)
        engine, reason = choose(plain(), [1], POINTS, LONG, tmp_path)
        assert engine.name == "eager"
        assert "hold more than one ONNX file can" in reason


def test_compiled() -> None:
    """The engine of a GPU, here on the CPU without a compiler, runs the very stages."""
    prefix = onnx_exports.Prefix(reader(), [2, 4], 0, texts())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda module: module)
        name, flat, _ = engines._compiled(prefix)
    engine = engines._engine(name, flat, prefix, eager(reader(), [2, 4]).run(texts()))
    assert_equal(engine, eager(reader(), [2, 4]), rows_of(texts(), slice(0, 3)), 0)
