"""Real services on free ports of this machine, for tests: `pytest_plugins = ["tests.services.servers"]`.

Debian's Postgres, and an MLflow server in its own process with basic authentication, its runs in Postgres and its
artifacts, which it proxies, on the S3 server. One of each for a whole session. Where a part is not installed the tests
say so and are skipped; with THAWLINE_REQUIRE_SERVICES=1 they fail.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, NoReturn

import boto3
import psycopg
import pytest
import requests

pytest_plugins = ["tests.services.s3"]
READY_SECONDS = 180
ADMIN, PASSWORD = "admin", "test-admin-password"


class Postgres(NamedTuple):
    """A running server; the superuser's password holds for all of its databases."""

    port: int
    password: str
    command: list[str]
    log: Path
    running: "list[subprocess.Popen[bytes]]"  # one, or none

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as output:
            process = subprocess.Popen(self.command, stdout=output, stderr=output, cwd=self.log.parent)
        self.running.append(process)
        _wait(lambda: psycopg.connect(self.url("postgres")).close(), process, self.log)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it and its connections."""
        while self.running:
            process = self.running.pop()
            process.send_signal(number)
            process.wait(30)

    def url(self, database: str) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def create(self, prefix: str) -> str:
        """The address of a new, empty database."""
        name = f"{prefix}_{secrets.token_hex(4)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)


class Mlflow(NamedTuple):
    """A running MLflow server, and what its administrator logs in with."""

    uri: str
    bucket: str
    process: "subprocess.Popen[bytes]"

    @property
    def environment(self) -> dict[str, str]:
        """What a client of the server needs."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": ADMIN,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }

    def ask(self, path: str, body: Mapping[str, object]) -> requests.Response:
        """A call of its interface as the administrator."""
        answer = requests.post(f"{self.uri}/api/2.0/mlflow/{path}", json=body, auth=(ADMIN, PASSWORD), timeout=60)
        answer.raise_for_status()
        return answer


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Debian's Postgres with an empty cluster; as root it runs as the user that the package made."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    programs = found[-1] if found else Path(shutil.which("initdb") or "/none/initdb").parent
    if not (programs / "initdb").exists():
        missing("Postgres is not installed (Debian: apt-get install postgresql)")
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="thawline-postgres-"))  # pytest's own folders are closed to other users
    port, data = free_port(), folder / "data"
    settings = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
    command = [*as_user, str(programs / "postgres"), "-D", str(data), *(f"-c{s}" for s in settings)]
    server = Postgres(port, secrets.token_hex(8), command, folder / "log", [])
    (folder / "password").write_text(server.password)
    if as_user:
        for path in (folder, folder / "password"):
            shutil.chown(path, "postgres", "postgres")
    initdb = ["initdb", "-D", str(data), "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}"]
    try:
        subprocess.run([*as_user, str(programs / initdb[0]), *initdb[1:]], check=True, capture_output=True, cwd=folder)
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)  # at once, whoever is connected
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def mlflow_server(postgres: Postgres, s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    """MLflow with basic authentication: runs and users in Postgres, artifacts through it to the S3 server."""
    from tests.services.s3 import ACCESS_KEY, SECRET_KEY

    if find_spec("flask_wtf") is None:
        missing("The server's login needs Flask-WTF (pip install 'mlflow[auth]')")
    folder = tmp_path_factory.mktemp("mlflow")
    bucket, port = f"mlflow-{secrets.token_hex(4)}", free_port()
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": "us-east-1"}
    boto3.client(
        "s3", "us-east-1", endpoint_url=s3_endpoint, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY
    ).create_bucket(Bucket=bucket)
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {postgres.create('users')}\n"
        f"admin_username = {ADMIN}\nadmin_password = {PASSWORD}\nauth_cache_ttl_seconds = 60\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "AWS_", "THAWLINE_"))}
    environment |= keys | {
        "MLFLOW_S3_ENDPOINT_URL": s3_endpoint,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1"]
    # one worker: of several, uvicorn's supervisor ends those whose imports take it five seconds to answer
    command += ["--port", str(port), "--workers", "1", "--backend-store-uri", postgres.create("runs")]
    command += ["--artifacts-destination", f"s3://{bucket}/artifacts"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
    server = Mlflow(f"http://127.0.0.1:{port}", bucket, process)
    try:
        _wait(lambda: requests.get(f"{server.uri}/health", timeout=5).raise_for_status(), process, folder / "log")
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers are in its group
        process.wait()


def missing(sentence: str) -> NoReturn:
    """Skip the test, or fail it where all parts have to be there."""
    if os.environ.get("THAWLINE_REQUIRE_SERVICES") == "1":
        pytest.fail(sentence)
    pytest.skip(sentence)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(ready: Callable[[], object], process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            ready()
        except (OSError, psycopg.OperationalError):  # requests' errors are OSErrors
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"A server did not start: {log.read_text()[-2000:]}")
