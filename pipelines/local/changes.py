"""Look for changes before the DAG starts: a run without any ends here, in seconds."""

import traceback

from rich.console import Console

from components.core import run_folder
from components.core.errors import ExpectedError, NoAnswerError, OutageError, StepError
from components.core.run_result import RunResult
from components.core.settings import Settings
from components.core.storage import disk_space, home_folder
from components.core.storage.hidden_logins import hidden
from components.core.tracking import endings
from components.core.tracking.service.server import is_server
from components.detect_changes import DECISION, go_on, look


@disk_space.explained(home_folder.home)
def settled(source: str, settings: Settings, run_key: str, console: Console) -> RunResult | None:
    """The result of a run that ends before its DAG starts: nothing has changed, or looking for changes failed.

    None if there is something to do: the decision is where the DAG's own step finds it. None too on a store that the
    DAG has to make or migrate first: then its step decides. A run that goes on has decided before, if it came to that.

    Raises:
        InputError: The MLflow server can't be reached, or does not let this login write.
        StepError: Something unexpected stopped the search for changes; the traceback is in the run's log.
    """
    if not home_folder.store_is_ready():
        return None
    if is_server(home_folder.tracking_uri()):
        from components.core.tracking.service import connection

        connection.check_server(settings.model)
    folder, reason, state = run_folder.run_folder(run_key), "", endings.FAILED
    try:
        if (folder / DECISION).exists():
            go_on(settings, run_key)
            return None
        with console.status("Looking for changes") as status:
            decision = look(source, settings, run_key, lambda i, n, text: status.update(f"{i} of {n} {text}"))
        if decision.change in ("train", "judge"):
            return None
        state = endings.SUCCEEDED
    except ExpectedError:
        pass  # the step has written it down
    except (KeyboardInterrupt, SystemExit):
        reason = "The run was interrupted."
    except Exception as error:
        if disk_space.is_full(error):
            raise
        (folder / "log.txt").write_text(hidden("".join(traceback.format_exception(error))))
        raise StepError("The step detect_changes failed.", f"Its log is {folder / 'log.txt'}.") from error
    from components.finish import end

    return end(settings, run_key, state, reason)


@disk_space.explained(home_folder.home)
def ended(settings: Settings, run_key: str, reason: str) -> RunResult:
    """The result of a run whose processes are gone; `reason` says why it was ended before its time, else it is empty.

    A run that was killed before its exit handler came to it is closed here.
    """
    run_folder.clear(run_key)
    result = RunResult.read(run_key)
    if result is None:
        from components.core.tracking.service import connection
        from components.finish import end

        for error in run_folder.read_errors(run_key).values():
            if not home_folder.store_is_ready():  # the DAG could not make it, on a full disk
                raise StepError(error["sentence"], error["hint"])
        try:
            connection.open_store()  # a server that went away is not waited for once more
        except NoAnswerError as silent:  # it was there when the run began
            raise OutageError(silent.sentence, silent.hint) from silent
        try:
            result = end(settings, run_key, endings.FAILED, reason)
        except KeyboardInterrupt:  # the result is there before the notification, which may take a minute
            result = RunResult.read(run_key)
            if result is None:
                raise
    if reason and result.status == "failed" and result.reason != reason:
        result = result.but(reason=reason)
        result.write(run_key)
    return result
