"""A version of the registry, loaded to answer many requests at a time."""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from components.core.compute import onnx_graphs
from components.core.registry import serving, versions
from components.core.tracking import pyfunc
from pipelines.predictions import onnx_export

SAMPLE_SIZE = 8  # records of the measurement
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A version that answers."""

    name: str
    version: str
    column: str  # of its records
    columns: Sequence[str]  # of its answers
    engine: str  # what computes its graph
    answer: Callable[[Sequence[Any]], Sequence[dict[str, Any] | str]]  # of each record its answer, or a reason


class _Direct:
    """The served model without the checks of MLflow's wrapper, which cost milliseconds and check nothing here."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - the version's own class
        self.model = model

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        found: pd.DataFrame = self.model.predict(None, rows)
        return found


def load(name: str, wanted: str, threads: int, *, exported: bool = True) -> Loaded:
    """Download a version, check it, load it, and let it answer its own example.

    Args:
        name: The model.
        wanted: An alias or a version.
        threads: That compute one batch.
        exported: Whether ONNX Runtime may compute it, where it is equal and measured to be faster.

    Raises:
        InputError: There is no such model or version.
        StepError: Its files are not what was registered.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, version = versions.fetch(name, wanted, Path(folder))
        served = pyfunc.load_pyfunc(path)
        example = served.metadata.load_input_example(str(path))
        model = served.unwrap_python_model()
        engine = f"torch {torch.__version__}"
        if exported and hasattr(model, "graph"):
            engine = _faster(model, path, example, threads) or engine
    column = served.metadata.get_input_schema().input_names()[0]
    columns = served.metadata.get_output_schema().input_names()

    def answer(records: Sequence[Any]) -> list[dict[str, Any] | str]:
        return serving.answer_some(_Direct(model), column, records)

    [said] = answer(list(example[column]))
    if isinstance(said, str):
        raise ValueError(f"{name} version {version} does not answer its own example: {said}")  # noqa: TRY004 - a value
    return Loaded(name, version, column, columns, engine, answer)


def _faster(model: Any, folder: Path, example: pd.DataFrame, threads: int) -> str:  # noqa: ANN401 - the version's class
    """Let ONNX Runtime compute a model's graph if it gives the same and is faster; return its name, else nothing."""
    eager, file = model.graph, folder.parent / "model.onnx"
    try:
        inputs = onnx_export.encoded(model, pd.concat([example] * SAMPLE_SIZE, ignore_index=True))
        with torch.no_grad():
            like = eager(inputs)
        onnx_export.write_graph(folder, file)
        graph = onnx_graphs.session(file, threads, like)
        onnx_graphs.check_equal(graph, eager, inputs)
        if _seconds(graph, inputs, threads) > _seconds(eager, inputs, threads):
            return ""
    except Exception as error:  # noqa: BLE001 - exporters raise almost anything; PyTorch remains
        log.info("ONNX Runtime is not used: %s", error)
        return ""
    model.graph = graph
    return onnx_graphs.runtime()


def _seconds(graph: onnx_graphs.Graph, inputs: Any, threads: int) -> float:  # noqa: ANN401 - a pytree
    """Seconds of the best of three passes."""
    taken, before = [], torch.get_num_threads()
    torch.set_num_threads(threads)
    with torch.no_grad():
        for _ in range(3):
            begin = time.perf_counter()
            graph(inputs)
            taken.append(time.perf_counter() - begin)
    torch.set_num_threads(before)
    return min(taken)
