"""The served model: what MLflow loads where Thawline is not installed (its "models from code").

This file is copied into every registered version and run from there; it finds the exported graph, the
serving settings, the task's serving code and the code of its answers beside it. Nothing here imports from Thawline.
"""

import base64
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel

BATCH = 64
SHOWN = 10  # records that an error names
REASON = 200  # characters of each reason: one may repeat the record
LEAST_BASE64 = 8  # characters: a shorter word may happen to be base64
B64 = "b64"  # {"b64": "…"} is base64, whatever the column holds else


class UnansweredError(MlflowException, ValueError):
    """Records that can't be answered; over HTTP it is status 400 with its message.

    Args:
        reasons: By the record's number in the request, from 0.
        total: Records in the request.
    """

    def __init__(self, reasons: Mapping[int, str], total: int) -> None:
        named = "; ".join(f"record {number}: {reason[:REASON]}" for number, reason in [*reasons.items()][:SHOWN])
        more = f"; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
        message = f"{len(reasons)} of {total} records can't be answered (counted from 0): {named}{more}"
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)
        self.reasons = dict(reasons)

    def __setattr__(self, name: str, value: object) -> None:
        """Keep the message: MLflow's server puts the whole request in front of it, which may be megabytes."""
        if name != "message" or not hasattr(self, "message"):
            super().__setattr__(name, value)


class ServedModel(PythonModel):
    """Answers raw records with a row of answers each.

    A record is bytes, or base64 as text or as {"b64": text}; in a column named text it is bytes or the text itself.
    """

    def load_context(self, context: Any) -> None:  # noqa: ANN401 - mlflow's own context
        """Load the graph after its archive has been checked."""
        folder = Path(context.artifacts["served"])
        self.settings = json.loads((folder / "serving.json").read_text())
        self.code = _module(folder / "serving_code.py")
        self.answers = _module(folder / "answers_code.py").answers
        _module(folder / "archives.py").check_archive(folder / "network.pt2")
        self.graph = torch.export.load(folder / "network.pt2").module()

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:  # noqa: ANN401, ARG002 - mlflow's signature
        """One row of answers for every record in the input's column.

        Raises:
            UnansweredError: Some can't be answered; it names all of them, and none is answered.
        """
        values = list(_flat(model_input[self.settings["input_name"]]))
        rows: list[dict[str, Any]] = []
        reasons: dict[int, str] = {}
        with torch.no_grad():
            for start in range(0, len(values), BATCH):
                some = values[start : start + BATCH]
                try:
                    inputs = self._encoded(some)
                except ValueError as error:
                    found = {start + i: reason for i, reason in self._reasons(some)}
                    reasons |= found or {start: str(error)}
                if not reasons:
                    rows += self.answers(self.graph(inputs), self.settings)
        if reasons:
            raise UnansweredError(reasons, len(values))
        return pd.DataFrame(rows)

    def _encoded(self, values: Sequence[Any]) -> Any:  # noqa: ANN401 - a pytree of tensors
        text = self.settings["input_name"] == "text"
        return self.code.encode([_bytes(value, text) for value in values], self.settings["preprocessing"])

    def _reasons(self, values: Sequence[Any]) -> Iterator[tuple[int, str]]:
        """Find the records that can't be used, with the reasons."""
        for i, value in enumerate(values):
            try:
                self._encoded([value])
            except ValueError as error:
                yield i, str(error)


def _flat(values: Any) -> Iterator[Any]:  # noqa: ANN401 - a column
    """The records of a column; `inputs` and `instances` of MLflow's server put all of them into one cell."""
    for value in values:
        if hasattr(value, "tolist"):  # NumPy's
            value = value.tolist()  # noqa: PLW2901 - the same value
        yield from _flat(value) if isinstance(value, list) else [value]


def _bytes(value: Any, text: bool) -> bytes:  # noqa: ANN401, FBT001 - whatever a request holds
    """A record's bytes.

    Raises:
        ValueError: It is of no form that a record may have, or of two.
    """
    if isinstance(value, dict) and [*value] == [B64] and isinstance(value[B64], str):
        return _from_base64(value[B64])
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str):
        raise ValueError(f"a record is bytes or text, not {type(value).__name__}")  # noqa: TRY004 - a bad record
    if not text:
        return _from_base64(value)
    if _may_be_base64(value):
        raise ValueError('it may be base64: send the text itself, or {"b64": "…"}')
    return value.encode()


def _from_base64(value: str) -> bytes:
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except ValueError:
        raise ValueError("not base64") from None


def _may_be_base64(text: str) -> bool:
    """Return whether a text is base64 of a text: words seldom are."""
    if len(text) < LEAST_BASE64 or len(text.split()) != 1:
        return False
    try:
        inner = base64.b64decode(text.strip(), validate=True).decode()
    except ValueError:
        return False
    return all(c.isprintable() or c.isspace() for c in inner)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"served_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


set_model(ServedModel())
