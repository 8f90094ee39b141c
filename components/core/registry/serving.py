"""Build the served model of a checkpoint: exported graph, serving code and settings, self-contained."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from components.core.contract.task import Target, Task
from components.core.inference import archives
from components.core.networks.network import Network
from components.core.tracking import pyfunc

CODE = Path(__file__).parents[1] / "inference" / "served_model.py"
ARCHIVE = "artifacts/served/network.pt2"  # in the served model's folder: the exported graph
SERVING = "artifacts/served/serving.json"  # in the served model's folder: classes, preprocessing, temperature
AGREEMENT = 1e-3  # between two ways to compute an answer's figures; a kernel's rounding is a hundredth of it
CHUNK = 256  # records in memory at a time


def export_network(network: Network, inputs: Any, path: Path) -> None:  # noqa: ANN401 - a pytree
    """Export the network for any batch size (torch.export) without the example inputs.

    Args:
        network: On the CPU.
        inputs: An example batch of at least two: a size of one would be taken as a constant.
        path: The `.pt2` file to write.
    """
    batch = torch.export.Dim("batch", min=1, max=65_536)
    shapes = tree_map_only(Tensor, lambda _: {0: batch}, inputs)
    program = torch.export.export(network.eval(), (inputs,), dynamic_shapes=(shapes,))
    program._example_inputs = None  # noqa: SLF001 - they would be stored as a pickle, and loading would run it
    torch.export.save(program, path)
    archives.check_archive(path)


def build_served(
    folder: Path,
    task: Task,
    target: Target,
    network: Network,
    classes: Sequence[str],
    calibration: Mapping[str, float],
    examples: Sequence[bytes],
) -> None:
    """Write the served model, in MLflow's format, into a folder; `examples` are at least one raw record."""
    with tempfile.TemporaryDirectory() as temporary:
        served = Path(temporary) / "served"
        served.mkdir()
        settings = {
            "input_name": task.input_name,
            "classes": list(classes),
            "preprocessing": network.preprocessing,
            **calibration,
        }
        (served / "serving.json").write_text(json.dumps(settings, indent=1))
        shutil.copy(task.serving_code, served / "serving_code.py")
        shutil.copy(target.answers_code, served / "answers_code.py")
        shutil.copy(archives.__file__, served / "archives.py")
        pair = (list(examples) * 2)[:2]
        export_network(network.to("cpu"), task.encode(pair, network.preprocessing), served / "network.pt2")
        shutil.rmtree(folder, ignore_errors=True)
        pyfunc.save_pyfunc(folder, CODE, served, task.input_name, pair[0], target.answer, task.serving_requirements)


def answers(
    model: Any,  # noqa: ANN401 - mlflow publishes no types
    input_name: str,
    count: int,
    contents: Callable[[int, int], Sequence[bytes]],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> pd.DataFrame:
    """A served model's answers to `count` raw records, a row each; `contents` gives records start to stop."""
    parts: list[pd.DataFrame] = []
    for start in range(0, count, CHUNK):
        stop = min(count, start + CHUNK)
        parts.append(model.predict(pd.DataFrame({input_name: list(contents(start, stop))})))
        progress(stop, count)
    return pd.concat(parts, ignore_index=True)


def answer_some(
    model: Any,  # noqa: ANN401 - mlflow publishes no types
    input_name: str,
    contents: Sequence[bytes],
) -> list[dict[str, Any] | str]:
    """Of each raw record its answer, or the reason why there is none: a bad one keeps no other from its answer."""
    try:
        return _asked(model, input_name, contents)
    except ValueError as error:
        # a version of before the reasons were given is asked record by record
        reasons: Mapping[int, str] | None = getattr(error, "reasons", None)
        if reasons is None:
            return [str(error)] if len(contents) == 1 else [_alone(model, input_name, one) for one in contents]
    good = [content for i, content in enumerate(contents) if i not in reasons]
    said = iter(_asked(model, input_name, good))
    return [reasons[i] if i in reasons else next(said) for i in range(len(contents))]


def _alone(model: Any, input_name: str, content: bytes) -> dict[str, Any] | str:  # noqa: ANN401 - as above
    try:
        return _asked(model, input_name, [content])[0]
    except ValueError as error:
        return str(error)


def _asked(model: Any, input_name: str, contents: Sequence[bytes]) -> list[dict[str, Any] | str]:  # noqa: ANN401 - as above
    if not contents:
        return []
    found = model.predict(pd.DataFrame({input_name: list(contents)}))
    return found.to_dict("records")  # type: ignore[no-any-return]  # pandas types the keys as Hashable


def agree(found: pd.DataFrame, expected: pd.DataFrame) -> bool:
    """Return whether two sets of answers agree: numbers within `AGREEMENT`, or that share of their column's spread."""
    return {*found.columns} == {*expected.columns} and all(
        _agree(found[name].tolist(), expected[name].tolist()) for name in expected.columns
    )


def _agree(found: Sequence[object], expected: Sequence[object]) -> bool:
    (ours, shape), (theirs, expected_shape) = tree_flatten([*found]), tree_flatten([*expected])
    figures = [value for value in theirs if isinstance(value, float)]
    tolerance = AGREEMENT * max(1.0, max(figures, default=0.0) - min(figures, default=0.0))  # a number has any unit
    return shape == expected_shape and all(
        abs(a - b) <= tolerance if isinstance(a, float) and isinstance(b, float) else a == b
        for a, b in zip(ours, theirs, strict=True)
    )
