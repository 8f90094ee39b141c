"""The services of docker/compose.yaml, started in order, and a pipeline that records in them. Nightly: minutes.

Postgres and the S3 server come from their own images where these can be pulled, else from stand-ins, which prove the
wiring and not those images. A stand-in never bears the real image's name: the engine would give it to whoever asks for
that. `THAWLINE_ENGINE_NETWORK=1 pytest tests/docker/test_compose.py`.
"""

import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
import yaml

from tests.support.command import ROOT, TOY, environment, thawline

if TYPE_CHECKING:
    from tests.services.engine import Engine  # pytest imports the plugin itself, to rewrite its asserts

pytest_plugins = ["tests.services.engine"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        os.environ.get("THAWLINE_ENGINE_NETWORK") != "1",
        reason="Nightly: containers that talk to each other leave a bridge and rules of the firewall behind",
    ),
]
STAND_INS = ROOT / "tests" / "docker" / "stand_ins"
COMPOSE = ROOT / "docker" / "compose.yaml"
OWN_NAMES = {"postgres": "thawline-stand-in-postgres:15", "s3": "thawline-stand-in-seaweedfs:4.48"}
MLFLOW = "thawline-mlflow-python:test"  # not the name that a user's own build has
READY_SECONDS = 600
SERVER = "http://127.0.0.1:5000"


def compose(engine: "Engine", folder: Path, *arguments: str) -> str:
    program = shutil.which("docker-compose")
    assert program is not None, "docker-compose is not installed (Debian: apt-get install docker-compose)"
    files = ["-f", str(COMPOSE), "-f", str(folder / "images.yaml")]
    command = [program, "--env-file", str(folder / "env"), *files, "-p", "thawline-test", *arguments]
    done = subprocess.run(command, env=engine.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def login(engine: "Engine", base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The services, healthy; gives the administrator's name and password."""
    folder = tmp_path_factory.mktemp("compose")
    services = {name: {"image": image} for name, image in images(engine, base).items()}
    (folder / "images.yaml").write_text(yaml.safe_dump({"version": "3.8", "services": services}))
    example = (ROOT / "docker" / ".env.example").read_text()
    values = re.sub(r"=$", lambda _: f"={secrets.token_hex(12)}", example, flags=re.MULTILINE)
    (folder / "env").write_text(values)
    chosen = dict(line.split("=") for line in values.splitlines() if "=" in line and line[0] != "#")
    try:
        compose(engine, folder, "up", "-d")
        wait_until_healthy(engine, folder)
        yield "admin", chosen["MLFLOW_ADMIN_PASSWORD"]
    finally:
        compose(engine, folder, "down", "--volumes")


def images(engine: "Engine", base: str) -> dict[str, str]:
    """The image of each service that is not the compose file's own: MLflow's, which is built, and stand-ins."""
    found = {"mlflow": MLFLOW}
    build = ("build", "--network", "host", "--build-arg", f"BASE={base}")
    engine.docker(*build, "-t", MLFLOW, "-f", str(ROOT / "docker" / "mlflow.Dockerfile"), ".")
    for service, name in OWN_NAMES.items():
        real = yaml.safe_load(COMPOSE.read_text())["services"][service]["image"]
        if engine.has(real) or engine.docker("pull", real, check=False).returncode == 0:
            continue
        file = STAND_INS / f"{re.sub('.*stand-in-|:.*', '', name)}.Dockerfile"
        engine.docker(*build, "-t", name, "-f", str(file), str(STAND_INS))
        found[service] = name
    return found


def wait_until_healthy(engine: "Engine", folder: Path) -> None:
    """Wait for MLflow, which waits for the others; `up` does not wait for the last one."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{SERVER}/health", timeout=5).status_code == 200:
                return
        except requests.RequestException:
            pass
        time.sleep(1)
    pytest.fail(f"The services did not become healthy:\n{compose(engine, folder, 'logs', '--tail=40')}")


def test_a_pipeline_records_in_the_services(login: tuple[str, str], toy_source: Path, tmp_path: Path) -> None:
    """With the server's address and a login, and no key of S3, a run ends with a version whose files lie on S3."""
    user, password = login
    server = {"TRACKING_URI": SERVER, "TRACKING_USERNAME": user, "TRACKING_PASSWORD": password}
    keyless = {name: value for name, value in environment(tmp_path / "home").items() if not name.startswith("AWS_")}
    variables = keyless | {f"MLFLOW_{name}": value for name, value in server.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.support.command.environment", lambda _home: variables)
        answer = thawline("run", str(toy_source), *TOY, "--trials", "2", home=tmp_path / "home", cwd=tmp_path)
    assert answer.status == 0, answer.err
    body = {"name": "toy", "alias": "champion"}
    found = requests.get(f"{SERVER}/api/2.0/mlflow/registered-models/alias", body, auth=login, timeout=30)
    assert found.json()["model_version"]["version"] == "1"
    assert not (tmp_path / "home" / "mlflow.db").exists()


def test_nobody_reads_without_a_login(login: tuple[str, str]) -> None:
    """The server refuses calls without a login, with a wrong one, and by a name that it does not know."""
    body = {"max_results": 10}
    address = f"{SERVER}/api/2.0/mlflow/experiments/search"
    assert requests.post(address, json=body, timeout=30).status_code == 401
    assert requests.post(address, json=body, auth=("admin", "wrong"), timeout=30).status_code == 401
    assert requests.post(address, json=body, auth=login, timeout=30).status_code == 200
    foreign = requests.post(address, json=body, auth=login, headers={"Host": "evil.example"}, timeout=30)
    assert foreign.status_code == 403


def test_no_stand_in_bears_a_real_images_name(login: tuple[str, str], engine: "Engine") -> None:
    """What the engine has under the compose file's names is what a registry gave it, not what these tests built."""
    for service in yaml.safe_load(COMPOSE.read_text())["services"].values():
        found = engine.docker("image", "inspect", "-f", "{{len .RepoDigests}}", service["image"], check=False)
        assert found.returncode != 0 or int(found.stdout) > 0 or "thawline-mlflow" in service["image"]
