"""What a run would do, and why, without doing it."""

import json
import sys
from collections.abc import Sequence

from rich.console import Console

from components.core import run_folder
from components.core.settings import Settings
from components.detect_changes import Decision, foresee
from pipelines.commands.options import has_store
from pipelines.local.expected_times import expected_seconds
from pipelines.terminal.display import about

WOULD = {"train": "train", "judge": "judge again", "skip": "skip", "busy": "give way"}
TRAINED = ("search", "select_trial", "train_head", "fine_tune")


def foreseen(source: str, settings: Settings, console: Console) -> Decision:
    """Return what a run on a source would do now.

    Raises:
        InputError: It would not start: the source can't be listed, or the store can't be reached.
    """
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


def steps(decision: Decision) -> Sequence[str]:
    """The steps of the DAG that would do work."""
    if decision.change not in ("train", "judge"):
        return ()
    return ("prepare_data", *(TRAINED if decision.change == "train" else ()), "evaluate", "register")


def print_foreseen(decision: Decision, settings: Settings, *, as_json: bool) -> None:
    """Print on stdout what a run would do."""
    found, expected = steps(decision), expected_seconds(settings) if decision.change == "train" else {}
    if as_json:
        facts: dict[str, object] = {"change": decision.change, "reason": decision.reason, "model": settings.model}
        facts |= {"version": decision.version, "steps": list(found), "expected_seconds": expected}
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    lines = [f"Would {WOULD[decision.change]}: {decision.reason}"]
    if found:
        named = [f"{one} {about(expected[one])}" if one in expected else one for one in found]
        lines.append(f"Steps: {', '.join(named)}")
    if expected:
        total = about(sum(expected.values()))
        lines.append(f"Time: {total}, as in the last run of {settings.model} with these settings")
    sys.stdout.write("\n".join(lines) + "\n")
