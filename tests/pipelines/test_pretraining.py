"""The DAG of a pretraining."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler

from components.core.training import saved_weights
from pipelines.pretraining import pretraining_for, save_weights
from pipelines.terminal.display import steps_of
from tests.pipelines.test_fine_tuning import tasks


@pytest.mark.parametrize("trials", [0, 2])
def test_it_is_a_run_that_ends_with_the_training(trials: int, tmp_path: Path) -> None:
    """Its steps are those of a run, with and without a search, but nothing judges or registers."""
    compiler.Compiler().compile(pretraining_for(trials), str(tmp_path / "dag.yaml"))
    dag: dict[str, Any] = yaml.safe_load((tmp_path / "dag.yaml").read_text())
    steps = {name for name in tasks(dag) if not name.startswith(("exit-handler", "condition"))}
    assert steps == {step.replace("_", "-") for step in steps_of(trials, pretraining=True)} - {"select-trial"}
    assert "save-weights" in steps
    assert not {"evaluate", "register"} & steps
    assert tasks(dag)["save-weights"]["dependentTasks"] == ["fine-tune"]


def test_the_wrapper_has_its_steps_parameters() -> None:
    """The wrapper takes what the step takes."""
    kfp_side = inspect.signature(save_weights.python_func).parameters
    assert kfp_side.keys() == inspect.signature(saved_weights.save_weights).parameters.keys()
