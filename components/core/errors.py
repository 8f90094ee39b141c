"""Errors that a user is meant to see: one sentence that names the thing, one that mends it."""

from typing import Literal


class ExpectedError(Exception):
    """A failure with a known reason; shown without a traceback.

    Args:
        sentence: What is wrong, naming the thing (a path, an option, a class).
        mend: What the user does about it.
    """

    kind: Literal["input", "failure"] = "failure"

    def __init__(self, sentence: str, mend: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.sentence} {self.mend}"


class InputError(ExpectedError):
    """The input or an option is at fault: exit status 2."""

    kind = "input"


class UnavailableError(InputError):
    """What the input or an option names did not answer, refused, or is not on this machine.

    That may be over at another attempt, which a cluster may start elsewhere.
    """


class StepError(ExpectedError):
    """The run itself failed for a known reason: exit status 1."""


class RejectedRecord(Exception):  # noqa: N818 - an outcome of checking one record, not a fault of the program
    """One raw record can't become an example; the message is the reason shown in the rejected table."""
