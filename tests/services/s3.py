"""A real S3 server (SeaweedFS) on free ports of this machine, for tests: `pytest_plugins = ["tests.services.s3"]`."""

import json
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from components.core.storage import s3 as storage

ACCESS_KEY, SECRET_KEY = "test-access", "test-secret-key"
READY_SECONDS = 60


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that holds nothing yet."""
    folder = tmp_path_factory.mktemp("s3")
    config = folder / "s3.json"
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    config.write_text(
        json.dumps({"identities": [{"name": "test", "credentials": credentials, "actions": actions}]}),
    )
    master, volume, filer, s3 = _free_ports(4)
    command = [
        str(Path(sys.executable).with_name("weed")),
        *("-logtostderr=true", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-master.port={master}", f"-volume.port={volume}", "-filer", f"-filer.port={filer}"),
        *("-s3", f"-s3.port={s3}", f"-s3.config={config}", "-volume.max=5000"),  # a bucket takes seven
        *("-volume.preStopSeconds=0", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),  # catalogs that would take fixed ports
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            endpoint = f"http://127.0.0.1:{s3}"
            _wait(endpoint, process, folder / "log")
            yield endpoint
        finally:
            process.kill()  # a polite end takes 17 s
            process.wait()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The environment of a user of the server; gives an empty bucket, `s3://…`."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage.client.cache_clear()
    bucket = f"bucket-{secrets.token_hex(4)}"
    storage.client().create_bucket(Bucket=bucket)
    yield f"s3://{bucket}"
    storage.client.cache_clear()


def _free_ports(number: int) -> list[int]:
    """Ports whose neighbour 10,000 above, where the server speaks gRPC, is free too."""
    ports: list[int] = []
    while len(ports) < number:
        port = 20_000 + secrets.randbelow(30_000)
        if port not in ports and _is_free(port) and _is_free(port + 10_000):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _wait(endpoint: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(endpoint, timeout=5)  # noqa: S310 - our own server
        except urllib.error.HTTPError:  # it answers: access denied
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"The S3 server did not start: {log.read_text()[-2000:]}")
