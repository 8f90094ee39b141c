"""How a run on Kubeflow ended, by its word, by MLflow and by the plugin that brings the two together."""

import os
from typing import Any

import pytest

from components.core.tracking import runs
from components.core.tracking.service import connection
from pipelines.kubeflow import ended
from tests.fakes.kubeflow.server import model_of, recorded

PAGE = "http://mlflow.example:5000/#/experiments/5/runs/4c4a6a3bb8d7488182de7e25b3a5440d"


def run_of(name: str, **changes: Any) -> Any:
    return model_of({**recorded(name), **changes}, "V2beta1Run")


def test_the_plugins_page_is_shown_where_mlflow_is_not_reached_from_here(home: Any) -> None:
    """Without an address of MLflow here, its run there is the one that Kubeflow's plugin names."""
    result, page, kind = ended.result_of("stamps", "a key", run_of("plugin"))
    assert (result.status, kind) == ("succeeded", "failure")
    assert (page, result.mlflow_run_id) == (PAGE, PAGE.rpartition("/")[2])
    assert ended.result_of("stamps", "a key", run_of("succeeded")).page == ""


@pytest.mark.parametrize("before", ["", "of this shell"])
def test_the_result_is_read_where_the_plugin_let_the_steps_write(
    before: str, tracked_home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin's experiment is read, whatever this shell's is, which is put back."""
    if before:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", before)
    shared = connection.client().create_experiment("KFP-Default")
    key = "f9f870ec-9a7a-4cf3-8fce-e90c836c9aa0"
    with monkeypatch.context() as pods:
        pods.setenv("MLFLOW_EXPERIMENT_ID", shared)
        written = runs.create("stamps", key, "stamps", "pipeline", None, 0)
        runs.record(written, {"accuracy": 0.9}, {"thawline.version": "3", "thawline.decision": "It is better."})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracked_home / 'mlflow.db'}")
    output = recorded("plugin")["plugins_output"]
    output["mlflow"]["entries"]["experiment_id"]["value"] = shared
    result, page, _ = ended.result_of("stamps", key, run_of("plugin", plugins_output=output))
    assert (result.mlflow_run_id, result.version, result.reason) == (written, "3", "It is better.")
    assert page == PAGE  # the store of this test has no page of its own
    assert os.environ.get("MLFLOW_EXPERIMENT_ID", "") == before


def test_a_terminated_run_is_closed_and_called_so(tracked_home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was terminated, whose exit handler did not run, is no run that failed; MLflow's is open no more."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracked_home / 'mlflow.db'}")
    written = runs.create("stamps", "a key", "stamps", "pipeline", None, 0)
    result, *_ = ended.result_of("stamps", "a key", run_of("terminated"))
    assert (result.status, result.reason) == ("terminated", "The run was terminated on Kubeflow.")
    assert result.mlflow_run_id == written
    assert connection.client().get_run(written).info.status == "KILLED"
