"""What the terminal shows of a run's events."""

import io
from typing import Any

import pytest
from rich.console import Console

from pipelines.terminal.display import STEPS, Display, shown

BEGIN = 1_000_000.0


def event(step: str, kind: str, after: float = 0.0, **facts: Any) -> dict[str, Any]:
    return {"time": BEGIN + after, "step": step, "event": kind, **facts}


HISTORY = [
    event("prepare_data", "started"),
    event("prepare_data", "working", 2),
    event("prepare_data", "finished", 10.5, seconds=8.5, figure="180 examples in 3 classes, 0 rejected"),
    event("search", "started", 11),
    event("search", "progress", 20, done=3, total=8, text="best validation loss 0.612"),
]
LONG = "validation accuracy 0.333, loss 1.099: no clear gain from thawing, the head-only model is kept"


def piped(events: list[dict[str, Any]]) -> str:
    file = io.StringIO()
    display = Display(Console(file=file, width=40))
    for one in events:
        display.take(one)
    return file.getvalue()


def drawn(events: list[dict[str, Any]], width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, record=True)
    display = Display(console)
    for one in events:
        display.take(one)
    console.print(display)
    return console.export_text().splitlines()


def line_of(step: str, lines: list[str]) -> str:
    [line] = [line for line in lines if line[3:].startswith(step.replace("_", " "))]
    return line.rstrip()


def test_events_move_a_step_through_its_states() -> None:
    """A step waits, runs, and ends finished or failed."""
    display = Display(Console(file=io.StringIO()))
    step = display.steps["search"]
    states = [step.state]
    for kind in ("started", "working", "finished"):
        display.take(event("search", kind, figure="0.5"))
        states.append(step.state)
    display.take(event("evaluate", "started"))
    display.take(event("evaluate", "failed"))
    assert states == ["waiting", "running", "running", "finished"]
    assert display.steps["evaluate"].state == "failed"
    assert display.steps["register"].state == "waiting"


def test_piped_output_is_plain_lines() -> None:
    """Without a terminal every event of note is one whole line, however long, without escape codes."""
    text = piped([*HISTORY, event("search", "failed", 31.25)])
    assert text.splitlines() == [
        "prepare_data  started",
        "prepare_data  finished in 10.5 s  180 examples in 3 classes, 0 rejected",
        "search        started",
        "search        3 of 8  best validation loss 0.612",
        "search        failed in 20.2 s",
    ]


def test_piped_progress_is_sparse() -> None:
    """A step says how far it is every five seconds where nobody can watch it move; a short one never does."""
    ticks = [event("search", "progress", second, done=second, total=60, text="") for second in range(1, 21)]
    lines = piped([event("search", "started"), *ticks]).splitlines()
    assert lines == ["search        started", *(f"search        {n} of 60" for n in (6, 12, 18))]


def test_markup_in_a_text_is_text() -> None:
    """Square brackets of a figure are printed as they are."""
    figure = "test accuracy 0.926 [0.815, 1.000] [red]"
    events = [event("evaluate", "started"), event("evaluate", "finished", figure=figure)]
    assert figure in piped(events)
    assert figure in line_of("evaluate", drawn(events))


def test_a_finished_step_shows_time_and_figure() -> None:
    """The table has a line for each step; a finished one shows its wall time and its main figure."""
    lines = drawn(HISTORY)
    assert len(lines) == len(STEPS)
    assert line_of("prepare_data", lines).split() == [
        *("✓", "prepare", "data", "10.5", "s"),
        *("180", "examples", "in", "3", "classes,", "0", "rejected"),
    ]
    assert line_of("register", lines) == "·  register"


def test_the_running_step_shows_a_bar() -> None:
    """A step that says how far it is shows a bar, the count and what it is about."""
    line = line_of("search", drawn(HISTORY, width=100))
    assert line.startswith("▸  search")
    assert "━" in line
    assert "3/8 best validation loss 0.612" in line


def test_a_failed_step_is_marked() -> None:
    """A failed step keeps its time and loses its bar."""
    line = line_of("search", drawn([*HISTORY, event("search", "failed", 31.25)]))
    assert line.split() == ["✗", "search", "20.2", "s"]


@pytest.mark.parametrize("width", [50, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """A long figure wraps under itself, the running step stays one line, and no line reaches beyond the edge."""
    tuned = [event("fine_tune", "started", 30), event("fine_tune", "finished", 40, figure=LONG)]
    running = [
        event("evaluate", "started", 41),
        event("evaluate", "progress", 42, done=15, total=156, text="rows of a sample answered by the challenger"),
    ]
    lines = drawn([*HISTORY[:3], *tuned, *running], width)
    assert all(len(line) <= width for line in lines)
    begin = line_of("fine_tune", lines).index("validation")
    first = lines.index(next(line for line in lines if "fine tune" in line))
    last = lines.index(next(line for line in lines if "evaluate" in line))
    assert " ".join(line[begin:].strip() for line in lines[first:last]) == LONG
    assert "register" in lines[last + 1]


def test_a_terminal_is_redrawn() -> None:
    """On a terminal the table is drawn in place and stays when the run is over."""
    file = io.StringIO()
    with shown(Console(file=file, force_terminal=True, width=80)) as display:
        for one in HISTORY:
            display.take(one)
    text = file.getvalue()
    assert "\x1b[" in text
    assert "180 examples in 3 classes, 0 rejected" in text
    assert "started" not in text


def test_the_time_that_a_step_will_take_is_shown() -> None:
    """Beside the clock of a step that runs and before one that waits; no more when it has ended."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80, record=True)
    display = Display(console, expected={"prepare_data": 10.2, "search": 36.4, "evaluate": 400})
    for one in HISTORY:
        display.take(one)
    console.print(display)
    lines = console.export_text().splitlines()
    assert "~" not in line_of("prepare_data", lines)
    assert "s of ~36 s" in line_of("search", lines)
    assert "~7 min" in line_of("evaluate", lines)
    file = io.StringIO()
    Display(Console(file=file), expected={"search": 36.4}).take(event("search", "started"))
    assert file.getvalue() == "search        started, expected to take ~36 s\n"
