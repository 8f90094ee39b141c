"""Served models in MLflow's format."""

import base64
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict
from unittest.mock import patch

import mlflow
from mlflow.utils import requirements_utils

from components.core.tracking.service.connection import client
from components.core.tracking.service.silence import told

ALWAYS = ("mlflow", "torch", "numpy", "pandas")  # libraries that every served model needs


def save_pyfunc(
    folder: Path, code: Path, served: Path, input_name: str, example: bytes, answer: type, requirements: Sequence[str]
) -> None:
    """Save a served model in MLflow's format, as code and artifacts, without a pickle.

    Args:
        folder: Where the model goes; must not exist.
        code: The model as code, `served_model.py`.
        served: Folder of its artifacts.
        input_name: The column of raw records.
        example: One raw record, kept as the input example.
        answer: A TypedDict of the answers' columns, for the signature.
        requirements: Libraries that the task's serving code needs.
    """
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    # MLflow decodes base64 for a binary column in some forms of a request only: the model does it for all of them
    signature = ModelSignature(
        Schema([ColSpec(AnyType(), input_name)]),  # type: ignore[no-untyped-call]  # mlflow publishes no types
        Schema([ColSpec(_mlflow_type(hint), name) for name, hint in get_type_hints(answer).items()]),
    )
    with _without_scan():
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(code),
            artifacts={"served": str(served)},
            signature=signature,
            input_example=pd.DataFrame({input_name: [{"b64": base64.b64encode(example).decode()}]}),
            pip_requirements=[f"{name}=={version(name)}" for name in (*ALWAYS, *requirements)],
        )


@contextmanager
def _without_scan() -> Iterator[None]:
    """Keep MLflow from looking through the files of all packages for the modules that they have, a second's work.

    It wants to warn of requirements that are not met here, and finds these by the names of packages all the same.
    """
    with patch.object(requirements_utils, "_MODULES_TO_PACKAGES", {}, create=True):
        yield


def _mlflow_type(hint: Any) -> Any:  # noqa: ANN401 - mlflow publishes no types
    """MLflow's type of a column of text, numbers, lists, TypedDicts, or dicts by text."""
    from mlflow.types import DataType
    from mlflow.types.schema import Array, Map, Object, Property

    inner = get_args(hint)
    if get_origin(hint) is dict:
        return Map(_mlflow_type(inner[1]))
    if get_origin(hint) is list:
        return Array(_mlflow_type(inner[0]))
    if is_typeddict(hint):
        return Object([Property(name, _mlflow_type(kind)) for name, kind in get_type_hints(hint).items()])
    return {str: DataType.string, float: DataType.double, int: DataType.long, bool: DataType.boolean}[hint]


def arrow_types(served: Any) -> dict[str, Any]:  # noqa: ANN401 - mlflow and pyarrow publish no types
    """Return Arrow's type of each column of a served model's answers, by its signature."""
    import pyarrow as pa
    from mlflow.types import DataType
    from mlflow.types.schema import Array, Map, Object

    plain = {DataType.double: pa.float64(), DataType.long: pa.int64(), DataType.boolean: pa.bool_()}

    def arrow(kind: Any) -> Any:  # noqa: ANN401 - as above
        if isinstance(kind, Map):
            return pa.map_(pa.string(), arrow(kind.value_type))
        if isinstance(kind, Array):
            return pa.list_(arrow(kind.dtype))
        if isinstance(kind, Object):
            return pa.struct({one.name: arrow(one.dtype) for one in kind.properties})
        return plain.get(kind, pa.string())

    return {column.name: arrow(column.type) for column in served.metadata.get_output_schema()}


def load_pyfunc(folder: Path) -> Any:  # noqa: ANN401 - mlflow publishes no types
    """A served model from a local folder that has been checked; its files stay as they are."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # else Python adds compiled code to the folder
    try:
        with _without_scan():
            return mlflow.pyfunc.load_model(str(folder))
    finally:
        sys.dont_write_bytecode = before


def download_version(model: str, version: str, folder: Path) -> Path:
    """Download a registered version's files, without the marker that loading by name would add."""
    uri = client().get_model_version_download_uri(model, version)
    with told():
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
