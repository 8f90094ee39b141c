"""`thawline export`: the file that comes out, and that nothing comes out which differs."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torchvision.ops import roi_align

from components.core.compute import onnx_graphs
from components.core.networks.network import Network
from components.core.registry import serving
from pipelines.predictions.onnx_export import write_graph
from tests.support.command import call
from tests.support.plain import PlainRun

pytestmark = pytest.mark.slow


def test_the_file_gives_what_the_model_gives(
    toy_run: PlainRun,
    toy_source: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """It runs in ONNX Runtime at any batch size, states its opset, and holds what an application needs beside it."""
    target = tmp_path / "toy.onnx"
    arguments = ("export", "toy@champion", "--check", str(toy_source / "class1"), "--out", str(target), "--json")
    answer = call(capsys, monkeypatch, *arguments)
    assert answer.status == 0, answer.err
    said = json.loads(answer.out)
    assert (said["version"], said["compared"], said["opset"]) == ("1", 61, onnx_graphs.OPSET)
    assert said["difference"] < onnx_graphs.PARITY
    assert [shape[0] for shape in (*said["inputs"].values(), *said["outputs"].values())] == ["batch", "batch"]
    model = onnx.load(target)
    onnx.checker.check_model(model)
    assert {one.domain: one.version for one in model.opset_import}[""] == onnx_graphs.OPSET
    facts = {one.key: one.value for one in model.metadata_props}
    assert (facts["model"], facts["version"], facts["input_name"]) == ("toy", "1", "point")
    classes = json.loads(facts["classes"])
    session = onnxruntime.InferenceSession(str(target))
    for count in (1, 5):
        points = np.tile(np.array([[2.0, 0.0]], np.float32), (count, 1))
        [logits] = session.run(None, {session.get_inputs()[0].name: points})
        assert [classes[i] for i in logits.argmax(1)] == ["class0"] * count


def test_outputs_that_differ_are_not_written(
    toy_run: PlainRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command fails with the difference, and leaves no file."""
    monkeypatch.setattr(onnx_graphs, "PARITY", -1.0)
    answer = call(capsys, monkeypatch, "export", "toy", "--out", str(tmp_path / "toy.onnx"))
    assert answer.status == 1
    assert "its outputs differ from PyTorch's by" in answer.err
    assert [*tmp_path.glob("*.onnx")] == []


def test_a_graph_with_an_operator_of_torchvision_is_written(tmp_path: Path) -> None:
    """The process that writes it knows the operators that a detector's graph holds, and pools alike."""

    class Pooled(torch.nn.Module):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            row = torch.arange(maps.shape[0])[:, None].to(maps.dtype)
            return roi_align(maps, torch.cat([row, row.new_tensor([[1.0, 1, 6, 5]]).expand(maps.shape[0], -1)], 1), 2)

    given, network = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), Pooled()
    archive = tmp_path / serving.ARCHIVE
    archive.parent.mkdir(parents=True)
    serving.export_network(Network([], network, {}), given, archive)
    write_graph(tmp_path, tmp_path / "pooled.onnx")
    graph = onnx_graphs.session(tmp_path / "pooled.onnx", 1, network(given))
    assert onnx_graphs.check_equal(graph, network, given) < onnx_graphs.PARITY


@pytest.mark.parametrize("wrong", ["value", "type"])
def test_a_graph_of_other_values_or_types_is_noticed(wrong: str) -> None:
    """At every size of a batch, a structure of several tensors included."""

    def reference(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"sum": inputs["a"].sum(1), "count": inputs["b"]}

    def other(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = reference(inputs)
        changed = found["sum"] + 1e-3 * (len(found["sum"]) == 1) if wrong == "value" else found["sum"].double()
        return {**found, "sum": changed}

    inputs = {"a": torch.rand(4, 3), "b": torch.arange(4)}
    assert onnx_graphs.check_equal(reference, reference, inputs) == 0
    with pytest.raises(RuntimeError, match="differ"):
        onnx_graphs.check_equal(other, reference, inputs)
