"""The real steps as pods of an interpreted DAG: kfp's own executor calls each wrapper, in this process."""

import atexit
import gc
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from kfp.dsl import executor
from kfp.dsl.types import artifact_types

from tests.fakes.kubeflow.driver import Call, Perform


def real(module: ModuleType, run_id: str, folder: Path) -> Perform:
    """Run the wrappers of a module in the pods of a run, which find its id in their environment."""

    def perform(call: Call) -> Mapping[str, Any]:
        number = len(list(folder.glob("*"))) if folder.exists() else 0
        place = folder / f"{number:02}-{call.function}"
        place.mkdir(parents=True)
        with _pod(run_id):
            executor.Executor(_input(call, place), getattr(module, call.function).python_func).execute()
        written = json.loads((place / "executor_output.json").read_text())
        for name, made in written.get("artifacts", {}).items():
            call.made[name].update(made["artifacts"][0])
        found: dict[str, Any] = written.get("parameterValues", {})
        return found

    return perform


def _input(call: Call, place: Path) -> dict[str, Any]:
    """What the launcher hands to a step."""
    definitions = call.component.get("outputDefinitions", {}).get("parameters", {})
    return {
        "inputs": {
            "parameterValues": call.parameters,
            "artifacts": {name: {"artifacts": found} for name, found in call.artifacts.items()},
        },
        "outputs": {
            "parameters": {name: {"outputFile": str(place / name)} for name in definitions},
            "artifacts": {name: {"artifacts": [artifact]} for name, artifact in call.made.items()},
            "outputFile": str(place / "executor_output.json"),
        },
    }


@contextmanager
def _pod(run_id: str) -> Iterator[None]:
    """What a pod has of its own and a step changes for good: environment, collector, what is done at its exit."""
    with (
        mock.patch.dict(os.environ, THAWLINE_RUN_KEY=run_id),
        mock.patch.object(artifact_types, "CONTAINER_TASK_ROOT", None),
    ):
        try:
            yield
        finally:
            gc.enable()
            atexit.unregister(gc.freeze)
