"""What long work reports while it runs, and how it learns that it has to stop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Progress: TypeAlias = Callable[[int, int, str], None]  # examples done, in total, and what is done


class Listener(Protocol):
    """Hears of long work: a step's run, a trial of a search, or the process that started this one."""

    def epoch(self, figures: dict[str, float], /) -> None:
        """Take the figures of an epoch of training; what this raises ends the training."""

    def note(self, text: str, /) -> None:
        """Take a decision of the work, in one line."""

    def progress(self, done: int, total: int, text: str, /) -> None:
        """Take how far the work is: done, in total, and what is done."""

    def should_stop(self, seconds: float, /) -> bool:
        """Return whether to stop with the best so far, where the next epoch takes so many seconds."""


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
        """Whether it has come, or will have in `ahead` seconds; from then on it stays so."""
        self.hit = self.hit or time.time() + ahead >= self.at
        return self.hit
