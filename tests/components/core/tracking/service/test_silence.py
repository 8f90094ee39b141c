"""What a step asks an MLflow server that does not answer at once."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from components.core.registry import versions
from components.core.storage import outages
from components.core.tracking.service import silence

ANSWERS = threading.Event()
SAID = ["waiting for MLflow: the server does not answer", "The MLflow server answers again"]


class _Registry(BaseHTTPRequestHandler):
    """An MLflow server without models, which answers when it may."""

    def do_GET(self) -> None:
        ANSWERS.wait(60)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    ANSWERS.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Registry) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{found.server_port}")
        yield
        found.shutdown()


@pytest.mark.usefixtures("home", "server")
def test_a_silent_server_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that asks for an alias says that it waits, and then that there is an answer; a quick one is no news."""
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        ANSWERS.set()

    with outages.waited_out(say):
        monkeypatch.setattr(silence, "SILENCE_SECONDS", 0.05)
        assert versions.current("model", "champion") == ""
        assert said == SAID
        monkeypatch.setattr(silence, "SILENCE_SECONDS", 60.0)
        assert versions.current("model", "champion") == ""
        assert said == SAID
