"""How long this process waits for an S3 server that does not answer, and who is told of it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from components.core.errors import InputError

SECONDS = "THAWLINE_OUTAGE_SECONDS"
DEFAULT_SECONDS = 120.0
_Say = Callable[[str], object]


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
