"""A registered model's graph as an ONNX file, compared with PyTorch before anyone gets it."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from components.core.compute import onnx_graphs
from components.core.errors import InputError, StepError
from components.core.registry import serving, versions
from components.core.tracking import pyfunc
from components.core.tracking.service import connection
from pipelines.local.runner import environment

BATCH = 64  # records that are compared at a time


@dataclass(frozen=True)
class Exported:
    """A file that was written."""

    model: str
    version: str
    file: str
    bytes: int
    opset: int
    inputs: dict[str, list[str | int]]  # shapes by name; `batch` is of any size
    outputs: dict[str, list[str | int]]
    compared: int  # records
    difference: float  # the largest between ONNX Runtime's and PyTorch's outputs, as a share of the largest above 1


def export(name: str, wanted: str, target: Path, contents: Sequence[bytes]) -> Exported:
    """Write a version's graph as ONNX, once ONNX Runtime has been compared with PyTorch.

    Args:
        name: The model.
        wanted: An alias or a version.
        target: The file.
        contents: Records to compare on beside the version's own example.

    Raises:
        InputError: There is no such model or version, the file can't be written, or a record can't be used.
        StepError: The graph can't be exported, or gives other outputs; no file is written then.
    """
    connection.open_store()
    with tempfile.TemporaryDirectory() as folder:
        path, version = versions.fetch(name, wanted, Path(folder))
        served = pyfunc.load_pyfunc(path)
        model, column = served.unwrap_python_model(), served.metadata.get_input_schema().input_names()[0]
        records = [*served.metadata.load_input_example(str(path))[column], *contents]
        file = Path(folder) / "model.onnx"
        try:
            write_graph(path, file)
            difference = _difference(model, file, column, records)
        except RuntimeError as error:
            raise StepError(
                f"{name} version {version} can't be exported: {error}.", "Serve it with `thawline serve`."
            ) from error
        except ValueError as error:
            raise InputError(f"A record can't be compared: {error}.", "Leave it out.") from error
        facts = {"model": name, "version": version} | json.loads((path / serving.SERVING).read_text())
        inputs, outputs = onnx_graphs.describe(file, {key: _text(value) for key, value in facts.items()})
        size = file.stat().st_size
        try:
            target.write_bytes(file.read_bytes())
        except OSError as error:
            raise InputError(
                f"{target} can't be written: {error.strerror}.", "Choose another file with --out."
            ) from error
    return Exported(name, version, str(target), size, onnx_graphs.OPSET, inputs, outputs, len(records), difference)


def _text(value: Any) -> str:  # noqa: ANN401 - of any setting
    return value if isinstance(value, str) else json.dumps(value)


def _difference(model: Any, file: Path, column: str, records: Sequence[Any]) -> float:  # noqa: ANN401 - the version's class
    largest, graph = 0.0, None
    for start in range(0, len(records), BATCH):
        inputs = encoded(model, pd.DataFrame({column: list(records[start : start + BATCH])}))
        if graph is None:
            with torch.no_grad():
                graph = onnx_graphs.session(file, torch.get_num_threads(), model.graph(inputs))
        largest = max(largest, onnx_graphs.check_equal(graph, model.graph, inputs))
    return largest


def write_graph(folder: Path, target: Path) -> None:
    """Write the graph of a served model's folder as ONNX, in a process of its own.

    Raises:
        RuntimeError: The exporter can't write it.
    """
    command = [sys.executable, "-m", onnx_graphs.__name__, str(folder / serving.ARCHIVE), str(target)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["the exporter was killed"])[-1])


def encoded(model: Any, rows: pd.DataFrame) -> Any:  # noqa: ANN401 - the version's own class, and a pytree
    """Return what a version makes of records for its graph.

    Raises:
        ValueError: A record can't be used.
    """
    eager, seen = model.graph, list[Any]()

    def noticing(inputs: Any) -> Any:  # noqa: ANN401 - a pytree
        seen.append(inputs)
        return eager(inputs)

    model.graph = noticing
    try:
        model.predict(None, rows)
    finally:
        model.graph = eager
    return seen[0]
