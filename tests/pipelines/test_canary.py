"""The canary: its steps run for real by kfp's own runner, and what the doctor makes of what they find."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from components.core import run_folder
from components.core.errors import StepError
from components.core.settings import Settings
from components.core.storage import home_folder
from components.core.tracking import canary, queries, runs, tag_names
from components.core.tracking.service import connection
from pipelines.commands.cluster import doctor_cluster
from pipelines.kubeflow import pods, submission
from pipelines.kubeflow.pods import Cluster
from tests.fakes.kubeflow import server
from tests.fakes.kubeflow.server import Kubeflow
from tests.support.command import Answer, call

KEPT = {
    **dict.fromkeys(("key", "secrets", "written", "condition", "skipped", "loop", "collected", "inner"), "ok"),
    "shared": "ok",
    "number.0": "int",
    "number.7": "int",
}
ON_ERROR = {**KEPT, "attempts": "1", "exit": "FAILED", "closed": "failed"}  # a step is not started again after an error
ALWAYS = {**KEPT, "attempts": "2", "last": "ok", "exit": "COMPLETE", "closed": "succeeded"}
WHEN = datetime(2026, 3, 2, tzinfo=UTC)
FAILED_LAST = [("root", "FAILED"), ("exit-handler-1", "FAILED"), ("fail-once", "FAILED"), ("fail-once(0)", "FAILED")]


@pytest.fixture
def play(tracked_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The steps one after another as a cluster starts them, up to the exit handler, which is told a word."""
    monkeypatch.setenv("THAWLINE_RUN_KEY", "k")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", home_folder.tracking_uri())

    def played(word: str, *, again: bool) -> dict[str, str]:
        note, other = tmp_path / "note", tmp_path / "other"
        assert canary.look("k", "", "") == (True, False)
        canary.look_again("k", note)
        counted = [canary.count("k", number, note) for number in (7, 0)]
        canary.receive("k", canary.gather("k", [0, 7], counted, other), other)
        with pytest.raises(StepError, match="on purpose"):
            canary.fail_once("k")
        if again:
            canary.fail_once("k")
        canary.tell("k", word)
        return canary.findings("k")

    return played


def _left(found: dict[str, str]) -> None:
    """Findings in MLflow as the pods leave them."""
    run = runs.pipeline_run("k", Settings.model_validate({"model": canary.MODEL}))
    for name, text in found.items():
        connection.client().set_tag(run.info.run_id, canary.FOUND + name, text)


def _statuses(key: str) -> set[str]:
    return {run.info.status for run in queries.find_runs(canary.MODEL, key, "pipeline")}


@pytest.mark.slow
@pytest.mark.parametrize("retries", [0, 2])
def test_the_canary_runs(retries: int, tracked_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run by kfp, with its last step started again or not, all other findings come in and the run is closed so."""
    from kfp import local

    monkeypatch.setenv("THAWLINE_RUN_KEY", "canary-1")
    monkeypatch.setenv("A_SECRET", "x")

    def retried(_step: str, task: Any) -> None:
        if retries:
            task.set_retry(retries, backoff_duration="0s")

    dag = pods.build("canary", retried)
    runner = local.SubprocessRunner(use_venv=False)
    roots = {"pipeline_root": str(tmp_path), "workspace_root": str(tmp_path / "w")}
    local.init(runner, **roots, raise_on_error=retries > 0)
    dag(run_key="", secrets="A_SECRET,ANOTHER", source="", numbers=doctor_cluster.NUMBERS)
    ended = {**ALWAYS, "exit": "SUCCEEDED"} if retries else ON_ERROR  # kfp's runner has words of its own
    assert canary.findings("canary-1") == {**ended, "secrets": "missing: ANOTHER"}
    assert _statuses("canary-1") == {"FINISHED" if retries else "FAILED"}
    assert not [run for run in queries.find_runs(canary.MODEL, "canary-1") if run.info.status == "RUNNING"]


@pytest.mark.parametrize(("word", "again", "found"), [("FAILED", False, ON_ERROR), ("COMPLETE", True, ALWAYS)])
def test_the_last_step_fails_once(word: str, again: bool, found: dict[str, str], play: Any) -> None:  # noqa: FBT001 - a parameter of the test
    """The last step fails at its first attempt only, and the canary's run is closed as that ended."""
    assert play(word, again=again) == found
    assert _statuses("k") == {"FINISHED" if again else "FAILED"}


@pytest.mark.parametrize(
    ("word", "again", "closed"),
    [
        ("RUNNING", True, "succeeded"),
        ("RUNNING", False, "failed"),
        ("SUCCEEDED", True, "succeeded"),
        ("CANCELED", True, "failed"),
    ],
)
def test_the_word_of_the_end_is_read_by_the_shared_rule(
    word: str,
    again: bool,  # noqa: FBT001 - as above
    closed: str,
    tracked_home: Path,
) -> None:
    """What is no word for a failure leaves it to MLflow whether the last step passed."""
    _left({"attempts": "2", "last": "ok"} if again else {"attempts": "1"})
    canary.tell("k", word)
    found = canary.findings("k")
    assert (found["exit"], found["closed"]) == (word, closed)
    assert _statuses("k") == {"FINISHED" if closed == "succeeded" else "FAILED"}


def test_a_volume_of_one_pod_is_a_finding(tracked_home: Path, tmp_path: Path) -> None:
    """Where the second step does not find the file of the first one, the volume is not shared."""
    canary.look("k", "", "")
    (home_folder.home() / "canary" / "k").unlink()
    canary.look_again("k", tmp_path / "note")
    assert canary.findings("k")["shared"] == "the file of the first step is not there"


def test_a_branch_that_must_not_run_is_a_finding(tracked_home: Path) -> None:
    """A step that ran though its condition is false is found by the last step."""
    canary.stay_out("k")
    with pytest.raises(StepError, match="on purpose"):
        canary.fail_once("k")
    assert canary.findings("k")["skipped"] == "its step ran"


def test_what_a_loop_loses_is_a_finding(tracked_home: Path, tmp_path: Path) -> None:
    """Items of another type, without the file or that never arrived, and results that are missing are named."""
    text: Any = "7"
    (tmp_path / "note").write_text(canary.NOTE)
    canary.count("k", text, tmp_path / "note")
    canary.count("k", 8, tmp_path / "lost")
    canary.gather("k", [0, 7, 8], ["7", "8"], tmp_path / "other")
    found = canary.findings("k")
    assert found["loop"] == "0 arrived not at all, 7 arrived as str, 8 arrived as int without the file"
    assert found["collected"] == "['7', '8'] instead of ['0', '7', '8']"


def test_what_an_inner_pipeline_loses_is_a_finding(tracked_home: Path, tmp_path: Path) -> None:
    """A parameter or a file that does not come out of an inner pipeline is named."""
    canary.receive("k", "", tmp_path / "note")
    assert canary.findings("k")["inner"] == "the parameter is '', the file is not there"


def test_runs_that_a_plugin_brings_are_taken(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Kubeflow's MLflow plugin gives a pod its run, that is the step's and its parent's run the canary's."""
    client, experiment = connection.client(), connection.experiment(canary.MODEL)
    parent = client.create_run(experiment).info.run_id
    child = client.create_run(experiment, tags={tag_names.PARENT: parent}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", child)
    canary.look("k", "", "")
    monkeypatch.delenv("MLFLOW_RUN_ID")
    assert play("FAILED", again=False) == ON_ERROR
    [pipeline] = queries.find_runs(canary.MODEL, "k", "pipeline")
    assert (pipeline.info.run_id, pipeline.info.status) == (parent, "RUNNING")  # the plugin ends its own
    assert client.get_run(child).info.status == "FINISHED"


def test_a_volume_that_can_not_be_written_is_a_finding(
    tracked_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the home refuses to be written to, that is found, and so is all the rest."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", home_folder.tracking_uri())
    (tracked_home / "canary").write_text("not a folder")
    canary.look("k", "A_SECRET", "")
    canary.look_again("k", tmp_path / "note")
    found = canary.findings("k")
    assert found["written"] == f"{tracked_home}/canary: File exists"
    assert (found["secrets"], found["condition"]) == ("missing: A_SECRET", "ok")
    assert found["key"] == "the pods have no label pipeline/runid"


def test_an_s3_that_can_not_be_reached_is_a_finding(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What S3 says is kept as a finding, and does not stop the canary."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    from components.core.storage import s3

    s3.client.cache_clear()
    assert canary.look("k", "", "s3://bucket/prefix") == (True, False)
    s3.client.cache_clear()
    assert "127.0.0.1:9" in canary.findings("k")["s3"]


def _compiled(given: Cluster) -> tuple[dict[str, Any], dict[str, Any]]:
    return server.parse_package(pods.compile_dag(given.model_copy(update=doctor_cluster.CANARY), "canary").yaml)


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    """The compiled canary."""
    return _compiled(Cluster())[0]


def test_the_canarys_pods_are_small_and_like_the_others() -> None:
    """The canary's pods get the secrets and volumes of all steps, and little memory."""
    spec, platform = _compiled(Cluster(secret_env=["mlflow:password"], volume="claim"))
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert {name.removeprefix("exec-").replace("-", "_") for name in executors} == set(doctor_cluster.STEPS)
    for name, facts in executors.items():
        assert facts["secretAsEnv"][0]["secretName"] == "mlflow"
        assert facts["pvcMount"][0]["constant"] == "claim"
        assert spec["deploymentSpec"]["executors"][name]["container"]["resources"]["resourceMemoryLimit"] == "2Gi"


def _constructs(spec: dict[str, Any]) -> set[str]:
    """What a compiled DAG is made of, beside its steps."""
    parts = [spec["root"], *spec["components"].values()]
    tasks = [task for part in parts for task in part.get("dag", {}).get("tasks", {}).values()]
    found = {f"task: {key}" for task in tasks for key in task if key not in ("componentRef", "taskInfo")}
    ways = [way for task in tasks for kind in task.get("inputs", {}).values() for way in kind.values()]
    found |= {f"input: {name}" for way in ways for name in way}
    types = [one for part in parts for one in part.get("inputDefinitions", {}).get("parameters", {}).values()]
    return found | {f"type: {one['parameterType']}" for one in types}


def test_the_canary_has_every_construct_of_the_dag(spec: dict[str, Any]) -> None:
    """Whatever the compiled DAG is made of, loops, conditions, ways of inputs and types, the canary has too."""
    of_dag, _ = server.parse_package(pods.compile_dag(Cluster()).yaml)
    assert _constructs(of_dag) <= _constructs(spec)


def test_no_step_waits_for_the_planned_failure(spec: dict[str, Any]) -> None:
    """The step that fails on purpose comes after all others, and none after it but the exit handler."""
    tasks = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert {name: task.get("dependentTasks", []) for name, task in tasks.items()} == {
        "look": [],
        "branches": ["look"],
        "fail-once": ["branches"],
    }


@pytest.fixture
def looked(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tracked_home: Path,
    kubeflow_server: Kubeflow,
) -> Any:
    """The doctor looking at a cluster whose run `k` ends at once, in a state and with tasks in theirs."""
    monkeypatch.setattr(submission, "POLL", 0.01)
    monkeypatch.setattr(run_folder, "new_run_key", lambda: "k")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", home_folder.tracking_uri())
    make, end = server.read, {"looks": ("SUCCEEDED", [])}

    def read(body: Any, kind: str) -> Any:
        made = make(body, kind)
        if kind == "V2beta1Run":
            identity = server.new_id()
            monkeypatch.setattr(server, "new_id", lambda: identity)
            kubeflow_server.scripts[identity] = server.script(made, end["looks"])
        return made

    monkeypatch.setattr(server, "read", read)

    def look(state: str, tasks: list[tuple[str, str]], *arguments: str) -> Answer:
        end["looks"] = state, [server.task(name, of_task, WHEN, WHEN) for name, of_task in tasks]
        return call(capsys, monkeypatch, "doctor", "--cluster", *arguments)

    return look


def _lines(answer: Answer, mark: str) -> list[str]:
    return [line.removeprefix(f"{mark} ") for line in answer.out.splitlines() if line.startswith(mark)]


def test_a_stock_cluster_passes(play: Any, looked: Any, kubeflow_server: Kubeflow) -> None:
    """Under Argo's OnError the failure of the last step is planned, and every promise that was asked for is kept."""
    _left({"s3": "ok"})
    play("FAILED", again=False)
    answer = looked("FAILED", FAILED_LAST, "--secret-env", "m:key=A_KEY", "--volume", "v", "--source", "s3://b/p")
    assert answer.status == 0, answer.err
    good = _lines(answer, "✓")
    assert len(good) == len(doctor_cluster.PROMISES) + 3
    assert "Canary run: failed, as planned, by its last step" in good
    assert "A step after an error: not started again" in good
    assert "Exit handler: received FAILED and read it as failed" in good
    [run] = kubeflow_server.runs.values()
    given = run.runtime_config.parameters
    assert (given["secrets"], given["source"], given["numbers"]) == ("A_KEY", "s3://b/p", [0, 7])


def test_a_cluster_that_retries_errors_is_warned_of(play: Any, looked: Any) -> None:
    """Under Argo's Always the run succeeds, and the doctor advises against it without a failure of its own."""
    play("COMPLETE", again=True)
    answer = looked("SUCCEEDED", [("fail-once", "SUCCEEDED")])
    assert answer.status == 0, answer.err
    good = _lines(answer, "✓")
    assert "Canary run: succeeded" in good
    assert "Exit handler: received COMPLETE and read it as succeeded" in good
    assert _lines(answer, "-") == ["A step after an error: started again"]
    assert "Leave Argo's retryPolicy at OnError" in answer.out
    assert _lines(answer, "✗") == []


def test_what_was_not_asked_for_is_not_needed(looked: Any) -> None:
    """Without secrets, volume and source these promises are reported as not requested."""
    _left(ON_ERROR)
    checks = {check["name"]: check for check in json.loads(looked("FAILED", FAILED_LAST, "--json").out)}
    unasked = {name for name, check in checks.items() if check["found"] == "not requested"}
    assert unasked == {"Secrets in the pods", "Volume is shared", "S3 from the pods"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"secrets": "missing: A_KEY"}, "Secrets in the pods: missing: A_KEY"),
        ({"skipped": "its step ran"}, "Branch that must not run: its step ran"),
        ({"loop": "0 arrived as str"}, "Integers and files in a loop: 0 arrived as str"),
        ({"collected": "[] instead of [0, 7]"}, "Results of a loop: [] instead of [0, 7]"),
        ({"inner": "the file is not there"}, "Outputs of an inner pipeline: the file is not there"),
        ({"exit": "ENDED", "closed": "succeeded"}, "Exit handler: received ENDED and read it as succeeded"),
    ],
)
def test_a_broken_promise_fails(change: dict[str, str], line: str, looked: Any) -> None:
    """A promise that was not kept is a line with what was found and a hint, and status 1."""
    _left({**ON_ERROR, **change})
    answer = looked("FAILED", FAILED_LAST, "--secret-env", "m:key=A_KEY")
    assert answer.status == 1
    assert _lines(answer, "✗") == [line]


def test_what_was_not_reached_is_not_blamed(looked: Any) -> None:
    """Where a step failed that was not to fail, it is named, and promises behind it say so instead of a cause."""
    _left({name: ON_ERROR[name] for name in ("key", "secrets", "written", "condition", "shared", "exit", "closed")})
    tasks = [("count-driver", "FAILED"), ("count-driver(0)", "FAILED"), ("look", "SUCCEEDED"), ("root", "FAILED")]
    answer = looked("FAILED", tasks, "--volume", "v")
    assert answer.status == 1
    assert _lines(answer, "✗") == [
        "Canary run: failed in count-driver",
        "Branch that must not run: not reached",
        "Integers and files in a loop: not reached",
        "Results of a loop: not reached",
        "Outputs of an inner pipeline: not reached",
    ]
    assert _lines(answer, "-") == ["A step after an error: not reached"]
    assert "Volume is shared: ok" in _lines(answer, "✓")


def test_an_exit_handler_that_did_not_run_is_named(looked: Any) -> None:
    """Without a word from the exit handler its line says what to look at."""
    _left({**KEPT, "attempts": "1"})
    answer = looked("FAILED", FAILED_LAST)
    assert answer.status == 1
    assert _lines(answer, "✗") == ["Exit handler: nothing"]
    assert "the exit handler did not run" in answer.out


def test_pods_without_an_address_of_mlflow_are_told_how_to_get_one(looked: Any) -> None:
    """Where the pods are given no MLflow, the step that failed is named and the option that brings it."""
    answer = looked("FAILED", [("look", "FAILED")])
    assert answer.status == 1
    assert _lines(answer, "✗") == [
        "Canary run: failed in look",
        "MLflow from the pods: nothing was found there, and the pods have no address",
    ]
    assert "--env MLFLOW_TRACKING_URI=" in answer.out


def test_pods_with_another_mlflow_are_doubted(looked: Any) -> None:
    """Where the pods are given an MLflow and nothing is found here, the two are to be compared."""
    answer = looked("FAILED", FAILED_LAST, "--env", "MLFLOW_TRACKING_URI=http://mlflow:5000")
    assert _lines(answer, "✗") == ["MLflow from the pods: nothing was found there"]
    assert "use the same server as this command" in answer.out


@pytest.mark.parametrize(
    ("address", "why"),
    [("", "MLFLOW_TRACKING_URI is not set here"), ("http://127.0.0.1:9", "The MLflow server http://127.0.0.1:9 can't")],
)
def test_findings_that_can_not_be_read_are_no_fault_of_the_run(
    address: str, why: str, looked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an MLflow that answers here the planned failure is still known, and the reason is named."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    answer = looked("FAILED", FAILED_LAST)
    assert answer.status == 1
    assert "Canary run: failed, as planned, by its last step" in _lines(answer, "✓")
    [line] = _lines(answer, "✗")
    assert line.startswith(f"MLflow from the pods: {why}")
    assert "Use --tracking-uri" in answer.out


@pytest.mark.parametrize(
    ("version", "mark", "line"),
    [
        ("2.17.0", "✓", "Kubeflow Pipelines: 2.17.0"),
        ("2.18.0-rc.1", "✓", "Kubeflow Pipelines: 2.18.0-rc.1"),
        ("2.16.1", "✗", "Kubeflow Pipelines: 2.16.1"),
        ("unknown", "✓", "Kubeflow Pipelines: its release is unknown"),
        ("", "✓", "Kubeflow Pipelines: its release is unknown"),
    ],
)
def test_the_servers_release_is_compared(
    version: str, mark: str, line: str, looked: Any, kubeflow_server: Kubeflow
) -> None:
    """A release older than the oldest that works fails, one that is not known does not."""
    kubeflow_server.version = version
    _left(ON_ERROR)
    answer = looked("FAILED", FAILED_LAST)
    assert line in _lines(answer, mark)
    assert answer.status == (mark == "✗")
    assert ("Update it to 2.17.0" in answer.out) == (mark == "✗")
