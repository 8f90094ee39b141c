"""Say in the progress that the MLflow server does not answer, while a step waits for it.

What a step logs goes through its outbox (`outbox.py`), which says so itself. What it asks about versions, aliases and
earlier runs, it asks MLflow's client, which repeats a question for minutes without a word.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import mlflow

from components.core.storage import outages

SILENCE_SECONDS = 10.0  # after which the progress says that the server does not answer


def telling(client: mlflow.MlflowClient) -> mlflow.MlflowClient:
    """Return a client whose calls tell of a silent server; in the thread of an outbox the client itself."""
    if threading.current_thread() is not threading.main_thread():
        return client
    return cast("mlflow.MlflowClient", _Telling(client))


@contextmanager
def told() -> Iterator[None]:
    """Tell of a server that does not answer what is asked meanwhile, and that it answers again."""
    _, say = outages.current()
    silent = threading.Event()

    def tell() -> None:
        silent.set()
        say("waiting for MLflow: the server does not answer")

    timer = threading.Timer(SILENCE_SECONDS, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if silent.is_set():
        say("The MLflow server answers again")


class _Telling:
    """MLflow's client, each of whose methods tells of a silent server."""

    def __init__(self, client: mlflow.MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever MLflow's client has
        found = getattr(self._client, name)
        return _within(found) if callable(found) else found


def _within(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def asked(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - as above
        with told():
            return method(*arguments, **named)

    return asked
