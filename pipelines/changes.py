"""Look for changes before the DAG starts: a run without any ends here, in seconds."""

import json
import os
import traceback
from pathlib import Path
from typing import Any

from rich.console import Console

from components.core import runs
from components.core.errors import ExpectedError, StepError
from components.core.settings import Settings
from components.detect_changes import DECISION, look
from pipelines.display import JUDGING, STEPS


def settled(source: str, settings: Settings, run_key: str, console: Console) -> dict[str, Any] | None:
    """The result of a run that ends before its DAG starts: nothing has changed, or looking for changes failed.

    None if there is something to do: the decision is where the DAG's own step finds it. None too on a store that the
    DAG has to make or migrate first: then its step decides.

    Raises:
        StepError: Something unexpected stopped the search for changes; the traceback is in the run's log.
    """
    if not _store_is_ready():
        return None
    os.environ.pop("MLFLOW_RUN_ID", None)  # of one step of some other run
    folder, reason, failed = runs.run_folder(run_key), "", True
    runs.write_text(folder / "settings.json", settings.to_json())
    runs.take_lease(run_key)  # killed from here on, the next run closes it
    try:
        with console.status("Looking for changes") as status:
            decision = look(source, settings, run_key, lambda i, n, text: status.update(f"{i} of {n} {text}"))
        if decision.change != "skip":
            return None
        failed = False
    except ExpectedError:
        pass  # the step has written it down
    except (KeyboardInterrupt, SystemExit):
        reason = "The run was interrupted."
    except Exception as error:
        (folder / "log.txt").write_text("".join(traceback.format_exception(error)))
        raise StepError("The step detect_changes failed.", f"Its log is {folder / 'log.txt'}.") from error
    from components.finish import end

    return end(settings, run_key, failed=failed, reason=reason)


def ended(settings: Settings, run_key: str, reason: str) -> dict[str, Any]:
    """The result of a run whose processes are gone; `reason` says why it was ended before its time, else it is empty.

    A run that was killed before its exit handler came to it is closed here.
    """
    path = runs.run_folder(run_key) / "result.json"
    if not path.exists():
        from components.finish import end

        try:
            end(settings, run_key, failed=True, reason=reason)
        except KeyboardInterrupt:  # the result is there before the notification, which may take a minute
            if not path.exists():
                raise
    result: dict[str, Any] = json.loads(path.read_text())
    if reason and result["status"] == "failed" and result["reason"] != reason:
        result["reason"] = reason
        runs.write_text(path, json.dumps(result, indent=1))
    return result


def steps(run_key: str) -> tuple[str, ...]:
    """The steps that a run will go through, as far as that is decided."""
    path = runs.run_folder(run_key) / DECISION
    judging = path.exists() and json.loads(path.read_text())["change"] == "judge"
    return JUDGING if judging else STEPS


def _store_is_ready() -> bool:
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs.home() / 'mlflow.db'}"
    return not uri.startswith("sqlite:///") or runs.store_is_current(Path(uri.removeprefix("sqlite:///")))
