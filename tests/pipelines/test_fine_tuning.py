"""The DAG: as it is compiled, and as kfp.local runs it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core.data.dataset_info import DatasetInfo
from components.core.registry import versions
from components.core.settings import Settings
from components.core.tracking import queries, tag_names
from components.core.tracking.service import connection
from components.search import study_name
from tests.pipelines.conftest import WholeRun
from tests.support.command import ROOT, thawline

GOLDEN = ROOT / "tests/golden/fine_tuning.yaml"
TRAINING = ("prepare_data", "search", "select_trial", "train_head", "fine_tune", "evaluate", "register")
STEPS = ("detect_changes", *TRAINING, "finish")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("compiled")
    answer = thawline("compile", "-o", str(folder / "dag.yaml"), home=folder / "home", cwd=folder)
    assert answer.status == 0, answer.err
    return (folder / "dag.yaml").read_text()


def tasks(dag: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every task of a compiled DAG by name, those of its inner DAGs included."""
    inner = [component["dag"] for component in dag["components"].values() if "dag" in component]
    return {name: task for part in (dag["root"]["dag"], *inner) for name, task in part["tasks"].items()}


def step_run(run: WholeRun, name: str) -> Any:
    return next(
        r
        for r in queries.find_runs("toy", "", "step")
        if r.info.run_name == name and r.data.tags[tag_names.PARENT] == run.result["mlflow_run_id"]
    )


def test_the_dag_is_the_golden_one(compiled: str) -> None:
    """The compiled DAG changes only together with its golden copy."""
    assert compiled == GOLDEN.read_text(), "The DAG or a step's wrapper changed: run `make golden`, look at the diff"


def test_every_step_is_a_task(compiled: str) -> None:
    """Each step is one task of the DAG, but for the choice of a trial: the pod that searches alone makes it."""
    found = {name for name, task in tasks(yaml.safe_load(compiled)).items() if name.replace("-", "_") in STEPS}
    assert found == {step.replace("_", "-") for step in STEPS} - {"select-trial"}


def test_finish_is_the_exit_handler(compiled: str) -> None:
    """Finish runs whatever becomes of the other steps, and is told how they ended."""
    finish = tasks(yaml.safe_load(compiled))["finish"]
    assert finish["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert "taskFinalStatus" in finish["inputs"]["parameters"]["status"]


def test_no_step_is_cached(compiled: str) -> None:
    """Every step runs although its inputs are the same: what they name may have changed, and it writes into MLflow."""
    found = tasks(yaml.safe_load(compiled))
    assert {"detect-changes", "prepare-data", "search", "train-head", "evaluate", "finish"} <= {*found}
    assert not [name for name, task in found.items() if task.get("cachingOptions", {}).get("enableCache")]


def test_one_worker_needs_no_loop(compiled: str) -> None:
    """The DAG that runs here has no loop, where kfp.local would put the item in the place of another task's output."""
    assert not [name for name, task in tasks(yaml.safe_load(compiled)).items() if "parameterIterator" in task]


def test_the_search_knows_its_data(whole: WholeRun) -> None:
    """The study is addressed by the data's digest and the weights': other data get another study."""
    [folder] = [path.parent for path in (whole.home / "runs").glob("*/settings.json")]
    settings = Settings.from_json((folder / "settings.json").read_text())
    tags = step_run(whole, "prepare_data").data.tags
    expected = study_name(
        settings,
        DatasetInfo(classes=[], digest=whole.result["dataset_digest"], weights_digest=tags["thawline.weights_digest"]),
    )
    assert step_run(whole, "search").data.tags["thawline.study"] == expected


def test_runs_form_a_tree(whole: WholeRun) -> None:
    """One run for the pipeline, a child for each step, a grandchild for each trial, all FINISHED."""
    found = [run for run in queries.find_runs("toy", "") if run.data.tags[tag_names.KIND] != "promotion"]
    kinds = Counter(run.data.tags[tag_names.KIND] for run in found)
    assert kinds == {"pipeline": 1, "step": 8, "trial": 2}
    assert {run.info.status for run in found} == {"FINISHED"}
    parents = {run.info.run_id: run.data.tags.get(tag_names.PARENT) for run in found}
    pipeline, search = whole.result["mlflow_run_id"], step_run(whole, "search").info.run_id
    for run in found:
        wanted = {"pipeline": None, "step": pipeline, "trial": search}[run.data.tags[tag_names.KIND]]
        assert parents[run.info.run_id] == wanted
    assert {run.info.run_name for run in found if parents[run.info.run_id] == pipeline} == set(STEPS) - {"finish"}


def test_the_pipelines_run_says_what_it_was(whole: WholeRun) -> None:
    """The pipeline's run carries the settings, the data as dataset input, the metrics and the decision."""
    run = connection.client().get_run(whole.result["mlflow_run_id"])
    assert run.data.params["head_learning_rate"] == "0.05"
    assert run.data.params["task"] == "tests.fakes.toy"
    assert run.data.metrics["test/accuracy"] == whole.result["metrics"]["accuracy"]
    tags = run.data.tags
    assert tags["thawline.dataset_digest"] == whole.result["dataset_digest"]
    assert tags["thawline.decision"] == whole.result["reason"]
    assert (tags["thawline.version"], tags["thawline.promoted"]) == ("1", "true")
    [given] = run.inputs.dataset_inputs
    assert given.dataset.name == "toy"
    assert whole.result["dataset_digest"].startswith(given.dataset.digest)
    assert str(whole.source) in given.dataset.source


def test_the_first_model_is_registered_as_champion(whole: WholeRun) -> None:
    """A first version far above the trivial model carries both aliases and its origin."""
    assert versions.current("toy", "challenger") == "1"
    assert versions.current("toy", "champion") == "1"
    tags = connection.client().get_model_version("toy", "1").tags
    assert tags["thawline.dataset_digest"] == whole.result["dataset_digest"]
    assert {"thawline.weights_digest", "thawline.code_revision", "thawline.settings_digest"} <= set(tags)


def test_kubeflows_page_gets_the_result(whole: WholeRun) -> None:
    """Metrics and report are artifacts of `evaluate`: the decision, the figure with its interval, and the page."""
    [left] = (whole.home / "runs").glob("*/outputs/*/evaluate/executor_output.json")
    artifacts = {name: found["artifacts"][0] for name, found in json.loads(left.read_text())["artifacts"].items()}
    shown, metrics = artifacts["metrics"]["metadata"], whole.result["metrics"]
    assert (shown["decision"], shown["accepted"]) == (whole.result["reason"], "yes")
    for name in ("accuracy", "accuracy_low", "accuracy_high", "macro_f1"):
        assert shown[name] == metrics[name]
    page = (left.parent / "report").read_text()
    assert artifacts["report"]["uri"] == str(left.parent / "report")
    assert page == Path(whole.result["report"]).read_text()
    kinds = yaml.safe_load(GOLDEN.read_text())["components"]["comp-evaluate"]["outputDefinitions"]["artifacts"]
    assert {n: k["artifactType"]["schemaTitle"] for n, k in kinds.items() if n in ("metrics", "report")} == {
        "metrics": "system.Metrics",
        "report": "system.HTML",
    }


def test_figures_and_report_are_kept(whole: WholeRun) -> None:
    """The figures of the search and of the evaluation and the report lie in MLflow."""
    client = connection.client()

    def names(run_id: str, folder: str) -> set[str]:
        return {Path(item.path).name for item in client.list_artifacts(run_id, folder)}

    assert "search_history.svg" in names(step_run(whole, "select_trial").info.run_id, "figures")
    assert "confusion_matrix.svg" in names(step_run(whole, "evaluate").info.run_id, "figures")
    assert "report.html" in names(whole.result["mlflow_run_id"], "")
