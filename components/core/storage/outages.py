"""Patience with a server that does not answer, S3 or the search's database: how long to wait, and whom to notify."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from components.core.errors import InputError, NoAnswerError, OutageError

SECONDS = "THAWLINE_OUTAGE_SECONDS"
DEFAULT_SECONDS = 120.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0  # seconds between two attempts during an outage; doubled each time
_Say = Callable[[str], object]
_Result = TypeVar("_Result")


@dataclass
class _Patience:
    seconds: float = 0.0
    say: _Say = str


_patience = _Patience()


def current() -> tuple[float, _Say]:
    """The seconds that an outage may take, 0 outside of a step, and what tells the terminal."""
    return _patience.seconds, _patience.say


@contextmanager
def waited_out(say: _Say) -> Iterator[None]:
    """Let all threads wait for servers, two minutes if `THAWLINE_OUTAGE_SECONDS` says no other number.

    Raises:
        InputError: It says none.
    """
    text = os.environ.get(SECONDS) or str(DEFAULT_SECONDS)
    try:
        seconds = max(0.0, float(text))
    except ValueError:
        raise InputError(f"{SECONDS} can't be {text!r}.", "Use a number of seconds.") from None
    before = current()
    _patience.seconds, _patience.say = seconds, say
    try:
        yield
    finally:
        _patience.seconds, _patience.say = before


def repeated(work: Callable[[], _Result], server: str, reason: Callable[[Exception], str]) -> _Result:
    """Do something with a server; again and again during an outage, and say so.

    Args:
        work: Can be done again after it failed.
        server: What is waited for, in the progress.
        reason: Returns the sentence of an error that comes from an outage; nothing of any other error.

    Raises:
        OutageError: The outage took longer than may be waited, and the error was a `NoAnswerError`; any other error is
            raised as it is.
    """
    seconds, say = current()
    begin, pause = time.monotonic(), FIRST_PAUSE
    while True:
        try:
            return work()
        except Exception as error:
            sentence = reason(error)
            if not sentence or not seconds:
                raise
            left = begin + seconds - time.monotonic()
            if left <= 0 and isinstance(error, NoAnswerError):
                raise OutageError(f"{sentence} It was waited for {seconds:.0f} s.", error.hint) from error.__cause__
            if left <= 0:
                raise
            say(f"waiting for {server}, for {left:.0f} s at most: {sentence}")
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)
