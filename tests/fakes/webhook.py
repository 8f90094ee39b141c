"""A real HTTP server on loopback that answers as it is told and keeps what it was sent."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "T000-B000-very-secret"  # noqa: S105 - of a server that lives for one test
Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Hook:
    """Where it listens, and every request with its time."""

    port: int
    answers: list[Answer]
    requests: list[tuple[float, str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/{SECRET}"

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body) for *_, body in self.requests]


def status(number: int, body: bytes = b"ok", **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(number)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def silence(seconds: float) -> Answer:
    return lambda _handler: time.sleep(seconds)


@contextmanager
def listening(*answers: Answer) -> Iterator[Hook]:
    """A server that gives these answers one after another, the last one for ever."""
    hook = Hook(0, list(answers) or [status(200)])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hook.requests.append((time.monotonic(), self.path, dict(self.headers), body))
            try:
                hook.answers[min(len(hook.requests), len(hook.answers)) - 1](self)
            except OSError:
                self.close_connection = True  # who asked has gone

        do_GET = do_POST  # noqa: N815 - the library's name; a redirect would come by it

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hook.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
