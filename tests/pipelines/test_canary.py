"""The canary: its steps run for real by kfp's own runner, and what the doctor makes of what they find."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from components.core import canary, runs, tracking
from components.core.errors import StepError
from pipelines import cluster, doctor, submit
from pipelines.cluster import Cluster
from tests import kubeflow
from tests.kubeflow import Kubeflow
from tests.pipelines.command import Answer, call

FOUND = {
    "key": "ok",
    "secrets": "ok",
    "written": "ok",
    "condition": "ok",
    "attempts": "2",
    "shared": "ok",
    "exit": "SUCCEEDED",
}


@pytest.mark.slow
def test_the_canary_runs(tracked_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run by kfp: the secret is seen, the file of the first step found in the second, which was started again."""
    from kfp import local

    monkeypatch.setenv("THAWLINE_RUN_KEY", "canary-1")
    monkeypatch.setenv("A_SECRET", "x")
    dag = cluster.build("canary", lambda _step, task: task.set_retry(2, backoff_duration="0s") and None)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path), workspace_root=str(tmp_path / "w"))
    dag(run_key="", secrets="A_SECRET,ANOTHER", source="", fail_once=True)
    found = canary.findings("canary-1")
    assert found == {**FOUND, "secrets": "missing: ANOTHER"}
    assert {run.info.status for run in tracking.find_runs(canary.MODEL, "canary-1")} == {"FINISHED", "FAILED"}


def test_the_second_step_fails_once(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second step fails on its first attempt only, and says on the next whether the volume is shared."""
    monkeypatch.setenv("THAWLINE_RUN_KEY", "k")
    canary.look("k", "", "")
    with pytest.raises(StepError, match="on purpose"):
        canary.look_again("k", fail_once=True)
    (runs.home() / "canary" / "k").unlink()
    canary.look_again("k", fail_once=True)
    canary.tell("k", "SUCCEEDED")
    assert canary.findings("k") == {**FOUND, "shared": "the file of the first step is not there"}


def test_a_volume_that_can_not_be_written_is_a_finding(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the home refuses to be written to, that is found, and so is all the rest."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", runs.tracking_uri())
    (tracked_home / "canary").write_text("not a folder")
    canary.look("k", "A_SECRET", "")
    with pytest.raises(StepError, match="on purpose"):
        canary.look_again("k", fail_once=True)
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
    from components.core import storage

    storage.client.cache_clear()
    assert canary.look("k", "", "s3://bucket/prefix") is True
    storage.client.cache_clear()
    assert "127.0.0.1:9" in canary.findings("k")["s3"]


def test_the_canarys_pods_are_small_and_like_the_others() -> None:
    """The canary's pods get the secrets and volumes of all steps, and little memory."""
    given = Cluster(secret_env=["mlflow:password"], volume="claim").model_copy(update=doctor.CANARY)
    spec, platform = kubeflow.parse_package(cluster.compile_dag(given, "canary").yaml)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert {name.removeprefix("exec-") for name in executors} == {"look", "look-again", "tell"}
    for name, facts in executors.items():
        assert facts["secretAsEnv"][0]["secretName"] == "mlflow"
        assert facts["pvcMount"][0]["constant"] == "claim"
        assert spec["deploymentSpec"]["executors"][name]["container"]["resources"]["resourceMemoryLimit"] == "2Gi"


@pytest.fixture
def looked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kubeflow_server: Kubeflow) -> Any:
    """The doctor looking at a cluster whose run ends at once, with these findings in MLflow."""
    monkeypatch.setattr(submit, "POLL", 0.01)
    make = kubeflow.read

    def read(body: Any, kind: str) -> Any:
        made = make(body, kind)
        if kind == "V2beta1Run":
            identity = kubeflow.new_id()
            monkeypatch.setattr(kubeflow, "new_id", lambda: identity)
            kubeflow_server.scripts[identity] = kubeflow.script(made, ("SUCCEEDED", []))
        return made

    monkeypatch.setattr(kubeflow, "read", read)

    def look(found: dict[str, str] | None, *arguments: str) -> Answer:
        monkeypatch.setattr(doctor, "_findings", lambda _run_key: found)
        return call(capsys, monkeypatch, "doctor", "--cluster", *arguments)

    return look


def test_a_cluster_that_keeps_its_promises_passes(looked: Any, kubeflow_server: Kubeflow) -> None:
    """Every promise that was asked for is checked, a line each; the canary gets what it has to look for."""
    answer = looked({**FOUND, "s3": "ok"}, "--secret-env", "m:key=A_KEY", "--volume", "v", "--source", "s3://b/p")
    assert answer.status == 0, answer.err
    assert len(re.findall(r"^✓", answer.out, re.MULTILINE)) == len(doctor.PROMISES) + 2
    [run] = kubeflow_server.runs.values()
    given = run.runtime_config.parameters
    assert (given["secrets"], given["source"], given["fail_once"]) == ("A_KEY", "s3://b/p", True)


def test_what_was_not_asked_for_is_not_needed(looked: Any) -> None:
    """Without secrets, volume and source these promises are told as not asked for."""
    checks = {check["name"]: check for check in json.loads(looked(FOUND, "--json").out)}
    unasked = {name for name, check in checks.items() if check["found"] == "not asked for"}
    assert unasked == {"Secrets in the pods", "Volume is shared", "S3 from the pods"}


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ({**FOUND, "secrets": "missing: A_KEY"}, "Secrets in the pods: missing: A_KEY"),
        ({**FOUND, "attempts": "1"}, "A failed step is retried"),
        ({"secrets": "ok", "written": "ok"}, "Condition on a bool: nothing"),
        (None, "MLflow from the pods"),
    ],
)
def test_a_broken_promise_fails(found: dict[str, str] | None, named: str, looked: Any) -> None:
    """A promise that was not kept is a line with what was found and what mends it, and status 1."""
    answer = looked(found, "--secret-env", "m:key=A_KEY")
    assert answer.status == 1
    assert f"✗ {named}" in answer.out
