"""`thawline serve` as a process of its own, asked over HTTP."""

import base64
import http.client
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from components.core.registry import versions
from tests.conftest import copy_home, use_home
from tests.support import command

pytestmark = pytest.mark.slow
LIMITS = ("--max-records", "4", "--max-requests", "2", "--max-body-mb", "0.01", "--poll-seconds", "1")


class Said(NamedTuple):
    """An answer over HTTP."""

    status: int
    headers: dict[str, str]
    body: Any


class Server:
    """A running server and its home."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self.process = command.start("serve", "toy", "--port", "0", *options, home=home, cwd=home)
        assert self.process.stderr
        line = self.process.stderr.readline()
        assert "answers at http://127.0.0.1:" in line, line + self.process.stderr.read()
        self.port = int(line.partition("127.0.0.1:")[2].partition("/")[0])

    def __call__(self, path: str, body: bytes | None = None, kind: str = "application/json") -> Said:
        headers = {"Content-Type": kind} if kind else {}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request("GET" if body is None else "POST", path, body, headers)
            return read(connection.getresponse())

    def predict(self, *records: str) -> Said:
        rows = [{"point": base64.b64encode(one.encode()).decode()} for one in records]
        return self("/predict", json.dumps({"dataframe_records": rows}).encode())

    def half(self, body: bytes) -> socket.socket:
        """Begin a request with the first byte of its body."""
        found = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        found.sendall(head.encode() + body[:1])
        return found

    def metric(self, name: str) -> float:
        families = text_string_to_metric_families(self("/metrics").body)
        return next(one.value for family in families for one in family.samples if one.name == name)


def read(answer: http.client.HTTPResponse) -> Said:
    body, headers = answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    is_json = headers.get("content-type", "").startswith("application/json")
    return Said(answer.status, headers, json.loads(body) if is_json else body.decode())


@pytest.fixture(scope="module")
def server(_three_versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("serve") / "home"
    copy_home(_three_versions, home)
    found = Server(home, "--no-onnx", *LIMITS)
    yield found
    found.process.kill()
    found.process.communicate()


def test_one_record_and_several_get_the_same_answers(server: Server) -> None:
    """A body with its own type is one record; JSON holds several, also at the path of MLflow's server."""
    one = server("/predict", b"2,0", "text/plain")
    several = server.predict("2,0", "-1,1.7")
    assert (one.status, several.status) == (200, 200)
    assert (one.body["model"], one.body["version"]) == ("toy", "1")
    assert [one["label"] for one in several.body["predictions"]] == ["class0", "class1"]
    assert one.body["predictions"][0]["probabilities"] == pytest.approx(
        several.body["predictions"][0]["probabilities"], abs=1e-6
    )
    again = server("/invocations", json.dumps({"inputs": [base64.b64encode(b"2,0").decode()]}).encode())
    assert again.body == one.body


def test_a_bad_record_among_several_is_named(server: Server) -> None:
    """Status 400 with its number and reason."""
    said = server.predict("2,0", "nothing", "2,0")
    assert said.status == 400
    assert said.body["error"] == "1 of 3 records can't be answered (counted from 0)."
    assert [one["record"] for one in said.body["records"]] == [1]
    assert "could not convert" in said.body["records"][0]["reason"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"2,0", "", 415),
        (b"2,0", "application/x-www-form-urlencoded", 415),
        (b"secret", "application/json", 400),
        (b'{"inputs": ["secret"]}', "application/json; charset=utf-8", 400),
        (b'{"inputs": [null]}', "application/json", 400),
        (b'{"inputs": ["", "", "", "", ""]}', "application/json", 413),
        pytest.param(b"2" * 20_000, "text/plain", 413, id="a large body"),
    ],
)
def test_a_bad_request_is_refused(body: bytes, kind: str, status: int, server: Server) -> None:
    """With a status of the client's, a reason, the version, and nothing of the body."""
    said = server("/predict", body, kind)
    assert (said.status, said.body["version"]) == (status, "1")
    assert said.body["error"]
    assert "secret" not in json.dumps(said.body)


def test_a_body_in_chunks_has_the_same_limit(server: Server) -> None:
    """Without a length it is counted as it comes."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request("POST", "/predict", (b"2" * 1000 for _ in range(20)), {"Content-Type": "text/plain"})
        assert read(connection.getresponse()).status == 413


def test_too_many_requests_are_asked_to_come_again(server: Server) -> None:
    """Status 503 with Retry-After, while those in progress are answered."""
    held = [server.half(b"2,0") for _ in range(2)]
    command.wait_for(lambda: server.metric("thawline_serve_running_requests") == 2)
    said = server("/predict", b"2,0", "text/plain")
    assert (said.status, said.headers["retry-after"]) == (503, "1")
    for connection in held:
        connection.sendall(b",0")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        connection.close()


def test_health_metrics_and_pages(server: Server) -> None:
    """Probes, Prometheus and the page of the interface get what they ask for."""
    assert server("/health/live").body == {"status": "live"}
    ready = server("/health/ready").body
    assert (ready["model"], ready["alias"]) == ("toy", "champion")
    before = server.metric("thawline_serve_records_total")
    server.predict("2,0", "0,2")
    assert server.metric("thawline_serve_records_total") == before + 2
    found = server("/")
    assert (found.status, found.headers["location"]) == (307, "docs")
    page = server("/docs").body
    assert all(f"<code>{path}</code>" in page for path in ("/predict", "/health/ready", "/metrics"))
    assert not re.search(r"<script|<link|<img|(src|href)=.https?:|url\(", page)  # it fetches nothing
    post = server("/openapi.json").body["paths"]["/predict"]["post"]
    assert {"200", "400", "413", "415", "503"} <= post["responses"].keys()


def test_the_alias_is_followed_and_a_damaged_version_is_not(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are of the new champion soon after; a version that is not what was registered never answers."""
    use_home(server.home, monkeypatch)
    from components.core.tracking.service import connection

    connection.open_store()
    client = connection.client()
    client.set_registered_model_alias("toy", "champion", "2")
    command.wait_for(lambda: server.predict("2,0").body["version"] == "2")
    client.set_model_version_tag("toy", "3", "thawline.artifact_sha256", "0" * 64)
    client.set_registered_model_alias("toy", "champion", "3")
    assert versions.current("toy", "champion") == "3"
    command.wait_for(
        lambda: 'thawline_serve_reloads_total{outcome="failed"} 1.0' in server("/metrics").body, seconds=60
    )
    assert server.predict("2,0").body["version"] == "2"


def test_it_ends_after_the_last_answer(server: Server) -> None:
    """SIGTERM ends it with status 0, once the request in progress is answered."""
    held = server.half(b"2,0")
    command.wait_for(lambda: server.metric("thawline_serve_running_requests") == 1)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)  # it has heard of it
    held.sendall(b",0")
    assert held.recv(100).startswith(b"HTTP/1.1 200")
    held.close()
    assert server.process.wait(60) == 0


def test_an_address_in_use_is_one_sentence(tracked_home: Path) -> None:
    """Before a model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answer = command.thawline(
            "serve", "toy", "--port", str(taken.getsockname()[1]), home=tracked_home, cwd=tracked_home
        )
    assert answer.status == 2
    assert "Can't listen on" in answer.err
