"""The exported graph of a served model as ONNX: written once, checked against PyTorch, run by ONNX Runtime.

`python -m components.core.compute.onnx_graphs network.pt2 model.onnx` writes one; a process of its own gives back the
half gigabyte that the exporter takes, and leaves the interpreter to others.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from components.core.compute.onnx_exports import quiet

OPSET = 20  # of every export; ONNX Runtime reads it since 1.17
PARITY = 1e-4  # between ONNX Runtime and PyTorch, as a share of the largest output where that is above 1
Shapes: TypeAlias = dict[str, list[str | int]]  # by name; the batch by its name
Graph: TypeAlias = Callable[[Any], Any]  # a pytree of tensors [B, …] -> a pytree of tensors [B, …]


def write(archive: Path, target: Path) -> None:
    """Write the graph of an archive of torch.export as one ONNX file; its first dimension is named `batch`.

    Raises:
        RuntimeError: The exporter can't write it, or it is larger than one file may be.
    """
    import onnx

    with suppress(ModuleNotFoundError):
        import torchvision  # noqa: F401 - has operators that a detector's graph may hold

    try:
        with quiet():
            options: dict[str, Any] = {"external_data": False, "verbose": False}
            torch.onnx.export(torch.export.load(archive), (), target, dynamo=True, opset_version=OPSET, **options)
        model = onnx.load(target)
        del model.graph.value_info[:]  # inner shapes by the exporter's name of the batch; readers infer them
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        onnx.save(model, target)
    except (OSError, MemoryError):  # of this moment, not of this graph
        raise
    except Exception as error:
        raise RuntimeError(next(iter(str(error).splitlines()), type(error).__name__)[:200]) from error


def describe(path: Path, facts: Mapping[str, str]) -> tuple[Shapes, Shapes]:
    """Add facts to the metadata of an ONNX file; return the shapes of its inputs and of its outputs."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(facts))
    onnx.save(model, path)

    def shapes(values: Iterable[Any]) -> Shapes:
        return {
            value.name: [one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim] for value in values
        }

    return shapes(model.graph.input), shapes(model.graph.output)


def runtime() -> str:
    """Return the name and version of what runs ONNX files."""
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def session(path: Path, threads: int, like: Any) -> Graph:  # noqa: ANN401 - a pytree
    """Return the graph of an ONNX file, run on the CPU by so many threads, with outputs shaped `like` PyTorch's."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # a machine without a GPU is no news
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other batches need the CPUs
    found = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [put.name for put in found.get_inputs()]
    _, spec = tree_flatten(like)

    def run(inputs: Any) -> Any:  # noqa: ANN401 - a pytree
        feed = {name: leaf.contiguous().numpy() for name, leaf in zip(names, tree_leaves(inputs), strict=True)}
        return tree_unflatten([torch.from_numpy(array) for array in found.run(None, feed)], spec)

    return run


def check_equal(graph: Graph, reference: Graph, encoded: Any) -> float:  # noqa: ANN401 - a pytree
    """Compare a graph with PyTorch on an encoded batch; return the largest difference.

    Raises:
        RuntimeError: They differ by more than `PARITY`.
    """
    largest = 0.0
    with torch.no_grad():
        for batch in _batches(encoded):
            for ours, theirs in zip(tree_leaves(graph(batch)), tree_leaves(reference(batch)), strict=True):
                if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
                    raise RuntimeError("shapes or types of the outputs differ from PyTorch's")
                if ours.numel():
                    error = (ours.double() - theirs.double()).abs().max() / max(1.0, float(theirs.abs().max()))
                    largest = max(largest, float(error))
    if not largest <= PARITY:
        raise RuntimeError(f"its outputs differ from PyTorch's by {largest:.1e}")
    return largest


def _batches(encoded: Any) -> list[Any]:  # noqa: ANN401 - a pytree
    """Return an encoded batch as it is, with noise, and at sizes of one and three.

    Noise, since a sample may be one record several times; sizes, since an exporter may take its own for a constant.
    """
    generator = torch.Generator().manual_seed(0)

    def noisy(leaf: Tensor) -> Tensor:
        return leaf + 0.1 * torch.randn(leaf.shape, generator=generator) if leaf.is_floating_point() else leaf

    def sized(count: int) -> Any:  # noqa: ANN401 - a pytree
        return tree_map_only(Tensor, lambda leaf: leaf[torch.arange(count) % len(leaf)], encoded)

    return [encoded, tree_map_only(Tensor, noisy, encoded), sized(1), sized(3)]


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
