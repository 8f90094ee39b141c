"""The whole DAG and the commands on a real MLflow server with logins, its runs in Postgres and its artifacts on S3."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import mlflow
import pytest
import requests

from components.core import run_folder
from components.core.errors import InputError, OutageError
from components.core.registry import versions
from components.core.settings import Settings
from components.core.tracking import queries, runs, tag_names
from components.core.tracking.service import connection
from tests.fakes.toy import write_points
from tests.support import forks
from tests.support.command import COMMAND, TOY, Answer, environment, processes, wait_for

if TYPE_CHECKING:
    import multiprocessing
    from multiprocessing.synchronize import Barrier

    from tests.services.servers import Mlflow, Postgres

pytest_plugins = ["tests.services.servers"]
slow = pytest.mark.slow


class Team:
    """A machine of a team: it knows the server's address and a login, and no S3 key."""

    def __init__(self, server: "Mlflow", folder: Path) -> None:
        self.server, self.folder, self.source = server, folder, folder / "points"
        self.login = server.environment

    def thawline(self, *arguments: str, **changes: str) -> Answer:
        inherited = {k: v for k, v in environment(self.folder / "home").items() if not k.startswith("AWS_")}
        login = {k: v for k, v in self.login.items() if k != "MLFLOW_TRACKING_URI"}
        done = subprocess.run(
            [COMMAND, *arguments, "--tracking-uri", self.server.uri],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=inherited | login | changes,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def run(self, *options: str, **changes: str) -> Answer:
        return self.thawline("run", str(self.source), *TOY, "--trials", "2", "--json", *options, **changes)


@pytest.fixture(scope="session")
def team(mlflow_server: "Mlflow", tmp_path_factory: pytest.TempPathFactory) -> Team:
    folder = tmp_path_factory.mktemp("team")
    write_points(folder / "points", per_class=60)
    return Team(mlflow_server, folder)


@pytest.fixture(scope="session")
def first(team: Team) -> dict[str, Any]:
    """The result of the first run."""
    answer = team.run()
    assert answer.status == 0, answer.err
    result: dict[str, Any] = json.loads(answer.out)
    return result


@pytest.fixture
def server(mlflow_server: "Mlflow", home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Mlflow"]:
    """The server for this process, and a home without a store of its own."""
    for name, value in mlflow_server.environment.items():
        monkeypatch.setenv(name, value)
    yield mlflow_server
    mlflow.set_tracking_uri(None)  # it keeps the address of its last client


@slow
def test_the_whole_dag_runs_on_a_server(team: Team, first: dict[str, Any], server: "Mlflow", s3_endpoint: str) -> None:
    """A version is registered and champion, all runs are one tree, and every artifact came to S3 through the server."""
    assert (first["status"], first["version"], first["promoted"]) == ("succeeded", "1", True)
    assert not (team.folder / "home/mlflow.db").exists()
    version = connection.client().get_model_version_by_alias("toy", "champion")
    assert (version.version, version.run_id) == ("1", first["mlflow_run_id"])
    pipeline = connection.client().get_run(first["mlflow_run_id"])
    assert pipeline.info.artifact_uri.startswith("mlflow-artifacts:/")
    steps = queries.find_runs("toy", pipeline.data.tags[tag_names.RUN_KEY], "step")
    assert {run.data.tags[tag_names.PARENT] for run in steps} == {pipeline.info.run_id}
    assert {run.info.status for run in [pipeline, *steps]} == {"FINISHED"}
    assert len(queries.find_runs("toy", pipeline.data.tags[tag_names.RUN_KEY], "trial")) == 2
    from tests.services.s3 import ACCESS_KEY, SECRET_KEY

    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
    bucket = boto3.client("s3", "us-east-1", endpoint_url=s3_endpoint, **keys)
    names = [item["Key"] for item in bucket.list_objects_v2(Bucket=server.bucket)["Contents"]]
    assert any(name.endswith(f"{pipeline.info.run_id}/artifacts/report.html") for name in names)


@slow
def test_the_report_is_fetched(team: Team, first: dict[str, Any]) -> None:
    """The result's report is a file here, though the server keeps it."""
    page = Path(first["report"])
    assert page.is_relative_to(team.folder / "home/runs")
    assert "<html" in page.read_text()
    assert json.loads((page.parent / "result.json").read_text()) == first


@slow
def test_the_login_is_in_no_file(team: Team, first: dict[str, Any]) -> None:
    """Neither log nor events nor settings of a run hold the password."""
    assert first["status"] == "succeeded"
    secret = team.login["MLFLOW_TRACKING_PASSWORD"].encode()
    files = [path for path in (team.folder / "home/runs").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if secret in path.read_bytes()]


@slow
def test_another_machine_predicts_and_skips(team: Team, first: dict[str, Any]) -> None:
    """With an empty home the champion answers from the server, and the same data are known: the run is skipped."""
    shutil.rmtree(team.folder / "home")
    point = team.source / "class0/0000.txt"
    answer = team.thawline("predict", "--model", "toy", "--json", str(point))
    assert answer.status == 0, answer.err
    [row] = json.loads(answer.out)["predictions"]
    assert row["label"] == "class0"
    again = team.run()
    assert again.status == 0, again.err
    result = json.loads(again.out)
    assert (result["status"], result["same_as"]) == ("skipped", first["mlflow_run_id"])
    assert Path(result["report"]).is_file()


@slow
def test_refusals_are_one_sentence_at_once(
    team: Team, first: dict[str, Any], server: "Mlflow", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong password, a login that may only read, and a silent server: before anything starts, with the hint."""
    team.server.ask("users/create", {"username": "reader", "password": "reader-password"})
    reader = {"MLFLOW_TRACKING_USERNAME": "reader", "MLFLOW_TRACKING_PASSWORD": "reader-password"}
    for changes, expected in (
        ({"MLFLOW_TRACKING_PASSWORD": "wrong-and-private"}, "refuses the login. Check MLFLOW_TRACKING_USERNAME"),
        (reader, "does not let this login write to the experiment 'toy'. Ask its administrator"),
    ):
        answer = team.run(**changes)
        assert answer.status == 2
        assert expected in json.loads(answer.out)["reason"]
        assert expected in answer.err.splitlines()[-1]
        assert "private" not in answer.out + answer.err
    listed = team.thawline("models", **reader)
    assert listed.status == 0, listed.err
    for name, value in reader.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="does not let this login write"), connection.explained():
        versions.move_alias("toy", "challenger", "")  # between two calls of a command
    assert versions.current("toy", "challenger") == "1"


@slow
def test_the_tracking_page_shows_no_password(postgres: "Postgres", tmp_path: Path) -> None:
    """The page of a database opens, and no process of it has the database's password among its arguments."""
    from tests.services.servers import free_port

    port, home = free_port(), tmp_path / "home"
    variables = {**environment(home), "MLFLOW_TRACKING_URI": postgres.create("page")}
    page = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search"
    said, command = tmp_path / "said", [COMMAND, "ui", "--port", str(port)]
    with said.open("w") as out, subprocess.Popen(command, env=variables, cwd=tmp_path, stderr=out) as server:
        try:
            wait_for(lambda: answers(page), 180)
            ready = f"The tracking page is ready: http://127.0.0.1:{port}/#/experiments"
            wait_for(lambda: ready in said.read_text(), 180)
            arguments = [Path(f"/proc/{process}/cmdline").read_bytes() for process in processes(home)]
        finally:
            server.terminate()
    assert any(b"mlflow" in text for text in arguments)
    assert not any(postgres.password.encode() in text for text in arguments)


def answers(address: str) -> bool:
    """Whether a server is there and finds its store."""
    try:
        return requests.post(address, json={"max_results": 1}, timeout=30).status_code == 200
    except requests.ConnectionError:
        return False


def elect(key: str, together: "Barrier", found: "multiprocessing.Queue[str]") -> None:
    """A step that starts at the same time as others."""
    connection.client()
    together.wait(120)
    found.put(runs.pipeline_run(key, Settings(model="racers", task="tests.fakes.toy")).info.run_id)


@slow
def test_steps_that_start_together_agree_on_one_run(server: "Mlflow") -> None:
    """Five processes that see neither a run nor an experiment make one of each."""
    context = forks.context()
    found: multiprocessing.Queue[str] = context.Queue()
    together = context.Barrier(5)
    steps = [context.Process(target=elect, args=("key", together, found)) for _ in range(5)]
    for step in steps:
        step.start()
    ids = {found.get(timeout=120) for _ in steps}
    for step in steps:
        step.join(60)
    assert len(ids) == 1
    assert [run.info.run_id for run in queries.find_runs("racers", "key")] == list(ids)


@slow
def test_a_candidate_whose_step_was_killed_is_passed_over(server: "Mlflow", monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that a killed step left half made is neither waited for without end nor taken."""
    monkeypatch.setattr(runs, "ELECTION_SECONDS", 1.0)
    monkeypatch.setattr(runs, "SETTLE_SECONDS", 0.1)  # nobody else takes part
    dead = [runs.create("dead", "key", "killed", tag_names.CANDIDATE, None) for _ in range(6)]
    found = runs.pipeline_run("key", Settings(model="killed", task="tests.fakes.toy"))
    assert found.info.run_id not in dead
    assert found.data.tags[tag_names.KIND] == "pipeline"


@slow
def test_a_run_of_the_environment_is_adopted(server: "Mlflow", monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Kubeflow's plugin made runs and an experiment, a step takes them: no other run is made."""
    client = connection.client()
    experiment = client.create_experiment("of the plugin")
    parent = client.create_run(experiment, tags={"mlflow.runName": "made by the plugin"}).info.run_id
    child = client.create_run(experiment, tags={tag_names.PARENT: parent}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", child)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    with runs.step("prepare_data", "adopted", Settings(model="adopter", task="tests.fakes.toy").to_json()) as step:
        step.params({"a": 1})
    assert (step.run_id, step.pipeline_id) == (child, parent)
    assert {run.info.run_id for run in queries.find_runs("adopter", "adopted")} == {parent, child}
    assert client.get_run(child).info.status == "FINISHED"
    assert client.get_run(child).data.params == {"a": "1"}


@slow
def test_a_server_that_goes_away_fails_the_step_with_a_sentence(
    server: "Mlflow", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step whose server falls silent in the middle of its work says so where the command line finds it."""
    from tests.fakes.proxy import Proxy

    def work_until_silence(proxy: Proxy) -> None:
        settings = Settings(model="silent", task="tests.fakes.toy").to_json()
        with runs.step("search", "k", settings) as step:
            proxy.close()
            step.params({"a": 1})

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("THAWLINE_TRACKING_PATIENCE", "2")
    with Proxy(server.uri) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
        with pytest.raises(OutageError, match=f"{proxy.uri} did not answer for 2 s"):
            work_until_silence(proxy)
    assert "did not answer" in run_folder.read_errors("k")["search"]["sentence"]


@slow
def test_an_unknown_host_name_is_told(server: "Mlflow", monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not know the name it is called by says which option is missing."""
    answer = requests.get(f"{server.uri}/health", headers={"Host": "mlflow.example.com"}, timeout=30)
    from components.core.tracking.service.server import refusal

    told = refusal(server.uri, answer.status_code, answer.text)
    assert told is None or "--allowed-hosts" in told.hint
    api = requests.get(
        f"{server.uri}/api/2.0/mlflow/experiments/search?max_results=1",
        headers={"Host": "mlflow.example.com"},
        auth=tuple(list(server.environment.values())[1:]),
        timeout=30,
    )
    known = refusal(server.uri, api.status_code, api.text)
    assert known is not None
    assert "--allowed-hosts" in known.hint
