"""`thawline submit` against a server that keeps what Kubeflow keeps."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from components.core import run_folder
from components.core.settings import Settings
from pipelines.kubeflow import client as client_side
from pipelines.kubeflow import submission
from tests.fakes.kubeflow import server as kubeflow
from tests.fakes.kubeflow.rules import Refused
from tests.fakes.kubeflow.server import Kubeflow, script, task
from tests.support.command import Answer, call, is_one_sentence

START = datetime(2026, 3, 2, 2, tzinfo=UTC)


def at(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def server(kubeflow_server: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> Kubeflow:
    """A Kubeflow that the command finds by its environment; nothing is waited for."""
    monkeypatch.setattr(submission, "POLL", 0.01)
    return kubeflow_server


@pytest.fixture
def submitted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: Kubeflow) -> Any:
    def run(*arguments: str) -> Answer:
        return call(capsys, monkeypatch, "submit", "s3://bucket/stamps", *arguments)

    return run


def test_a_run_is_submitted(submitted: Any, server: Kubeflow) -> None:
    """The DAG is uploaded as a version that bears its digest, and run with the source and the settings."""
    answer = submitted(
        "--trials", "8", "--model", "stamps", "--env", "MLFLOW_TRACKING_URI=http://mlflow:5000", "--json"
    )
    assert answer.status == 0, answer.err
    said = json.loads(answer.out)
    [run], [version] = server.runs.values(), server.versions.values()
    assert (said["status"], said["kubeflow_run_id"], said["run_key"]) == (
        "submitted",
        run.run_id,
        run.run_id,
    )
    assert said["kubeflow"] == f"{server.host}/#/runs/details/{run.run_id}"
    assert run.runtime_config.parameters["source"] == "s3://bucket/stamps"
    assert Settings.from_json(run.runtime_config.parameters["settings"]) == Settings(
        model="stamps", trials=8, search_workers=2
    )
    assert run.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id
    assert version.description.removeprefix("sha256 ").startswith(version.display_name.removeprefix("thawline-"))
    assert [e.display_name for e in server.experiments.values()] == ["stamps"]


def test_a_clone_is_a_run_of_its_own(submitted: Any, server: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """No parameter names the run, so a clone made of them on Kubeflow's page has a key of its own, its pods'."""
    assert submitted().status == 0
    [run] = server.runs.values()
    client = client_side.connect(server.host, "")
    reference = run.pipeline_version_reference
    clone = client.run_pipeline(
        experiment_id=run.experiment_id,
        job_name=f"Clone of {run.display_name}",
        params=run.runtime_config.parameters,
        pipeline_id=reference.pipeline_id,
        version_id=reference.pipeline_version_id,
    )
    keys = []
    for identity in (run.run_id, clone.run_id):
        monkeypatch.setenv("THAWLINE_RUN_KEY", identity)  # the pod's label
        keys.append(run_folder.own_key(server.runs[identity].runtime_config.parameters["run_key"]))
    assert keys == [run.run_id, clone.run_id]
    assert len(set(keys)) == 2


def test_a_version_is_uploaded_once(submitted: Any, server: Kubeflow) -> None:
    """The same DAG is run again without an upload; other options of the pods are another version of one pipeline."""
    said = [json.loads(submitted("--json", *more).out) for more in ((), ("--trials", "3"), ("--retries", "0"))]
    assert said[0]["version_id"] == said[1]["version_id"] != said[2]["version_id"]
    assert len(server.versions) == 2
    assert len(server.pipelines) == 1
    assert len(server.runs) == 3


def test_the_config_file_holds_settings_and_pods(submitted: Any, server: Kubeflow, tmp_path: Path) -> None:
    """One YAML file gives the settings and the options of the pods; a name that is neither is named."""
    file = tmp_path / "weekly.yaml"
    file.write_text(
        "trials: 5\nmemory:\n  fine_tune: 32Gi\nsecret-env: ['mlflow:password']\nservice-account: trainer\n"
    )
    assert submitted("--config", str(file)).status == 0
    [run], [package] = server.runs.values(), server.packages.values()
    assert Settings.from_json(run.runtime_config.parameters["settings"]).trials == 5
    assert run.service_account == "trainer"
    assert "32Gi" in package
    file.write_text("trails: 5\n")
    answer = submitted("--config", str(file))
    assert (answer.status, "'trails'" in answer.err) == (2, True)


def test_waiting_shows_the_steps(submitted: Any, server: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --wait each step's begin and end is a line, drivers and loops are not, and the status is the run's."""
    half = [task("root-driver", "SUCCEEDED", at(0), at(1)), task("detect-changes", "RUNNING", at(1))]
    search = [task("search", "SUCCEEDED", at(9), at(20)), task("search", "RUNNING", at(9))]
    more = [task("detect-changes", "SUCCEEDED", at(1), at(4)), task("workers", "RUNNING", at(8)), *search]
    ended = [
        *more[:1],
        *(task("search", "SUCCEEDED", at(9), at(n)) for n in (20, 40)),
        task("evaluate-2", "SUCCEEDED", at(41), at(50)),
    ]
    looks = (("RUNNING", half), ("RUNNING", more), ("SUCCEEDED", ended))
    _let_it_be(server, looks)
    answer = submitted("--wait", "--json")
    assert answer.status == 0, answer.err
    assert json.loads(answer.out)["status"] == "succeeded"
    lines = [" ".join(line.split()) for line in answer.err.splitlines()[3:]]
    assert lines == [
        "detect_changes started",
        "detect_changes finished in 3.0 s",
        "search started",
        "search finished in 31.0 s",
        "evaluate started",
        "evaluate finished in 9.0 s",
    ]


def test_a_failed_run_fails_the_command(submitted: Any, server: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --wait a run that failed ends the command with status 1, a sentence and the address of its page."""
    failed = [task("detect-changes", "SUCCEEDED", at(1), at(4)), task("prepare-data", "FAILED", at(4), at(9))]
    _let_it_be(server, (("FAILED", failed),))
    answer = submitted("--wait")
    assert answer.status == 1
    assert "prepare_data  failed in 5.0 s" in answer.err
    [run] = server.runs
    assert answer.err.splitlines()[-1].startswith("Error: ")
    assert f"{server.host}/#/runs/details/{run}" in answer.err.splitlines()[-1]


def test_the_result_is_read_from_mlflow(
    submitted: Any, server: Kubeflow, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where MLflow is known here, the result is the run's own, whatever run this shell's environment is of."""
    monkeypatch.setenv("MLFLOW_RUN_ID", "of some step")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{whole.home / 'mlflow.db'}")
    [key] = [path.parent.name for path in (whole.home / "runs").glob("*/result.json")]
    monkeypatch.setattr(kubeflow, "new_id", lambda: key)  # the run's, which is its key
    _let_it_be(server, (("SUCCEEDED", []),))
    answer = submitted("--wait", "--model", "toy", "--json")
    said = json.loads(answer.out)
    assert {name: said[name] for name in ("version", "promoted", "metrics", "mlflow_run_id")} == {
        name: whole.result[name] for name in ("version", "promoted", "metrics", "mlflow_run_id")
    }


def test_a_server_that_can_not_be_asked_is_said_before_the_run(
    submitted: Any, server: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --wait an MLflow server that is silent, or whose address holds a password, stops the command at once."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # the command sets it: put back after the test
    for address, wanted in (
        ("http://127.0.0.1:9", "can't be reached"),
        ("http://me:private@mlflow", "maybe a password"),
    ):
        answer = submitted("--wait", "--tracking-uri", address)
        assert (answer.status, wanted in answer.err, "private" in answer.err) == (2, True, False)
    assert server.runs == {}


def test_a_result_that_can_not_be_read_any_more_is_kubeflows(
    submitted: Any, server: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where MLflow has fallen silent during the run, the command still ends as the run did, and says so."""
    monkeypatch.setattr("components.core.tracking.service.connection.check_server", lambda: None)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    _let_it_be(server, (("SUCCEEDED", []),))
    answer = submitted("--wait", "--json")
    said = json.loads(answer.out)
    assert (answer.status, said["status"]) == (0, "succeeded")
    assert "ended as succeeded" in said["reason"]
    assert "127.0.0.1:9 can't be reached" in said["reason"]


def test_bad_usage_is_json_too(submitted: Any, server: Kubeflow) -> None:
    """With --json an option that does not exist is a result that failed."""
    answer = submitted("--json", "--no-such-option")
    assert (answer.status, json.loads(answer.out)["status"]) == (2, "failed")


def test_a_moment_without_an_answer_is_waited_out(
    submitted: Any, server: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting goes on over a few answers that say 500."""
    _let_it_be(server, (("SUCCEEDED", []),))
    left = iter([True] * 3)
    server.trouble = lambda method, path: (
        (500, "upstream") if method == "GET" and path.startswith("/runs/") and next(left, False) else None
    )
    assert submitted("--wait").status == 0


@pytest.mark.parametrize(
    ("status", "message", "exit_status", "wanted"),
    [
        (401, "Request not authenticated", 2, "KFP_EXISTING_TOKEN"),
        (403, "User can't create runs", 2, "--namespace"),
        (404, "Experiment not found", 1, "--host"),
        (409, "Already exist", 1, "try again"),
        (500, "Internal Server Error", 1, "ml-pipeline"),
    ],
)
def test_a_refusal_is_one_sentence(
    status: int, message: str, exit_status: int, wanted: str, submitted: Any, server: Kubeflow
) -> None:
    """What Kubeflow refuses is one line with what it says and what mends it."""
    server.trouble = lambda method, path: (status, message) if (method, path) == ("POST", "/runs") else None
    answer = submitted("--env", "MLFLOW_TRACKING_URI=http://mlflow:5000")
    assert answer.status == exit_status
    *_, last = answer.err.splitlines()
    assert f"refused ({status}): {message}." in last
    assert wanted in last
    assert "Traceback" not in answer.err


def test_a_token_is_taken_from_the_environment(
    submitted: Any, server: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing token is said at once, without five tries; with it in the environment the run starts."""
    server.token = "a valid one"  # noqa: S105 - a test's
    answer = submitted()
    assert (answer.status, server.calls) == (2, ["GET /healthz"])
    assert is_one_sentence(answer)
    monkeypatch.setenv("KFP_EXISTING_TOKEN", "a valid one")
    assert submitted().status == 0


def test_a_server_that_is_not_there_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """Nothing at the address, or no address at all, is one sentence."""
    for host, wanted in (("http://127.0.0.1:9", 1), ("kubeflow", 2)):
        answer = call(capsys, monkeypatch, "submit", "s3://bucket/stamps", "--host", host)
        assert answer.status == wanted
        assert is_one_sentence(answer)
        assert host in answer.err


def test_a_slow_server_is_said(submitted: Any, server: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer in time is one sentence."""
    monkeypatch.setattr(client_side, "TIMEOUT", (1, 0.2))
    server.slow = 1.0
    answer = submitted()
    assert answer.status == 1
    assert is_one_sentence(answer)
    assert "did not answer" in answer.err


def test_a_local_folder_is_refused_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: Kubeflow
) -> None:
    """A folder of this machine is refused without a word to the server, in JSON too."""
    answer = call(capsys, monkeypatch, "submit", "photos", "--json")
    assert answer.status == 2
    assert "photos" in json.loads(answer.out)["reason"]
    assert server.calls == []


def test_a_terminated_run_is_no_failed_one(submitted: Any, server: Kubeflow) -> None:
    """With --wait a run that somebody ended on Kubeflow's page has a status of its own, and the command's is 1."""
    server.next_script = lambda _run: kubeflow.replay(kubeflow.recorded("terminated"))
    answer = submitted("--wait", "--json")
    said = json.loads(answer.out)
    assert (answer.status, said["status"]) == (1, "terminated")
    assert said["reason"] == "The run was terminated on Kubeflow."
    assert answer.err.splitlines()[-1] == f"Error: The run was terminated on Kubeflow. See {said['kubeflow']} ."


def test_the_plugins_page_is_shown(submitted: Any, server: Kubeflow) -> None:
    """Where Kubeflow's plugin for MLflow made the run there, its page is shown though MLflow is not known here."""
    server.next_script = lambda _run: kubeflow.replay(kubeflow.recorded("plugin"))
    answer = submitted("--wait")
    page = "http://mlflow.example:5000/#/experiments/5/runs/4c4a6a3bb8d7488182de7e25b3a5440d"
    assert answer.status == 0
    assert answer.err.splitlines()[-3:] == [
        "Status      succeeded",
        "Why         Kubeflow says that the run ended as succeeded.",
        f"Tracking    {page}",
    ]


def test_waiting_ends_after_the_minutes_that_were_given(submitted: Any, server: Kubeflow) -> None:
    """The run goes on, which --json says too, with its ids."""
    _let_it_be(server, (("RUNNING", []),))
    answer = submitted("--wait", "--wait-minutes", "0.002", "--json")
    said, [run] = json.loads(answer.out), server.runs
    assert (answer.status, said["status"], said["run_key"]) == (1, "running", run)
    assert said["reason"] == f"The run has not ended within 0.002 minutes. The run continues: {said['kubeflow']}"
    assert server.runs[run].state == "RUNNING"


@pytest.mark.parametrize("arguments", [("--wait-minutes", "5"), ("--wait", "--wait-minutes", "-1")])
def test_minutes_that_mean_nothing_are_refused(arguments: tuple[str, ...], submitted: Any, server: Kubeflow) -> None:
    """A time to wait without --wait, or below zero, is bad usage."""
    assert submitted(*arguments).status == 2
    assert server.calls == []


def test_a_server_that_is_gone_for_good_ends_the_waiting(
    submitted: Any, server: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many looks without an answer the command says why, and that the run goes on."""
    monkeypatch.setattr(submission, "PATIENCE", 3)
    _let_it_be(server, (("RUNNING", []),))
    server.trouble = lambda method, path: (500, "upstream") if method == "GET" and path.startswith("/runs/") else None
    answer = submitted("--wait")
    link = f"{server.host}/#/runs/details/{next(iter(server.runs))}"
    assert answer.status == 1
    assert answer.err.splitlines()[-1].endswith(f"and try again. The run continues: {link}")


@pytest.mark.parametrize("arguments", [("--experiment", "x" * 129), ("--model", "ö" * 65)])
def test_a_name_that_is_too_long_is_said_first(arguments: tuple[str, ...], submitted: Any, server: Kubeflow) -> None:
    """A name that Kubeflow does not keep is one sentence, without a word to the server."""
    answer = submitted(*arguments)
    assert (answer.status, server.calls) == (2, [])
    assert is_one_sentence(answer)
    assert "more than Kubeflow keeps. Use a shorter --experiment." in answer.err


def test_an_unknown_field_is_refused() -> None:
    """The server of these tests refuses what the real one does not know."""
    with pytest.raises(Refused, match="runtime_confg"):
        kubeflow.read({"display_name": "x", "runtime_confg": {}}, "V2beta1Run")
    with pytest.raises(Refused, match="crom"):
        kubeflow.read({"trigger": {"cron_schedule": {"crom": "* * * * * *"}}}, "V2beta1RecurringRun")


def _let_it_be(server: Kubeflow, looks: Any) -> None:
    """Let looks at the run that is submitted next see these states."""
    server.next_script = lambda run: script(run, *looks)
