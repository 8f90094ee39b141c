"""A step's messages to an MLflow server, sent in their order by a thread: an outage delays them, never the training."""

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from components.core.errors import InputError, NoAnswerError, OutageError
from components.core.storage import home_folder
from components.core.tracking.service import connection
from components.core.tracking.service.server import is_server

PATIENCE = "THAWLINE_TRACKING_PATIENCE"  # seconds that a step waits for the server when it needs its answer
DEFAULT_PATIENCE = 300.0
SILENCE_SECONDS = 10.0  # after which the progress says that the server does not answer
PAUSE_SECONDS = 1.0  # between two attempts, beside those that MLflow's client makes itself
_Result = TypeVar("_Result")


def ask_once(say: Callable[[str], object], question: Callable[[], _Result]) -> _Result:
    """Ask a server, or the local store, while there is no run yet whose outbox would.

    Raises:
        OutageError: The server did not answer in time.
    """
    return Outbox(say).ask(question) if is_server(home_folder.tracking_uri()) else question()


def patience() -> float:
    """The seconds that a step waits for MLflow.

    Raises:
        InputError: `THAWLINE_TRACKING_PATIENCE` is no number.
    """
    text = os.environ.get(PATIENCE) or str(DEFAULT_PATIENCE)
    try:
        return max(0.0, float(text))
    except ValueError:
        raise InputError(f"{PATIENCE} can't be {text!r}.", "Use a number of seconds.") from None


class Outbox:
    """Sends messages one after another; each is repeated until the server answers, or a question was given up.

    Args:
        say: Takes a sentence for the progress.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._messages: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._posted: list[Future[Any]] = []
        self._lost: OutageError | None = None
        self._patience = patience()
        self._thread: threading.Thread | None = None

    def post(self, message: Callable[[], object]) -> None:
        """Send a message when the server takes it; what else it answers than silence, the next `ask` raises."""
        for future in [future for future in self._posted if future.done()]:
            self._posted.remove(future)
            future.result()
        self._posted.append(self._put(message))

    def ask(self, message: Callable[[], _Result], seconds: float | None = None) -> _Result:
        """Send a message after all others, and return its answer.

        Args:
            message: Is called in the thread.
            seconds: To wait; the patience unless given.

        Raises:
            OutageError: The server did not answer in time; nothing is sent any more.
        """
        future = self._put(message)
        wait = self._patience if seconds is None else min(seconds, self._patience)
        try:
            answer: _Result = future.result(wait)
        except TimeoutError:
            if future.done():  # the message's own error
                raise
            sentence = f"The MLflow server {home_folder.tracking_uri()} did not answer for {wait:.0f} s."
            self._lost = OutageError(sentence, "Check the address, the network, and its log; then run again.")
            raise self._lost from None
        for posted in self._posted:
            posted.result()
        self._posted.clear()
        return answer

    def _put(self, message: Callable[[], _Result]) -> "Future[_Result]":
        if self._lost:
            raise self._lost
        if self._thread is None:  # a daemon: what is never answered keeps no process from its end
            self._thread = threading.Thread(target=self._send, daemon=True)
            self._thread.start()
        future: Future[_Result] = Future()
        self._messages.put((message, future))
        return future

    def _send(self) -> None:
        while not self._lost:
            message, future = self._messages.get()
            silent = threading.Event()
            timer = threading.Timer(SILENCE_SECONDS, self._say_silent, [silent])
            timer.start()
            self._deliver(message, future)
            timer.cancel()
            if silent.is_set() and not self._lost:
                self._say("The MLflow server answers again")

    def _deliver(self, message: Callable[[], Any], future: "Future[Any]") -> None:
        while not self._lost:
            try:
                answer = message()
            except Exception as error:  # noqa: BLE001 - whatever it is, who asked gets it
                if not isinstance(connection.explanation(error), NoAnswerError):
                    future.set_exception(error)
                    return
                threading.Event().wait(PAUSE_SECONDS)
            else:
                future.set_result(answer)
                return

    def _say_silent(self, silent: threading.Event) -> None:
        silent.set()
        self._say("waiting for MLflow: the server does not answer; what is to be logged is sent later")
