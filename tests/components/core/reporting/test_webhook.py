"""Delivery to a webhook, by a real server on loopback."""

import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import pytest
from urllib3.util import retry

from components.core.reporting import webhook
from components.core.reporting.webhook import post
from tests.fakes.webhook import SECRET, Answer, listening, silence, status

MESSAGE = {"text": "stamps version 3 is champion ✓", "run": {"status": "succeeded"}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of a test's length; no proxy between."""
    monkeypatch.setattr(webhook, "BACKOFF", 0.005)
    monkeypatch.setattr(webhook, "TIMEOUTS", (1.0, 0.3))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def test_a_message_is_posted_as_json() -> None:
    """The body is the message, once, and the report names the host alone."""
    with listening() as hook:
        assert post(hook.address, MESSAGE) == (True, "127.0.0.1 took it")
    assert hook.messages == [MESSAGE]
    [(_, path, headers, _)] = hook.requests
    assert path == f"/services/{SECRET}"
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("number", [429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(number: int) -> None:
    """An answer of a busy or broken server is followed by another attempt, which succeeds."""
    with listening(status(number), status(204, b"")) as hook:
        assert post(hook.address, MESSAGE).taken
    assert hook.messages == [MESSAGE, MESSAGE]


def test_attempts_end() -> None:
    """A server that stays broken gets five attempts, and the report says its answer."""
    with listening(status(500)) as hook:
        assert post(hook.address, MESSAGE) == (False, "127.0.0.1 answered 500")
    assert len(hook.requests) == 1 + webhook.RETRIES


@pytest.mark.parametrize("number", [400, 403, 404, 410])
def test_a_refusal_is_final(number: int) -> None:
    """A server that refuses the message is not asked twice."""
    with listening(status(number, b"invalid_payload")) as hook:
        assert post(hook.address, MESSAGE) == (False, f"127.0.0.1 answered {number}")
    assert len(hook.requests) == 1


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between two attempts, in seconds: written down, and over at once."""
    waits: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=waits.append, time=time.time))
    return waits


def test_retry_after_is_respected(waits: list[float]) -> None:
    """A server that names its time is not asked before."""
    with listening(status(429, Retry_After="7"), status(200)) as hook:
        assert post(hook.address, MESSAGE).taken
    assert waits == [7]


def test_retry_after_has_a_bound(waits: list[float]) -> None:
    """A server that asks for an hour is tried again sooner."""
    with listening(status(429, Retry_After="3600"), status(200)) as hook:
        assert post(hook.address, MESSAGE).taken
    assert waits == [webhook.LONGEST_WAIT]


def test_a_retry_after_without_sense_is_passed_over() -> None:
    """A Retry-After that is neither a number nor a date does not stop the attempts."""
    with listening(status(503, Retry_After="soon"), status(200)) as hook:
        assert post(hook.address, MESSAGE).taken


def test_a_silent_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the message and says nothing is given up."""
    monkeypatch.setattr(webhook, "RETRIES", 1)
    with listening(silence(2)) as hook:
        assert post(hook.address, MESSAGE) == (False, "127.0.0.1 did not answer in time")
    assert len(hook.requests) == 2


def test_a_closed_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens, the report says so after the attempts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/{SECRET}"
        assert post(address, MESSAGE) == (False, "127.0.0.1 could not be reached")


def test_a_redirect_is_not_followed() -> None:
    """Neither the message nor the secret goes to where a server points."""
    with listening() as other:
        for number in (301, 302, 307, 308):
            with listening(status(number, Location=other.address)) as hook:
                assert post(hook.address, MESSAGE).text.endswith("a redirect, which is not followed")
            assert len(hook.requests) == 1
    assert other.requests == []


def drip(whole: threading.Event) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 2000:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.05)
        whole.set()

    return answer


def endless(number: int) -> object:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(number)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(2**20))

    return answer


def garbage(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x00\xffno HTTP at all\r\n\r\n")
    handler.close_connection = True


def test_an_answer_that_drips_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers byte by byte, never slow enough for a timeout, can't hold the run."""
    monkeypatch.setattr(webhook, "PATIENCE", 1.0)
    whole = threading.Event()
    with listening(drip(whole)) as hook:
        assert not post(hook.address, MESSAGE).taken
        assert not whole.is_set()


def test_a_huge_answer_is_not_read() -> None:
    """An answer without an end costs neither time nor memory, whatever its status."""
    with listening(endless(200)) as hook:  # type: ignore[arg-type]  # an answer
        assert post(hook.address, MESSAGE).taken
    with listening(endless(500), status(200)) as hook:  # type: ignore[arg-type]  # an answer
        assert post(hook.address, MESSAGE).taken


def test_an_answer_that_is_none_is_told() -> None:
    """Bytes that are no HTTP are a failure and no error."""
    with listening(garbage) as hook:
        assert not post(hook.address, MESSAGE).taken


@pytest.mark.parametrize(
    "address",
    ["", f"hooks.example.com/{SECRET}", f"ftp://127.0.0.1/{SECRET}", f"http://[{SECRET}", f"http:///{SECRET}"],
)
def test_an_address_that_is_none_is_told_without_it(address: str) -> None:
    """A mistyped address is told, and not repeated."""
    delivery = post(address, MESSAGE)
    assert not delivery.taken
    assert SECRET not in delivery.text


@pytest.mark.parametrize("host", [f"{'x' * 70}.invalid", "exa mple.invalid"])
def test_an_impossible_host_is_no_error(host: str) -> None:
    """A host that no resolver takes ends in a sentence."""
    delivery = post(f"http://{host}/{SECRET}", MESSAGE)
    assert not delivery.taken
    assert SECRET not in delivery.text


def test_the_secret_is_in_no_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even at the finest level no logger writes the address, while other threads' lines come through."""
    monkeypatch.setattr(webhook, "RETRIES", 1)
    with caplog.at_level(logging.DEBUG), listening(status(500), status(302, Location=f"/{SECRET}")) as hook:
        post(hook.address, MESSAGE)
        post(f"http://127.0.0.1:1/{SECRET}", MESSAGE)
    printed = capfd.readouterr()
    assert SECRET not in caplog.text + printed.out + printed.err
    logging.getLogger(webhook.LOGGERS[0]).warning("another thread's")
    assert "another thread's" in caplog.text


def test_numbers_that_json_does_not_know_are_refused() -> None:
    """A figure that is not a number never reaches a server as half a message."""
    with listening() as hook, pytest.raises(ValueError, match="Out of range"):
        post(hook.address, {"value": float("nan")})
    assert hook.requests == []
