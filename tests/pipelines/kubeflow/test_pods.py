"""The DAG as it is compiled for a cluster: resources, secrets, volumes, and the run's key."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes_pb2

from components.core import run_folder
from components.core.errors import InputError, StepError
from components.core.settings import Settings
from pipelines.commands.options import merge_cluster
from pipelines.kubeflow import pods
from pipelines.kubeflow.pods import Cluster
from pipelines.terminal.config_file import read_config
from tests.fakes.kubeflow import server
from tests.support.command import ROOT, call

GOLDEN = ROOT / "tests/golden"
EVERYTHING = read_config(GOLDEN / "cluster_options.yaml")
PODS = pods.SEARCHING_IN_PODS  # as its search-workers has it


def compiled(dag: str = pods.FINE_TUNING, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Executors of the DAG and their Kubernetes configuration, by step; both must be Kubeflow's own messages."""
    spec, platform = server.parse_package(pods.compile_dag(merge_cluster(options, {}), dag).yaml)
    executors = spec["deploymentSpec"]["executors"]
    configured = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for facts in configured.values():
        json_format.ParseDict(facts, kubernetes_pb2.KubernetesExecutorConfig())
    assert executors.keys() == configured.keys()
    return (
        {name.removeprefix("exec-"): facts["container"] for name, facts in executors.items()},
        {name.removeprefix("exec-"): facts for name, facts in configured.items()},
    )


@pytest.fixture(scope="module")
def full() -> tuple[dict[str, Any], dict[str, Any]]:
    return compiled(PODS, **EVERYTHING)


def test_the_compiled_dag_is_the_golden_one() -> None:
    """With every option of the pods, the DAG changes only together with its golden copy."""
    found = pods.compile_dag(merge_cluster(EVERYTHING, {}), PODS).yaml
    wanted = (GOLDEN / "cluster.yaml").read_text()
    assert server.parse_package(found) == server.parse_package(wanted), "run `make golden`, look at the diff"
    assert found == wanted


def test_compile_takes_the_options_of_the_pods(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """`thawline compile` with options of the pods writes what `submit` uploads."""
    file = tmp_path / "dag.yaml"
    answer = call(capsys, monkeypatch, "compile", "--config", str(GOLDEN / "cluster_options.yaml"), "-o", str(file))
    assert answer.status == 0, answer.err
    assert file.read_text() == (GOLDEN / "cluster.yaml").read_text()


def test_the_golden_copy_has_every_option() -> None:
    """No option of the pods is left out of the golden copy."""
    assert Cluster.model_fields.keys() - EVERYTHING.keys() == {
        "accelerator",
        "service_account",
    }  # a default; of the run


def test_the_same_options_give_the_same_version(full: Any) -> None:
    """The digest, by which a version is found again, depends on the options and on nothing else."""
    first, again = (pods.compile_dag(merge_cluster(EVERYTHING, {})) for _ in range(2))
    assert first.digest == again.digest
    assert first.digest != pods.compile_dag(merge_cluster({**EVERYTHING, "retries": 1}, {})).digest


def test_every_step_gets_its_resources(full: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """CPU and memory hold for all steps but those that are named; only some steps get accelerators."""
    executors, _ = full
    resources = {name: facts["resources"] for name, facts in executors.items()}
    assert resources["fine-tune"]["resourceMemoryLimit"] == resources["fine-tune"]["resourceMemoryRequest"] == "16Gi"
    assert resources["train-head"]["resourceMemoryLimit"] == "8Gi"
    assert resources["register"]["resourceMemoryLimit"] == "4Gi"
    assert (resources["search-worker"]["resourceCpuRequest"], resources["finish"]["resourceCpuRequest"]) == (
        "4",
        "500m",
    )
    assert "resourceCpuLimit" not in resources["search-worker"]
    accelerated = {name for name, facts in resources.items() if "accelerator" in facts}
    assert accelerated == {"search-worker", "train-head", "fine-tune", "evaluate"}
    assert resources["search-worker"]["accelerator"]["resourceCount"] == "2"
    assert {facts["image"] for facts in executors.values()} == {EVERYTHING["image"]}


def test_accelerators_are_given_by_step() -> None:
    """A step has as many as its name says, which may be none, else as many as the others."""
    executors, _ = compiled(accelerators=["1", "fine_tune=4", "evaluate=0"])
    found = {name: facts["resources"].get("accelerator", {}) for name, facts in executors.items()}
    counts = {name: facts["resourceCount"] for name, facts in found.items() if facts}
    assert counts == {"search": "1", "train-head": "1", "fine-tune": "4"}


def test_pods_are_placed_and_named(full: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Node selector, tolerations, labels, annotations, pull secrets and time limits reach every pod."""
    _, configured = full
    for name, facts in configured.items():
        assert facts["nodeSelector"]["labels"] == {"pool": "gpu"}
        assert facts["tolerations"] == [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "team", "operator": "Equal", "value": "vision", "effect": "NoExecute"},
            {"key": "spot", "operator": "Exists"},
        ]
        assert facts["podMetadata"]["labels"] == {"team": "vision"}
        assert facts["imagePullPolicy"] == "Always"
        assert facts["activeDeadlineSeconds"] == ("36000" if name == "fine-tune" else "3600")


def test_secrets_are_given_by_reference(full: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """A secret's key is in the environment under its own name or another, and its value is nowhere."""
    _, configured = full
    for facts in configured.values():
        given = {one["secretName"]: one["keyToEnv"] for one in facts["secretAsEnv"]}
        assert given["mlflow"] == [{"secretKey": "password", "envVar": "MLFLOW_TRACKING_PASSWORD"}]
        assert given["study"] == [{"secretKey": "THAWLINE_STUDY_STORAGE", "envVar": "THAWLINE_STUDY_STORAGE"}]


def test_the_home_is_a_volume_or_the_pods_own(full: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """THAWLINE_HOME is the claim that was given, else an empty folder; /dev/shm is what was asked for."""
    executors, configured = full
    _, plain = compiled(PODS)
    for name, facts in configured.items():
        environment = {one["name"]: one["value"] for one in executors[name]["env"]}
        [mount] = facts["pvcMount"]
        assert environment["THAWLINE_HOME"] == mount["mountPath"] == plain[name]["emptyDirMounts"][0]["mountPath"]
        assert "pvcMount" not in plain[name]
    [shm] = configured["fine-tune"]["emptyDirMounts"]
    assert (shm["mountPath"], shm["medium"], shm["sizeLimit"]) == ("/dev/shm", "Memory", "8Gi")  # noqa: S108 - the pod's


def test_nothing_is_served_from_kubeflows_cache() -> None:
    """No task is cached, for its part of the run in MLflow would be missing; each is retried."""
    spec, _ = server.parse_package(pods.compile_dag(Cluster()).yaml)
    inner = [component["dag"] for component in spec["components"].values() if "dag" in component]
    tasks = {name: task for part in (spec["root"]["dag"], *inner) for name, task in part["tasks"].items()}
    steps = {
        name: task for name, task in tasks.items() if not spec["components"][task["componentRef"]["name"]].get("dag")
    }
    assert len(steps) == 8
    assert not any(task.get("cachingOptions", {}).get("enableCache") for task in steps.values())
    assert {task["retryPolicy"]["maxRetryCount"] for task in steps.values()} == {2}


def test_each_pod_knows_the_run_it_belongs_to() -> None:
    """Every pod finds the id that Kubeflow gave its run, which a schedule's runs are told apart by."""
    _, configured = compiled()
    wanted = [{"name": "THAWLINE_RUN_KEY", "fieldPath": "metadata.labels['pipeline/runid']"}]
    assert all(facts["fieldPathAsEnv"] == wanted for facts in configured.values())


def test_a_step_takes_its_key_from_the_parameter_or_from_the_pod(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step's key is the one it is given, else the pod's, and without both it says so."""
    monkeypatch.setenv("THAWLINE_RUN_KEY", "8adc0990-b7cd")
    assert run_folder.own_key("") == "8adc0990-b7cd"
    assert run_folder.own_key("20260302-000000-aaaaaa") == "20260302-000000-aaaaaa"
    monkeypatch.delenv("THAWLINE_RUN_KEY")
    with pytest.raises(StepError, match="run_key"):
        run_folder.own_key("")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"memory": ["lots"]}, "--memory can't be 'lots'"),
        ({"memory": ["fine_tun=8Gi"]}, "no step 'fine_tun'"),
        ({"cpu": ["-1"]}, "--cpu can't be '-1'"),
        ({"shm": "8 Gi"}, "--shm can't be '8 Gi'"),
        ({"secret_env": ["mlflow"]}, "--secret-env can't be 'mlflow'"),
        ({"tolerations": ["a=b:Never"]}, "--tolerations can't be"),
        ({"labels": ["vision"]}, "'vision' is not NAME=VALUE"),
        ({"accelerators": -1}, "--accelerators can't be '-1'"),
        ({"accelerators": ["finish=1"]}, "--accelerators can't be 'finish': use one of search"),
        ({"env": ["S=postgresql://u:secret@db/x"]}, "--env S contains a secret"),
        ({"env": ["S=postgresql://db/x?user=u&password=secret@"]}, "--env S contains a secret"),
        ({"env": ["THAWLINE_WEBHOOK_URL=https://hooks.example.com/secret@"]}, "--env THAWLINE_WEBHOOK_URL contains"),
        ({"env": ["MLFLOW_TRACKING_PASSWORD=secret@"]}, "--env MLFLOW_TRACKING_PASSWORD contains a secret"),
        ({"env": ["AWS_SECRET_ACCESS_KEY=secret@"]}, "--env AWS_SECRET_ACCESS_KEY contains a secret"),
        ({"env": ["A=secret@", "B"]}, "'B' is not NAME=VALUE"),
        ({"secret_env": ["MLFLOW_TRACKING_PASSWORD=secret@"]}, "--secret-env can't be 'MLFLOW_TRACKING_PASSWORD'"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], named: str) -> None:
    """A value that is not allowed is one sentence with the option's name, and never shows a password."""
    with pytest.raises(InputError) as error:
        merge_cluster(options, {})
    assert named in str(error.value)
    assert "secret@" not in str(error.value)


def test_plain_variables_are_taken() -> None:
    """What only sounds like a secret is none: an address without a login, a key's id, a token's file."""
    plain = ["MLFLOW_TRACKING_URI=http://mlflow:5000", "AWS_ACCESS_KEY_ID=a", "AWS_WEB_IDENTITY_TOKEN_FILE=/token"]
    assert len(merge_cluster({"env": plain}, {}).env) == 3


def test_the_command_line_wins_over_the_file() -> None:
    """A config file holds the same names, as mappings, lists or plain values; the command line wins."""
    found = merge_cluster(
        {"retries": 5, "env": []}, {"retries": 1, "memory": "32Gi", "cpu": {"search": 8}, "trials": 3}
    )
    assert found.retries == 5
    assert found.of("memory", "finish") == "32Gi"
    assert (found.of("cpu", "search"), found.of("cpu", "fine_tune"), found.of("cpu", "finish")) == ("8", "2", "1")


def test_no_setting_bears_a_pods_name() -> None:
    """One file can hold the settings and the pods' options, for no name means both."""
    assert Cluster.model_fields.keys().isdisjoint(Settings.model_fields)
