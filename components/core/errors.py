"""Errors for users: one sentence that names the problem, and a hint on how to fix it."""

import re
from collections.abc import Iterator
from typing import Literal

from components.core.storage.hidden_logins import hidden

# Of builtins, requests, urllib3, urllib and httpx, by name: importing them all to ask would cost a second.
_SILENCE = frozenset({"ConnectionError", "TimeoutError", "Timeout", "URLError", "TransportError", "MaxRetryError"})
_SILENCE |= {"ChunkedEncodingError", "IncompleteRead", "ProtocolError"}  # an answer that breaks off
_FINAL = frozenset({"OfflineModeIsEnabled", "SSLError"})  # that would not be another one later
_TOO_MANY, _OWN_FAULT = 429, 500  # HTTP: what a server answers that may be well again later


_PLAINLY = (
    ("^Value error, ", ""),
    (r", unable to [a-z ]+", ""),
    ("^Input should be", "it should be"),
    ("a valid integer", "a whole number"),
    ("a valid number", "a number"),
    ("a valid boolean", "true or false"),
    ("greater than or equal to", "at least"),
    ("less than or equal to", "at most"),
)


class ExpectedError(Exception):
    """A failure with a known reason; shown without a traceback.

    Args:
        sentence: The problem, naming the thing (a path, an option, a class).
        hint: How the user fixes it.
    """

    kind: Literal["input", "failure"] = "failure"

    def __init__(self, sentence: str, hint: str) -> None:
        super().__init__(hidden(sentence))
        self.sentence = hidden(sentence)
        self.hint = hidden(hint)

    def __str__(self) -> str:
        return f"{self.sentence} {self.hint}".rstrip()


class InputError(ExpectedError):
    """The input or an option is at fault: exit status 2."""

    kind: Literal["input", "failure"] = "input"


class UnavailableError(InputError):
    """Something named by the input or an option did not answer, refused, or is not on this machine.

    Another attempt, which a cluster may start elsewhere, may succeed.
    """


class NoAnswerError(UnavailableError):
    """A server is silent, or answers that something is wrong with itself: on a cluster the step tries again."""


class OutageError(NoAnswerError):
    """A server that was waited for in vain: no fault of the input's, so exit status 1."""

    kind = "failure"


def plainly(message: str) -> str:
    """Return pydantic's sentence about a wrong value as a person would say it: what it should be."""
    for pattern, words in _PLAINLY:
        message = re.sub(pattern, words, message)
    return message


def is_silence(error: BaseException) -> bool:
    """Return whether a library's error comes from a server that did not answer or failed internally."""
    for one in chain(error):  # the outermost error that tells decides: those within it may have been dealt with
        if type(one).__name__ in _FINAL:
            return False
        if status := _status(one):
            return status >= _OWN_FAULT or status == _TOO_MANY
        if any(kind.__name__ in _SILENCE for kind in type(one).__mro__):
            return not any(type(inner).__name__ in _FINAL for inner in chain(one))
    return False


def _status(error: BaseException) -> int:
    """The HTTP status of an answer that a library raised; 0 where the error is of another kind."""
    found = getattr(getattr(error, "response", None), "status_code", None)
    if found is None and type(error).__name__ == "HTTPError":
        found = getattr(error, "code", None)
    return found if isinstance(found, int) else 0


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that it came from, the outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


class StepError(ExpectedError):
    """The run itself failed for a known reason: exit status 1."""


class RejectedRecord(Exception):  # noqa: N818 - an outcome of checking one record, not a fault of the program
    """One raw record can't become an example; the message is the reason shown in the rejected table."""
