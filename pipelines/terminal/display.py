"""Progress on the terminal: steps with state, time and main metric; plain lines when piped."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from components.core.run_result import RunResult
from pipelines.terminal.surroundings import near

GATE = ("evaluate", "register", "finish")
SEARCH = ("search", "select_trial")
STEPS = ("detect_changes", "prepare_data", *SEARCH, "train_head", "fine_tune", *GATE)
MARKS = {"waiting": ("·", "dim"), "running": ("▸", "cyan"), "finished": ("✓", "green"), "failed": ("✗", "red")}
PLAIN_EVERY = 5.0  # seconds between progress lines of one step when piped


@dataclass
class StepState:
    """One step as the terminal shows it."""

    state: str = "waiting"
    started: float = 0.0
    ended: float = 0.0
    done: int = 0
    total: int = 0
    text: str = ""
    said: float = 0.0

    def apply(self, event: dict[str, Any]) -> None:
        """Take one event of the run's folder over."""
        kind = event["event"]
        if kind == "started":
            self.state, self.started, self.ended = "running", event["time"], 0.0
            self.said = event["time"]  # a first line at once would be the last one of a short step
        elif kind == "progress":
            self.done, self.total, self.text = event["done"], event["total"], event["text"]
        elif kind in ("finished", "failed"):
            self.state, self.ended, self.text = kind, event["time"], event.get("figure", "")
        elif kind == "taken_over":
            self.state, self.ended, self.text = "finished", event["time"], f"reused: {event['figure']}"

    def seconds(self) -> float:
        """Wall time of the step so far, its imports included."""
        return (self.ended or time.time()) - self.started if self.started else 0.0


def steps_of(trials: int, *, pretraining: bool = False) -> tuple[str, ...]:
    """Return the steps of a run, or of a pretraining, with that many trials."""
    steps = (*STEPS[: -len(GATE)], "save_weights", "finish") if pretraining else STEPS
    return tuple(step for step in steps if trials or step not in SEARCH)


class Display:
    """Shows events as they come.

    Args:
        console: Where they are shown.
        steps: Names of the steps, in their order.
        expected: Seconds that steps will take, where that is known.
    """

    def __init__(
        self, console: Console, steps: Sequence[str] = STEPS, expected: Mapping[str, float] | None = None
    ) -> None:
        self.steps = {name: StepState() for name in steps}
        self._console, self._expected = console, expected or {}

    def take(self, event: dict[str, Any]) -> None:
        """Take an event over, and print it where there is no terminal."""
        if event["event"] == "note":  # above the table of steps, on a terminal; it may be about no step
            text = f"{event['step']:<13} {event['text']}"
            self._console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)
            return
        step = self.steps.setdefault(event["step"], StepState())
        step.apply(event)
        if not self._console.is_terminal:
            self._print(event, step)

    def running(self) -> dict[str, float]:
        """Seconds since the start of each step that runs."""
        return {name: step.seconds() for name, step in self.steps.items() if step.state == "running"}

    def _print(self, event: dict[str, Any], step: StepState) -> None:
        line = ""
        if event["event"] == "started":
            line = f"started{self._expectation(', expected to take {}', event['step'])}"
        elif event["event"] in ("finished", "failed"):
            line = f"{event['event']} in {step.seconds():.1f} s  {step.text}"
        elif event["event"] == "taken_over":
            line = step.text
        elif event["event"] == "progress" and event["time"] - step.said > PLAIN_EVERY:
            step.said = event["time"]
            line = f"{step.done} of {step.total}  {step.text}"
        if line:
            self._console.print(f"{event['step']:<13} {line}".rstrip(), highlight=False, markup=False, soft_wrap=True)

    def _expectation(self, text: str, step: str) -> str:
        """The text with the time that a step will take; empty where it is not known."""
        return text.format(about(self._expected[step])) if step in self._expected else ""

    def __rich__(self) -> RenderableType:
        """The table of steps."""
        table = Table.grid(padding=(0, 2))
        for name, step in self.steps.items():
            mark, style = MARKS[step.state]
            clock = f"{step.seconds():5.1f} s" if step.started else ""
            clock += (
                self._expectation(" of {}" if clock else "{}", name) if step.state in ("waiting", "running") else ""
            )
            running = step.state == "running"  # its line stays one; what a finished step says may wrap
            text = Text(step.text, style="dim" if running else "", overflow="ellipsis", no_wrap=running)
            detail: RenderableType = text
            if running and step.total:
                detail = Table.grid(padding=(0, 1))
                bar = ProgressBar(total=step.total, completed=step.done, width=24)
                detail.add_row(bar, Text(f"{step.done}/{step.total}"), text)
            table.add_row(Text(mark, style=style), Text(name.replace("_", " ")), Text(clock, style="dim"), detail)
        return Group(table)


def about(seconds: float) -> str:
    """Return a time that is expected, as `~12 s` or `~3 min`."""
    return f"~{seconds:.0f} s" if seconds < 100 else f"~{seconds / 60:.0f} min"  # noqa: PLR2004 - beyond, seconds say little


def print_skipped(console: Console, result: RunResult, tracking: str) -> None:
    """The end of a run that was skipped: why, and what stands instead."""
    console.print()
    lines = {
        "Skipped": result.reason,
        "Registered": f"{result.model} version {result.version}, as before" if result.version else "",
        "Report": near(result.report),
        "Tracking": tracking,
    }
    for name, text in lines.items():
        if text:
            console.print(f"{name:<11} {text}", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def shown(
    console: Console, steps: Sequence[str] = STEPS, expected: Mapping[str, float] | None = None
) -> Iterator[Display]:
    """A display that redraws itself on a terminal and prints lines elsewhere."""
    display = Display(console, steps, expected)
    if console.is_terminal:
        with Live(display, console=console, refresh_per_second=8):
            yield display
    else:
        yield display
