"""The checks of a canary run in the pods; its findings go through MLflow, like those of every run."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from components.core.errors import ExpectedError, StepError
from components.core.settings import Settings
from components.core.storage import home_folder, s3
from components.core.tracking import endings, queries, runs, tag_names
from components.core.tracking.service import connection

MODEL = "thawline-canary"  # its experiment in MLflow
FOUND = "canary."  # begins the tags that hold the findings
NOTE = "a note"  # in each file that a step passes to later ones


def look(run_key: str, secrets: str, source: str) -> tuple[bool, bool]:
    """The first step: is what the pod was promised there?

    Args:
        run_key: Finds the canary's run.
        secrets: Names that have to be in the environment, with commas between.
        source: An S3 address that has to hold something; empty: S3 is not looked at.

    Returns:
        True and False, for a branch that has to run and one that must not.
    """
    problem = _settle()
    with _step("look", run_key) as run:
        own = "ok" if os.environ.get("THAWLINE_RUN_KEY") else "the pods have no label pipeline/runid"
        _found(run, "key", own)
        missing = [name for name in secrets.split(",") if name and not os.environ.get(name)]
        _found(run, "secrets", f"missing: {', '.join(missing)}" if missing else "ok")
        _marker(run_key).write_text(run_key)
        _found(run, "written", problem or "ok")
        if source:
            _found(run, "s3", _listed(source))
    return True, False


def look_again(run_key: str, note: Path) -> None:
    """In the branch that has to run: does a pod of its own find what the first step wrote? Writes the loop's file."""
    _settle()
    with _step("look_again", run_key) as run:
        _found(run, "condition", "ok")
        _found(run, "shared", "ok" if _marker(run_key).exists() else "the file of the first step is not there")
        _marker(run_key).unlink(missing_ok=True)
        note.write_text(NOTE)


def stay_out(run_key: str) -> None:
    """In the branch that must not run."""
    _settle()
    with _step("stay_out", run_key) as run:
        _found(run, "stayed", "no")


def count(run_key: str, number: int, note: Path) -> str:
    """In the loop: keeps how its item and the file arrived, and returns the item as text."""
    _settle()
    with _step("count", run_key) as run:
        _found(run, f"number.{number}", type(number).__name__ + ("" if _is_there(note) else " without the file"))
    return str(number)


def gather(run_key: str, numbers: Sequence[float], counted: Sequence[str], note: Path) -> str:
    """After the loop: did each item arrive as an integer, with the file, and is the list of results complete?

    Args:
        run_key: Finds the canary's run.
        numbers: What the loop went over; Kubeflow gives elements of a list no type.
        counted: What `count` returned for each.
        note: Where a file for the next step goes.
    """
    _settle()
    with _step("gather", run_key) as run:
        items, tags = [str(int(number)) for number in numbers], run.pipeline_tags()
        kinds = {item: tags.get(f"{FOUND}number.{item}", "not at all") for item in items}
        wrong = [f"{item} arrived {kind if kind == 'not at all' else f'as {kind}'}" for item, kind in kinds.items()]
        _found(run, "loop", "ok" if set(kinds.values()) == {"int"} else ", ".join(wrong))
        complete = sorted(counted) == sorted(items)
        _found(run, "collected", "ok" if complete else f"{list(counted)} instead of {items}")
        note.write_text(NOTE)
    return NOTE


def receive(run_key: str, text: str, note: Path) -> None:
    """After the inner pipeline: have its parameter and its file come out of it?"""
    _settle()
    with _step("receive", run_key) as run:
        lost = [] if text == NOTE else [f"the parameter is {text!r}"]
        lost += [] if _is_there(note) else ["the file is not there"]
        _found(run, "inner", ", ".join(lost) or "ok")


def fail_once(run_key: str) -> None:
    """The last step: fails at its first attempt, so that a second one shows that Kubeflow starts it again.

    Raises:
        StepError: It is the first attempt.
    """
    _settle()
    with _step("fail_once", run_key) as run:
        tags = run.pipeline_tags()
        _found(run, "skipped", "its step ran" if f"{FOUND}stayed" in tags else "ok")
        attempt = int(tags.get(f"{FOUND}attempts", "0")) + 1  # an index that Kubeflow counts begins anew with a branch
        _found(run, "attempts", str(attempt))
        if attempt == 1:
            raise StepError("The canary's last step fails once on purpose.", "No action is needed.")
        _found(run, "last", "ok")


def tell(run_key: str, word: str) -> None:
    """The exit handler: closes the canary's runs as the shared rule reads Kubeflow's word, and keeps both."""
    failed = endings.failed(word, recorded="last" in findings(run_key))
    runs.close_running(MODEL, run_key, failed=failed)
    for pipeline in queries.find_runs(MODEL, run_key, "pipeline"):
        for promise, text in (("exit", word), ("closed", "failed" if failed else "succeeded")):
            connection.client().set_tag(pipeline.info.run_id, f"{FOUND}{promise}", text)


def findings(run_key: str) -> dict[str, str]:
    """Return the findings of a canary by check; empty if it left none."""
    found = queries.find_runs(MODEL, run_key, "pipeline")
    tags = found[0].data.tags if found else {}
    return {name.removeprefix(FOUND): text for name, text in tags.items() if name.startswith(FOUND)}


@contextmanager
def _step(name: str, run_key: str) -> Iterator[runs.StepRun]:
    with runs.step(name, run_key, Settings.model_validate({"model": MODEL}).to_json()) as run:
        yield run


def _marker(run_key: str) -> Path:
    return home_folder.home() / "canary" / run_key


def _is_there(note: Path) -> bool:
    return note.exists() and note.read_text() == NOTE


def _settle() -> str:
    """Why the home can't be written to, which then is a folder of this pod's own; empty where it can.

    A step writes there before anything else, so all other findings would be lost.
    """
    folder = home_folder.home() / "canary"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        os.environ["THAWLINE_HOME"] = tempfile.mkdtemp()
        (home_folder.home() / "canary").mkdir()
        return f"{folder}: {error.strerror}"


def _found(run: runs.StepRun, promise: str, text: str) -> None:
    run.tags({f"{FOUND}{promise}": text[: tag_names.TAG_LENGTH]}, pipeline=True)


def _listed(source: str) -> str:
    try:
        first = next(iter(s3.list_objects(source)), None)
    except ExpectedError as error:
        return str(error)
    return "ok" if first else f"nothing is at {source}"
