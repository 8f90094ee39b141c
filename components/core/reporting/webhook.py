"""Deliver one message to a webhook within about a minute. Its address is a secret: texts hold no more than its host.

An answer's body is never read, and no redirect is followed: either could be anything, and a redirect would carry the
message, and perhaps the secret, to another host.
"""

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import InvalidHeader, MaxRetryError
from urllib3.util import Retry

PATIENCE = 60.0  # seconds for everything: name, connection, answers, retries
TIMEOUTS = (5.0, 10.0)  # seconds to connect, and between two bytes of an answer
RETRIES, BACKOFF = 4, 1.0  # waits 0, 2, 4 and 8 times the backoff, in seconds, unless the answer says how long
LONGEST_WAIT = 30  # seconds, whatever Retry-After says
AGAIN = (429, 500, 502, 503, 504)  # answers that may be others in a moment
PROBLEMS: dict[type[Exception], tuple[str, bool]] = {  # what to say, and whether to try again
    requests.exceptions.SSLError: ("has a certificate that is not trusted", False),
    requests.Timeout: ("did not answer in time", True),
    requests.ConnectionError: ("could not be reached", True),
}
LOGGERS = ("urllib3.connectionpool", "urllib3.util.retry")  # they write addresses


class Delivery(NamedTuple):
    """The outcome of a delivery, with a short text that contains no secret."""

    taken: bool
    text: str


def post(address: str, message: Mapping[str, Any]) -> Delivery:
    """Post a message as JSON; a failure is an answer and no error.

    Raises:
        ValueError: The message is no JSON.
    """
    try:
        host = urlsplit(address).hostname if address.startswith(("http://", "https://")) else None
    except ValueError:
        host = None
    if not host:
        return Delivery(taken=False, text="the webhook's address is not one of http or https")
    body = json.dumps(message, allow_nan=False).encode()
    problems = ["did not answer in time"]
    # a thread, because neither the look-up of a name nor an answer that drips in has a limit of its own
    thread = threading.Thread(target=_deliver, args=(address, body, problems), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    problem = problems[-1]
    return Delivery(taken=not problem, text=f"{host} {problem or 'took it'}")


def _deliver(address: str, body: bytes, problems: list[str]) -> None:
    """Try until it is taken or there is no sense in it; the last of the problems is empty then, or says why not."""
    retries = Retry(RETRIES, backoff_factor=BACKOFF, retry_after_max=LONGEST_WAIT)
    with _silent(), requests.Session() as session:
        while True:
            problem, again, raw = _try(session, address, body)
            problems.append(problem)
            if not again:
                return
            try:
                retries = retries.increment("POST", response=raw)
            except MaxRetryError:
                return
            try:
                retries.sleep(raw)
            except InvalidHeader:  # Retry-After says nothing that can be understood
                retries.sleep()


def _try(session: requests.Session, address: str, body: bytes) -> tuple[str, bool, Any]:
    """One attempt: the problem, whether to try again, and the answer."""
    headers = {"Content-Type": "application/json", "User-Agent": "thawline"}
    try:
        with session.post(
            address, data=body, headers=headers, timeout=TIMEOUTS, allow_redirects=False, stream=True
        ) as answer:
            return _problem(answer.status_code), answer.status_code in AGAIN, answer.raw
    except Exception as error:  # noqa: BLE001 - whatever it says may hold the address, and a thread would print it
        for kind, (problem, again) in PROBLEMS.items():
            if isinstance(error, kind):
                return problem, again, None
        return f"could not be notified ({type(error).__name__})", False, None


def _problem(status: int) -> str:
    if status < requests.codes.multiple_choices:
        return ""
    redirect = status < requests.codes.bad_request
    return "answered with a redirect, which is not followed" if redirect else f"answered {status}"


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing that this thread does with an address is logged."""
    own = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != own

    for name in LOGGERS:
        logging.getLogger(name).addFilter(others)
    try:
        yield
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(others)
