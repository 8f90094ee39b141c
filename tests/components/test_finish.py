"""The exit handler."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest

from components.core import run_folder
from components.core.errors import InputError, NoAnswerError
from components.core.run_result import RunResult
from components.core.settings import Settings
from components.core.tracking import queries, runs, tag_names
from components.core.tracking.service import connection
from components.detect_changes import detect_changes
from components.finish import finish
from tests.fakes.webhook import listening, status
from tests.support.plain import PlainRun

SETTINGS = Settings(task="tests.fakes.toy", model="toy")


def test_the_result_has_the_contracts_keys(toy_run: PlainRun) -> None:
    """The result holds exactly what scripts rely on, read from MLflow."""
    result = toy_run.result
    assert result.keys() == RunResult.model_fields.keys()
    assert (result["status"], result["model"], result["version"], result["promoted"]) == ("succeeded", "toy", "1", True)
    assert result["dataset_digest"] == toy_run.dataset_digest
    assert result == json.loads((run_folder.run_folder(toy_run.run_key) / "result.json").read_text())


def test_seconds_of_every_step(toy_run: PlainRun) -> None:
    """Each step's own work is in the result, in the order of the DAG."""
    names = ["detect_changes", "prepare_data", "search", "select_trial", "train_head", "fine_tune", "evaluate"]
    names.append("register")
    assert list(toy_run.result["steps"]) == names
    assert all(seconds > 0 for seconds in toy_run.result["steps"].values())


def test_the_tree_in_mlflow(toy_run: PlainRun) -> None:
    """One run for the pipeline, a child per step, a grandchild per trial, all finished."""
    [pipeline] = queries.find_runs("toy", toy_run.run_key, "pipeline")
    steps = queries.find_runs("toy", toy_run.run_key, "step")
    trials = queries.find_runs("toy", toy_run.run_key, "trial")
    assert {s.data.tags[tag_names.PARENT] for s in steps} == {pipeline.info.run_id}
    assert {t.data.tags[tag_names.PARENT] for t in trials} <= {s.info.run_id for s in steps}
    assert {r.info.status for r in (pipeline, *steps, *trials)} == {"FINISHED"}
    [data] = pipeline.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("toy", toy_run.dataset_digest[:36])


def test_an_expected_error_is_the_reason(tracked_home: Path) -> None:
    """A step that stops for a known reason is FAILED in MLflow, and its sentence is the result's reason."""
    with (
        pytest.raises(InputError),
        runs.step("prepare_data", "k", SETTINGS.to_json()),
    ):
        raise InputError("The folder is empty.", "Fill it.")
    result = finish(SETTINGS.to_json(), "k", "FAILED")
    assert (result.status, result.reason) == ("failed", "The folder is empty. Fill it.")
    [step] = queries.find_runs("toy", "k", "step")
    [pipeline] = queries.find_runs("toy", "k", "pipeline")
    assert step.info.status == pipeline.info.status == "FAILED"
    assert step.data.tags["thawline.error"] == "input: The folder is empty. Fill it."


def test_where_files_are_gone_the_error_is_in_mlflow(tracked_home: Path) -> None:
    """On a cluster the exit handler has a disk of its own: it takes the failed step's sentence from its run."""
    with pytest.raises(InputError), runs.step("prepare_data", "k", SETTINGS.to_json()):
        raise InputError("The folder is empty.", "Fill it.")
    shutil.rmtree(run_folder.run_folder("k"))
    assert finish(SETTINGS.to_json(), "k", "FAILED").reason == "The folder is empty. Fill it."
    [pipeline] = queries.find_runs("toy", "k", "pipeline")
    assert pipeline.data.tags["thawline.failure"] == "The folder is empty. Fill it."


def test_the_cost_is_in_mlflow(toy_home: PlainRun) -> None:
    """Seconds of all steps, their price and both in words, for the machine that was named."""
    priced = toy_home.settings.model_copy(update={"machine": "n2-standard-8", "price_per_hour": 3.6})
    result = finish(priced.to_json(), toy_home.run_key, "SUCCEEDED")
    data = connection.client().get_run(result.mlflow_run_id).data
    assert data.metrics["time/seconds"] == pytest.approx(sum(result.steps.values()))
    assert data.metrics["time/price"] == pytest.approx(data.metrics["time/seconds"] / 1000)
    assert " on n2-standard-8, about 0." in result.cost
    assert data.tags["thawline.cost"] == result.cost


def test_an_undefined_figure_is_missing(tracked_home: Path) -> None:
    """R2 of test rows with one number is none: the result stays JSON, which has no NaN."""
    with runs.step("evaluate", "k", SETTINGS.to_json()) as run:
        run.metrics({"r2": float("nan"), "mae": 2.0}, pipeline=True)
    assert finish(SETTINGS.to_json(), "k", "SUCCEEDED").metrics == {"mae": 2.0}
    assert "NaN" not in (run_folder.run_folder("k") / "result.json").read_text()


def test_the_webhook_is_told_after_the_result_is_written(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A webhook that fails changes neither the result nor its file."""
    runs.pipeline_run("k", SETTINGS)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with listening(status(404)) as hook:
        monkeypatch.setenv("THAWLINE_WEBHOOK_URL", hook.address)
        result = finish(SETTINGS.to_json(), "k", "FAILED")
    [message] = hook.messages
    assert message["run"]["reason"] == result.reason == "The run ended before its last step."
    assert result == RunResult.read("k")
    [pipeline] = queries.find_runs("toy", "k", "pipeline")
    assert pipeline.data.tags["thawline.notified"] == "not sent: 127.0.0.1 answered 404"


def test_an_unexpected_error_names_the_step(tracked_home: Path) -> None:
    """Any exception ends the step's run as FAILED, and the reason names the step."""
    with pytest.raises(ZeroDivisionError), runs.step("search", "k", SETTINGS.to_json()):
        raise ZeroDivisionError
    assert "search" in finish(SETTINGS.to_json(), "k", "FAILED").reason


def test_a_sigterm_ends_the_step_as_failed(tracked_home: Path) -> None:
    """A polite kill in mid-work leaves a FAILED run, not a RUNNING one."""
    import os
    import signal

    with pytest.raises(SystemExit), runs.step("search", "k", SETTINGS.to_json()):
        os.kill(os.getpid(), signal.SIGTERM)
    [step] = queries.find_runs("toy", "k", "step")
    assert step.info.status == "FAILED"


def test_what_a_kill_left_running_is_closed(tracked_home: Path) -> None:
    """After a SIGKILL the exit handler closes the step and the pipeline as FAILED."""
    pipeline = runs.pipeline_run("k", SETTINGS)
    runs.create("search", "k", "toy", "step", pipeline.info.run_id)
    finish(SETTINGS.to_json(), "k", "FAILED")
    assert {r.info.status for r in queries.find_runs("toy", "k")} == {"FAILED"}


def test_an_abandoned_run_is_closed_by_the_next(tracked_home: Path) -> None:
    """A run whose whole process group was killed is closed by the next run's exit handler."""
    runs.pipeline_run("dead", SETTINGS)
    (run_folder.run_folder("dead") / "settings.json").write_text(SETTINGS.to_json())
    (run_folder.run_folder("dead") / "lease.json").write_text('{"pid": 999999999, "started": "1"}')
    following = runs.pipeline_run("next", SETTINGS)
    connection.client().set_tag(following.info.run_id, tag_names.VERSION, "1")
    finish(SETTINGS.to_json(), "next", "SUCCEEDED")
    assert [r.info.status for r in queries.find_runs("toy", "dead")] == ["FAILED"]
    assert [r.info.status for r in queries.find_runs("toy", "next")] == ["FINISHED"]
    assert json.loads((run_folder.run_folder("dead") / "result.json").read_text())["status"] == "failed"


def test_a_run_killed_right_before_its_result_was_written_has_succeeded(tracked_home: Path) -> None:
    """Its model is registered and MLflow says FINISHED: the next exit handler writes what became of it."""
    done = runs.pipeline_run("done", SETTINGS).info.run_id
    connection.client().set_tag(done, tag_names.VERSION, "1")
    connection.client().set_terminated(done, "FINISHED")
    (run_folder.run_folder("done") / "settings.json").write_text(SETTINGS.to_json())
    (run_folder.run_folder("done") / "lease.json").write_text('{"pid": 999999999, "started": "1"}')
    runs.pipeline_run("next", SETTINGS)
    finish(SETTINGS.to_json(), "next", "FAILED")
    result = RunResult.read("done")
    assert result is not None
    assert (result.status, result.version) == ("succeeded", "1")


def test_an_injected_run_is_adopted(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment brings a run for the step, it is used, and its parent becomes the pipeline's."""
    parent = runs.create("theirs", "", "toy", "", None)
    child = runs.create("their step", "", "toy", "", parent)
    monkeypatch.setenv("MLFLOW_RUN_ID", child)
    with runs.step("prepare_data", "k", SETTINGS.to_json()) as run:
        run.metrics({"examples": 3.0})
        run.tags({"thawline.salt": "0"})
    assert (run.run_id, run.pipeline_id) == (child, parent)
    assert [r.info.run_id for r in queries.find_runs("toy", "k", "step")] == [child]  # the lineage finds it
    assert connection.client().get_run(child).data.metrics["examples"] == 3.0


def test_a_run_without_a_parent_is_the_pipelines(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run in the environment of all steps is the pipeline's: steps are its children, and none of them ends it."""
    client = connection.client()
    shared = client.create_run(client.create_experiment("elsewhere")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", shared)
    made = []
    for name, epochs in (("train_head", 3), ("fine_tune", 5)):
        with runs.step(name, "k", SETTINGS.to_json()) as run:
            run.params({"epochs": epochs})
        made.append(run.run_id)
        assert run.pipeline_id == shared
        assert client.get_run(shared).info.status == "RUNNING"
    assert len({shared, *made}) == 3
    assert [client.get_run(one).data.params for one in (shared, *made)] == [{}, {"epochs": "3"}, {"epochs": "5"}]
    assert {client.get_run(one).data.tags[tag_names.PARENT] for one in made} == {shared}
    client.set_tag(shared, tag_names.VERSION, "1")
    assert finish(SETTINGS.to_json(), "k", "SUCCEEDED").mlflow_run_id == shared
    assert client.get_run(shared).info.status == "FINISHED"


def test_the_plugins_tree_is_climbed_to_its_root(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under Kubeflow's plugin the root of its tree is the pipeline's run: it gets all findings, and is not ended."""
    client, elsewhere = connection.client(), connection.client().create_experiment("KFP-Default")

    def theirs(name: str, parent: str) -> str:
        tags = {"mlflow.runName": name, **({tag_names.PARENT: parent} if parent else {})}
        return str(client.create_run(elsewhere, tags=tags).info.run_id)

    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", elsewhere)
    above = root = theirs("fine-tuning", "")
    for name in ("exit-handler-1", "train-or-judge", "condition-1", "best-trial", "for-loop-1"):
        above = theirs(name, above)
    searched = theirs("search", above)
    monkeypatch.setenv("MLFLOW_RUN_ID", searched)
    with runs.step("search", "k", SETTINGS.to_json()) as run:
        assert (run.run_id, run.pipeline_id) == (searched, root)
    with runs.step("select_trial", "k", SETTINGS.to_json()) as second:  # in the same pod
        assert second.run_id != searched
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs("register", theirs("condition-1", theirs("exit-handler-1", root))))
    with runs.step("register", "k", SETTINGS.to_json()) as run:
        run.tags({tag_names.VERSION: "7", "thawline.decision": "Better."}, pipeline=True)
    result = finish(SETTINGS.to_json(), "k", "COMPLETE")
    assert (result.status, result.version, result.reason) == ("succeeded", "7", "Better.")
    assert result.mlflow_run_id == root
    assert list(result.steps) == ["search", "select_trial", "register"]
    assert client.get_run(root).info.status == "RUNNING"
    assert client.get_run(root).data.metrics["time/seconds"] > 0


def test_the_exit_handler_waits_for_mlflow(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where MLflow does not answer, the exit handler waits as every step does: nobody else would close the run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("THAWLINE_RETRY_MINUTES", "0.002")
    with pytest.raises(NoAnswerError, match="can't be reached"):
        finish(SETTINGS.to_json(), "k", "COMPLETE")
    assert "finish: The MLflow server http://127.0.0.1:9 can't be reached. Trying again" in capfd.readouterr().err


def test_a_pod_needs_a_tracking_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pod without an address the first step ends with what to give, and nothing looks like a success."""
    monkeypatch.setenv("KFP_POD_NAME", "fine-tuning-7v4gg-1")
    with pytest.raises(InputError, match="no MLFLOW_TRACKING_URI") as caught:
        detect_changes("s3://bucket/photos", SETTINGS.to_json(), "k")
    assert "--env MLFLOW_TRACKING_URI" in caught.value.hint
    assert "plugin" in caught.value.hint
    assert not (home / "mlflow.db").exists()
    assert run_folder.read_errors("k")["detect_changes"]["kind"] == "input"


def test_an_attempt_that_was_made_good_is_no_reason(tracked_home: Path) -> None:
    """Why a run failed is the step that failed last, not an earlier step whose second attempt ended well."""
    for name, error in (("prepare_data", InputError("It is empty.", "Fill it.")), ("prepare_data", None)):
        with contextlib.suppress(InputError), runs.step(name, "k", SETTINGS.to_json()):
            if error:
                raise error
    with pytest.raises(InputError), runs.step("evaluate", "k", SETTINGS.to_json()):
        raise InputError("It has no test rows.", "Add some.")
    assert finish(SETTINGS.to_json(), "k", "FAILED").reason == "It has no test rows. Add some."
    shutil.rmtree(run_folder.run_folder("k"))
    assert finish(SETTINGS.to_json(), "k", "FAILED").reason == "It has no test rows. Add some."


def test_many_trials_do_not_hide_the_pipeline(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline's run, the oldest of all, is found and closed behind any number of pages of younger runs."""
    pipeline = runs.pipeline_run("k", SETTINGS)
    for number in range(5):
        runs.create(f"trial {number}", "k", "toy", "trial", pipeline.info.run_id)
    client, real = connection.client(), type(connection.client()).search_runs
    paged = lambda *a, **k: real(*a, **{**k, "max_results": 2})  # noqa: E731 - a wrapper of one call
    monkeypatch.setattr(type(client), "search_runs", paged)
    assert len(queries.find_runs("toy", "k")) == 6
    assert finish(SETTINGS.to_json(), "k", "FAILED").mlflow_run_id == pipeline.info.run_id


def test_models_in_one_experiment_have_lineages_of_their_own(
    tracked_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Kubeflow brings one experiment for all, a model never sees another's runs."""
    shared = connection.experiment("shared")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", shared)
    for model in ("a", "b"):
        runs.pipeline_run("k", Settings(model=model))
    assert len(queries.find_runs("a", "k")) == len(queries.find_runs("b", "k")) == 1


def test_a_deleted_experiment_is_told(tracked_home: Path) -> None:
    """An experiment that was deleted on the tracking page stops the run with a sentence."""
    connection.client().delete_experiment(connection.experiment("toy"))
    with pytest.raises(InputError, match="'toy' was deleted"):
        connection.experiment("toy")
