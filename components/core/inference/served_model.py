"""The served model: what MLflow loads where Thawline is not installed (its "models from code").

This file is copied into every registered version and run from there; it finds the exported graph, the
serving settings, the task's serving code and the code of its answers beside it. Nothing here imports from Thawline.
"""

import base64
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

BATCH = 64


class ServedModel(PythonModel):
    """Answers raw records, as bytes or as base64 text, with a row of answers each."""

    def load_context(self, context: Any) -> None:  # noqa: ANN401 - mlflow's own context
        """Load the graph after its archive has been checked."""
        folder = Path(context.artifacts["served"])
        self.settings = json.loads((folder / "serving.json").read_text())
        self.code = _module(folder / "serving_code.py")
        self.answers = _module(folder / "answers_code.py").answers
        _module(folder / "archives.py").check_archive(folder / "network.pt2")
        self.graph = torch.export.load(folder / "network.pt2").module()

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:  # noqa: ANN401, ARG002 - mlflow's signature
        """One row of answers for every record in the input's column."""
        records = [_bytes(value) for value in model_input[self.settings["input_name"]]]
        rows: list[dict[str, Any]] = []
        with torch.no_grad():
            for start in range(0, len(records), BATCH):
                inputs = self.code.encode(records[start : start + BATCH], self.settings["preprocessing"])
                rows += self.answers(self.graph(inputs), self.settings)
        return pd.DataFrame(rows)


def _bytes(value: bytes | str) -> bytes:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else bytes(value)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"served_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


set_model(ServedModel())
