"""Kubeflow's API as Thawline calls it: what a server that is away, old or no Kubeflow at all looks like."""

import socket
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import InputError, StepError
from pipelines.kubeflow import client as kubeflow
from tests.fakes.kubeflow.rules import Refused, check_cron, check_name
from tests.fakes.kubeflow.server import Kubeflow, model_of, recorded
from tests.support.command import call


def closed_port() -> str:
    """An address of this machine at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_refused_connection_is_no_slow_answer(home: Any) -> None:
    """Where nothing listens, the first call says that the server can't be reached, not that it took its time."""
    host = closed_port()
    with pytest.raises(StepError, match=f"Kubeflow at {host} can't be reached. Check --host"):
        kubeflow.connect(host, "")


def test_a_server_that_goes_away_can_not_be_reached(kubeflow_server: Kubeflow) -> None:
    """A later call to a server that is gone says the same."""
    client = kubeflow.connect(kubeflow_server.host, "")
    host = closed_port()
    for api in (client._run_api, client._experiment_api):
        api.api_client.configuration.host = host
    with pytest.raises(StepError, match="can't be reached"):
        kubeflow.call(client, "get_run", run_id="any")


def test_an_address_that_does_not_answer_at_all_is_named_with_its_seconds(
    kubeflow_server: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes the connection and says nothing did not answer within the time that it has for that."""
    client = kubeflow.connect(kubeflow_server.host, "")
    monkeypatch.setattr(kubeflow, "TIMEOUT", (1, 0.2))
    kubeflow_server.slow = 1.0
    with pytest.raises(StepError, match=r"did not answer within 0\.2 s"):
        kubeflow.call(client, "get_run", run_id="any")


@pytest.mark.parametrize(
    ("version", "old"),
    [
        *((version, False) for version in ("2.17.0", "2.17.0-rc.1", "2.18.3", "10.0.0")),
        *((version, False) for version in ("", "unknown", "master", "3f2a9c1d")),
        *((version, True) for version in ("2.16.4", "v2.4.1")),
    ],
)
def test_an_old_server_is_named(version: str, old: bool, kubeflow_server: Kubeflow) -> None:  # noqa: FBT001 - by name
    """A server of a release before the oldest that works is told by its tag, and no other one is."""
    kubeflow_server.version = version
    client = kubeflow.connect(kubeflow_server.host, "")
    assert kubeflow.server_version(client) == version
    text = kubeflow.too_old(client)
    assert bool(text) == old
    if old:
        assert text.endswith(f"is version {version}; Thawline is known to work with 2.17.0 and newer.")


@pytest.mark.parametrize("command", [("submit",), ("schedule", "create", "weekly")], ids=lambda words: words[0])
def test_an_old_server_is_said_and_used(
    command: tuple[str, ...],
    kubeflow_server: Kubeflow,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`submit` and `schedule create` say in a line that the server is old, and go on."""
    kubeflow_server.version = "2.15.0"
    times = ("--cron", "0 2 * * 1") if command[0] == "schedule" else ()
    answer = call(capsys, monkeypatch, *command, "s3://bucket/stamps", *times)
    assert answer.status == 0, answer.err
    assert [line for line in answer.err.splitlines() if "2.15.0" in line] == [
        f"Kubeflow at {kubeflow_server.host} is version 2.15.0; Thawline is known to work with 2.17.0 and newer."
    ]


@pytest.mark.parametrize(
    ("name", "word"),
    [("succeeded", "SUCCEEDED"), ("step-failed", "FAILED"), ("terminated", "TERMINATED"), ("no-node", "RUNNING")],
)
def test_a_terminated_run_has_a_word_of_its_own(name: str, word: str) -> None:
    """A run that was being canceled when it failed was terminated."""
    assert kubeflow.word_of(model_of(recorded(name), "V2beta1Run")) == word


@pytest.mark.parametrize("text", ["weekly r1", "ö r1", "日本", "a/b c", "A"])
def test_the_server_takes_names_that_leave_a_name(text: str) -> None:
    """The server of these tests takes the names that the real one was seen to take."""
    check_name(text)


@pytest.mark.parametrize("text", ["---", "-", "-ö"])
def test_the_server_refuses_a_name_without_a_letter(text: str) -> None:
    """It refuses those that leave no name for Kubernetes."""
    with pytest.raises(Refused, match="is invalid"):
        check_name(text)


@pytest.mark.parametrize("text", ["0 0 2 * * MON", "0 0 2 * JAN sun", "0 0 2 * * 1-5/2", "0 0 2 ? * 1,3", "@weekly"])
def test_the_server_takes_cron_that_was_taken(text: str) -> None:
    """It takes the forms of a cron expression that the real one was seen to take, and a day that never comes."""
    check_cron(text)
    check_cron("0 0 2 31 2 *")


@pytest.mark.parametrize("text", ["7", "0-7", "5-1", "L", "1#2"])
def test_the_server_refuses_cron_that_was_refused(text: str) -> None:
    """It refuses what the real one was seen to refuse, weekdays above and time zones."""
    for expression in (f"0 0 2 * * {text}", "CRON_TZ=UTC 0 2 * * 1", "TZ=UTC 0 0 2 * * 1", "0 2 *"):
        with pytest.raises(Refused, match="Schedule cron is not a supported format") as refused:
            check_cron(expression)
        assert refused.value.status == 400


def test_what_can_not_be_stored_fires_all_the_same(kubeflow_server: Kubeflow) -> None:
    """A recurring run with a text that is too long is refused with the real server's words, and left behind."""
    client = kubeflow.connect(kubeflow_server.host, "")
    experiment = kubeflow.experiment(client, "stamps", "")
    [pipeline, version] = _upload(client)
    job = {
        "experiment_id": experiment,
        "pipeline_id": pipeline,
        "version_id": version,
        "cron_expression": "0 0 2 * * 1",
        "params": {"source": "s3://b/x", "settings": "{}", "run_key": ""},
    }
    wanted = (
        r"refused \(500\): .*Failed to store job often r1 to table: Error 1406 \(22001\): Data too long for column "
    )
    with pytest.raises(StepError, match=wanted + "'Description' at row 1"):
        kubeflow.call(client, "create_recurring_run", job_name="often r1", description="x" * 256, **job)
    [orphan] = kubeflow_server.orphans
    kubeflow_server.fire(orphan)
    assert kubeflow.every(client, "list_recurring_runs", "recurring_runs") == []
    assert kubeflow.every(client, "list_runs", "runs") == []
    assert len(kubeflow_server.unlisted) == 1


def test_parameters_are_refused_with_the_servers_words(kubeflow_server: Kubeflow) -> None:
    """A missing parameter and an unknown one are named as the real server names them."""
    client = kubeflow.connect(kubeflow_server.host, "")
    ids = dict(zip(("pipeline_id", "version_id"), _upload(client), strict=True))
    ids["experiment_id"] = kubeflow.experiment(client, "stamps", "")
    given = {"source": "s3://b/x", "settings": "{}"}
    missing = "parameter run_key is not optional, yet has neither default value nor user provided value"
    with pytest.raises(StepError, match=missing):
        kubeflow.call(client, "run_pipeline", job_name="a run", params=given, **ids)
    with pytest.raises(StepError, match=r"parameter\(s\) provided are not required by pipeline: zzz"):
        kubeflow.call(client, "run_pipeline", job_name="a run", params={**given, "run_key": "", "zzz": ""}, **ids)


def _upload(client: Any) -> tuple[str, str]:
    from pipelines.kubeflow import submission
    from pipelines.kubeflow.pods import Cluster

    compiled = submission.compile_dag(Cluster(), "fine_tuning")
    pipeline, version, _ = kubeflow.upload(client, "thawline", "", compiled)
    return pipeline, version


def test_health_says_what_a_real_one_says(kubeflow_server: Kubeflow) -> None:
    """The server of these tests answers the question for its health with the real one's four fields."""
    client = kubeflow.connect(kubeflow_server.host, "")
    asked = client._healthz_api.api_client.call_api
    answer = asked(kubeflow.HEALTH, "GET", response_type="object", _return_http_data_only=True)
    assert set(answer) == {"commit_sha", "tag_name", "multi_user", "pipeline_store"}


def test_without_any_address_nothing_is_tried(home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a cluster, without --host and without a kubeconfig, the answer is how to name a server."""
    for name in ("KF_PIPELINES_ENDPOINT", "KUBERNETES_SERVICE_HOST", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"No Kubeflow is known here\. Use --host"):
        kubeflow.connect("", "")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setattr("kfp.Client.__init__", lambda *_, **__: pytest.fail("it was tried"))
    with pytest.raises(pytest.fail.Exception, match="it was tried"):
        kubeflow.connect("", "")
