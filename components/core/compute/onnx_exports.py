"""ONNX exports of frozen stages, kept by digest: a folder with model.onnx and facts.json for each.

The TorchScript exporter is ten times quicker than the newer one and what they write runs equally fast, but it is
deprecated: the newer one, `dynamo`, steps in for what it can't do, and when it goes.
"""

import contextlib
import json
import shutil
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from components.core import digests
from components.core.digests import digest
from components.core.networks.network import Network, Pytree
from components.core.networks.weights import state_digest

_KINDS = {"way": str, "seconds": float, "modules": int, "error": str, "sha256": str}  # of an export's facts
LARGEST = 1_900_000_000  # bytes of weights in one export; protobuf ends at 2 GB
GRAPH_BYTES = 2_000  # of the graph for each leaf module, at most in the networks that were measured
PREPARATION = {"torchscript": 0.006, "dynamo": 0.045, "compile": 0.2}  # seconds per leaf module, measured on 2 cores


class Prefix(nn.Module):
    """The stages from line `start` to the last of `lines` as one function of flat tensors: what is exported.

    Its outputs are the leaves of the activations at each of `lines` above `start`, one after another.
    """

    def __init__(self, network: Network, lines: Sequence[int], start: int, sample: Pytree) -> None:
        super().__init__()
        self.stages = network.stages[start : lines[-1]]
        self.eval()  # itself too: the TorchScript exporter puts every module into the mode that the outermost was in
        self.lines, self.start, self.sample = tuple(lines), start, sample
        self.leaves, self.spec = tree_flatten(sample)
        self.device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        self.modules_to_export = sum(1 for module in self.stages.modules() if not [*module.children()])

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        """Leaves of a batch to leaves of the activations."""
        value, found = tree_unflatten(list(leaves), self.spec), []
        for line, stage in enumerate(self.stages, self.start + 1):
            value = stage(value)
            if line in self.lines:
                found += tree_leaves(value)
        return tuple(found)


def place_of(prefix: Prefix, way: str, folder: Path) -> Path:
    """The folder of an export, named after all that it depends on."""
    return folder / digest([way, *identity(prefix)])[:32]


def identity(prefix: Prefix) -> list[Any]:
    """All that an export of the stages depends on, as JSON."""
    stages = [[str(stage), state_digest(stage.state_dict())] for stage in prefix.stages]
    leaves = [[list(leaf.shape[1:]), str(leaf.dtype)] for leaf in prefix.leaves]
    lines = [line - prefix.start for line in prefix.lines]
    libraries = {name: version(name) for name in ("thawline", "torch", "onnx", "onnxruntime", "onnxscript")}
    return [stages, leaves, str(prefix.spec), lines, prefix.device.type, libraries]


def seconds_to_prepare(prefix: Prefix, way: str, place: Path) -> float:
    """Return the seconds of an export or a compilation: 0 if cached, otherwise estimated from earlier ones here."""
    if _facts(place):
        return 0.0
    kept = [_facts(path.parent, whole=False) for path in place.parent.glob("*/facts.json")]
    rates = [facts["seconds"] / facts["modules"] for facts in kept if facts.get("way") == way and not facts["error"]]
    return prefix.modules_to_export * (statistics.median(rates) if rates else PREPARATION[way])


def export_bytes(prefix: Prefix) -> int:
    """About the size of an export: the weights, and what the graph itself takes."""
    weights = sum(int(tensor.nbytes) for tensor in prefix.state_dict().values())
    return weights + GRAPH_BYTES * prefix.modules_to_export


def exported(prefix: Prefix, way: str, place: Path) -> tuple[bytes, str]:
    """The export as bytes, and whether it was kept; made where it is not there or damaged.

    Raises:
        RuntimeError: The stages can't be exported this way; remembered, so that it is found out once.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):
        if facts := _facts(place):
            note = "export kept"
            (place / "facts.json").touch()  # the cache removes what was not used for longest
        else:
            facts = _export(prefix, way, place)
            note = f"exported in {facts['seconds']:.1f} s"
        if facts["error"]:
            raise RuntimeError(facts["error"])
        return (place / "model.onnx").read_bytes(), note


def first_line(error: Exception) -> str:
    """Return the first line of an error for a log: exporters wrap the reason in advice."""
    reason = error.__cause__ or error
    return next(iter(str(reason).strip().splitlines()), "")[:200] or type(reason).__name__


def _facts(place: Path, *, whole: bool = True) -> dict[str, Any]:
    """Read the facts of a kept export; nothing if there is none, or (if `whole`) if it is damaged."""
    try:
        kept = json.loads((place / "facts.json").read_text())
        facts = {name: kind(kept[name]) for name, kind in _KINDS.items()}
        sound = not whole or facts["error"] or facts["sha256"] == digests.of_file(place / "model.onnx")
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return facts if sound else {}


def _export(prefix: Prefix, way: str, place: Path) -> dict[str, Any]:
    part = place.with_suffix(".part")  # under the lock: what a kill left behind is ours to remove
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    begin, error, sha256 = time.monotonic(), "", ""
    try:
        _write(prefix, way, part / "model.onnx")
        sha256 = digests.of_file(part / "model.onnx")
    except (OSError, MemoryError):  # of this moment, not of these stages
        raise
    except Exception as found:  # noqa: BLE001 - exporters raise almost anything
        error = first_line(found)
    seconds = time.monotonic() - begin
    modules = max(1, prefix.modules_to_export)
    facts = {"way": way, "seconds": seconds, "modules": modules, "error": error, "sha256": sha256}
    (part / "facts.json").write_text(json.dumps(facts))
    shutil.rmtree(place, ignore_errors=True)
    part.replace(place)
    return facts


def _write(prefix: Prefix, way: str, path: Path) -> None:
    if sum(tensor.nbytes for tensor in prefix.state_dict().values()) > LARGEST:
        raise RuntimeError("the stages hold more than one ONNX file can")
    leaves = tuple(leaf[:2].to(prefix.device) for leaf in prefix.leaves)
    names = [f"input{i}" for i in range(len(leaves))]
    options: dict[str, Any] = {"input_names": names}
    with torch.no_grad(), quiet():
        if way == "dynamo":
            options |= {"dynamic_shapes": (tuple({0: torch.export.Dim.DYNAMIC} for _ in leaves),)}
            options |= {"external_data": False, "verbose": False}
        else:
            names += [f"output{i}" for i in range(len(prefix(*leaves)))]
            options |= {"output_names": names[len(leaves) :], "dynamic_axes": {name: {0: "batch"} for name in names}}
            options["input_names"] = names[: len(leaves)]
        torch.onnx.export(prefix, leaves, path, dynamo=way == "dynamo", **options)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No word from the exporters; and no fused attention of nn.TransformerEncoder, which they can't write."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # where it fails the exporter prints the whole graph to stdout, and its own switch for that does not work
        with warnings.catch_warnings(), patch("torch._C._jit_onnx_log", create=True):
            warnings.simplefilter("ignore")  # of deprecation, and of shapes that become constants: both are checked
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
