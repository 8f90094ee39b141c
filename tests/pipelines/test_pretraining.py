"""The DAG of a pretraining."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler

from pipelines.pretraining import pretraining_for
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
