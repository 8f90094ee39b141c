"""Predict what a run would do, and why, without doing it."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from components.core import run_folder
from components.core.settings import Settings
from components.core.tracking import step_records
from components.detect_changes import Decision, foresee
from pipelines.commands.options import has_store
from pipelines.local.expected_times import expected_seconds
from pipelines.terminal.display import SEARCH, about

if TYPE_CHECKING:
    from pipelines.local.resume import Begun

WOULD = {"train": "train", "judge": "judge again", "skip": "skip", "busy": "give way"}
TRAINED = ("train_head", "fine_tune")


def foreseen(source: str, settings: Settings, begun: "Begun | None", console: Console) -> Decision:
    """Return what a run on a source would do now; `begun` is the run that it would go on with, if any.

    Raises:
        InputError: It would not start: the source can't be listed, or the store can't be reached.
    """
    if begun:
        return Decision("train", f"Would resume {begun.before}; --fresh starts over.")
    first = Decision("train", f"There is no earlier successful run of {settings.model!r}.")
    if not has_store():
        return first
    from components.core.tracking.service import connection

    connection.open_store()
    if connection.client().get_experiment_by_name(settings.model) is None:  # looking for its runs would make one
        return first
    with console.status("Looking for changes") as status:
        key = run_folder.new_run_key()
        return foresee(source, settings, key, lambda i, n, text: status.update(f"{i} of {n} {text}"))


def steps(decision: Decision, settings: Settings, run_key: str = "") -> Sequence[str]:
    """The steps of the DAG that would do work; without those that the run had finished which would go on."""
    if decision.change not in ("train", "judge"):
        return ()
    done = step_records.recorded(run_key) if run_key else set()
    trained = (*(SEARCH if settings.trials else ()), *TRAINED) if decision.change == "train" else ()
    return tuple(step for step in ("prepare_data", *trained, "evaluate", "register") if step not in done)


def print_foreseen(decision: Decision, settings: Settings, begun: "Begun | None", *, as_json: bool) -> None:
    """Print on stdout what a run would do.

    Args:
        decision: What it would do.
        settings: Its settings.
        begun: The run that it would go on with, if any.
        as_json: Print one JSON object.
    """
    key = begun.run_key if begun else ""
    found, expected = steps(decision, settings, key), expected_seconds(settings) if decision.change == "train" else {}
    expected = {step: seconds for step, seconds in expected.items() if step in found}
    if as_json:
        facts: dict[str, object] = {"change": decision.change, "reason": decision.reason, "model": settings.model}
        facts |= {"version": decision.version, "steps": list(found), "goes_on": key, "expected_seconds": expected}
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    lines = [decision.reason if begun else f"Would {WOULD[decision.change]}: {decision.reason}"]
    if found:
        named = [f"{one} {about(expected[one])}" if one in expected else one for one in found]
        lines.append(f"Steps: {', '.join(named)}")
    if expected:
        total = about(sum(expected.values()))
        lines.append(f"Time: {total}, as in the last run of {settings.model} with these settings")
    sys.stdout.write("\n".join(lines) + "\n")
