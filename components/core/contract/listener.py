"""The listener of long work: receives its reports, and tells it to stop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Progress: TypeAlias = Callable[[int, int, str], None]  # examples done, in total, and what is done


class Listener(Protocol):
    """Receives reports of long work: a step's run, a trial of a search, or the parent process."""

    def epoch(self, figures: dict[str, float], /) -> None:
        """Take the figures of an epoch of training; what this raises ends the training."""

    def note(self, text: str, /) -> None:
        """Take a decision of the work, in one line."""

    def progress(self, done: int, total: int, text: str, /) -> None:
        """Take how far the work is: done, in total, and what is done."""

    def should_stop(self, seconds: float, /) -> bool:
        """Return whether to stop with the best so far, given the seconds of the next epoch."""


def _ignore(*_reported: object) -> None:
    pass


def _never(_seconds: float) -> bool:
    return False


@dataclass(frozen=True)
class Callbacks:
    """A listener of functions; those left out ignore what they are given, and never stop."""

    epoch: Callable[[dict[str, float]], None] = _ignore
    note: Callable[[str], None] = _ignore
    progress: Progress = _ignore
    should_stop: Callable[[float], bool] = _never


SILENT: Listener = Callbacks()


@dataclass
class Deadline:
    """A moment in seconds since the epoch, and what a user calls it."""

    at: float = math.inf
    name: str = ""
    hit: bool = False  # whether anything was asked to stop

    def reached(self, ahead: float = 0.0) -> bool:
        """Return whether the deadline has passed, or will have in `ahead` seconds; once true, it stays true."""
        self.hit = self.hit or time.time() + ahead >= self.at
        return self.hit
