"""What long work reports to, and how it learns that it has to stop."""

import time

from components.core.contract.listener import SILENT, Callbacks, Deadline


def test_what_nobody_listens_to_is_ignored() -> None:
    """The silent listener takes everything and never stops."""
    SILENT.epoch({"loss": 1.0})
    SILENT.note("kept")
    SILENT.progress(1, 2, "rows")
    assert not SILENT.should_stop(1e12)


def test_a_listener_hears_what_it_has_a_function_for() -> None:
    """Callbacks pass on what they were given a function for, and ignore the rest."""
    notes: list[str] = []
    listener = Callbacks(note=notes.append, should_stop=lambda seconds: seconds > 1)
    listener.note("kept")
    listener.epoch({"loss": 1.0})
    assert notes == ["kept"]
    assert (listener.should_stop(1), listener.should_stop(2)) == (False, True)


def test_a_deadline_is_reached_once() -> None:
    """It is reached when the next epoch would end after it, and stays so."""
    deadline = Deadline(time.time() + 60, "--max-minutes 1")
    assert not deadline.reached(50)
    assert not deadline.hit
    assert deadline.reached(70)
    assert deadline.reached(0)
    assert not Deadline().reached(1e12)
