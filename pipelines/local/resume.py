"""Find the run that a command stands for: a new one, or an earlier one that was cut short and goes on.

A run goes on if it is the last one of its model, nothing works on it any more, it did not succeed, and it began with
the same source, settings, code, weights and libraries. The data that it has prepared are those of the source. What its
steps left is checked by each of them (`components/core/tracking/step_records.py`). In doubt a new run begins; `--fresh`
asks for one.
"""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from components.core import run_folder
from components.core.digests import canonical_json
from components.core.run_result import RunResult
from components.core.settings import Settings
from components.core.storage import home_folder
from components.core.tracking import provenance
from components.detect_changes import DECISION, holds_same_data
from pipelines.local.expected_times import change

OPEN = ("RUNNING", "FAILED")  # in MLflow: killed; failed or interrupted
BEGIN = "begin.json"  # in a run's folder: what it began with


class Begun(NamedTuple):
    """The run that a command drives; its folder has the lease."""

    run_key: str
    offset: int = 0  # in its events, behind those of its earlier processes
    before: str = ""  # what became of it before, for people; empty for a new run


def begin(source: str, settings: Settings, *, fresh: bool) -> Begun:
    """Take up the run that goes on, or begin a new one.

    Raises:
        InputError: There is a run that might go on, but the source can't be listed, or MLflow refuses the login.
        UnavailableError: The home can't be written to.
    """
    with home_folder.locked(
        home_folder.home() / f"{settings.model}.begin.lock"
    ):  # two commands must not take up one run
        facts = _facts(source, settings)
        key = "" if fresh else _to_go_on(source, settings, facts)
        if key:
            return _take_up(key)
        run_folder.clear_all()  # a run that was killed behind its result is not taken up
        key = run_folder.new_run_key()
        folder = run_folder.run_folder(key)
        home_folder.write_text(folder / "settings.json", settings.to_json())
        home_folder.write_text(folder / BEGIN, facts)
        run_folder.take_lease(key)
        return Begun(key)


def foresee(source: str, settings: Settings) -> Begun | None:
    """Return the run that the command would go on with, without taking it up; None for a new one.

    Raises:
        InputError: As `begin` does.
    """
    key = _to_go_on(source, settings, _facts(source, settings))
    return _begun(key) if key else None


def _facts(source: str, settings: Settings) -> str:
    """Return what a run begins with, apart from the data, as text."""
    return canonical_json({"source": source, "settings": settings.to_json(), "parts": provenance.parts(settings)})


def _to_go_on(source: str, settings: Settings, facts: str) -> str:
    """The key of the run that goes on; empty without one."""
    for folder, result in _of_model(settings.model):
        if result and result.status == "skipped":
            continue
        decided = change(folder) == "train" or not (folder / DECISION).exists()
        same = run_folder.read_facts(folder / BEGIN) == json.loads(facts) and decided
        ended = run_folder.driver(folder.name) != "lives" and (not result or result.status == "failed")
        goes_on = same and ended and _may_go_on(settings.model, folder)
        return folder.name if goes_on and holds_same_data(source, settings, folder.name) else ""
    return ""


def _of_model(model: str) -> Iterator[tuple[Path, RunResult | None]]:
    """Folders of a model's runs with their results, newest first."""
    for folder in sorted((home_folder.home() / "runs").glob("*/settings.json"), reverse=True):
        if run_folder.read_facts(folder).get("model") == model:
            yield folder.parent, RunResult.read(folder.parent.name)


def _may_go_on(model: str, folder: Path) -> bool:
    """Return whether the run is the model's last one in MLflow, and no other run took it for lost.

    The process of a run that began before this machine started, or in another container, can't be seen: its signs of
    life tell of it.
    """
    if not home_folder.store_is_ready():
        return False
    from components.core.tracking import leases, queries, tag_names
    from components.core.tracking.service import connection  # mlflow costs seconds

    with connection.explained():
        connection.open_store()  # once: MLflow's client would ask a server that is away for minutes
        last = queries.last_working_run(model)
    if last is None or last.data.tags[tag_names.RUN_KEY] != folder.name or last.info.status not in OPEN:
        return False
    silent = time.time() - float(last.data.tags.get(tag_names.ALIVE, "0").partition(" ")[0])
    seen = run_folder.driver(folder.name) == "gone"
    return seen or ((folder / run_folder.LEASE).exists() and silent > leases.FRESH_SECONDS)


def _take_up(run_key: str) -> Begun:
    begun, folder = _begun(run_key), run_folder.run_folder(run_key)
    run_folder.clear(run_key)  # before the lease: it has the folder of what is left
    run_folder.take_lease(run_key)
    (folder / run_folder.RESULT).unlink(missing_ok=True)
    for step in run_folder.read_errors(run_key):
        run_folder.forget_error(run_key, step)
    return begun


def _begun(run_key: str) -> Begun:
    """A run by its events, with what became of it."""
    ended, begun, offset = "", 0.0, 0
    for event, offset in run_folder.events(run_key):  # noqa: B007 - the last one is kept
        begun = begun or event["time"]
        ended = event["step"]
    if not ended:  # its events are lost
        return Begun(run_key, offset, f"the run {run_key}")
    at = datetime.fromtimestamp(begun).astimezone()
    day = "" if at.date() == datetime.now().astimezone().date() else f"{at:%Y-%m-%d} "
    return Begun(run_key, offset, f"the run of {day}{at:%H:%M}, which ended in {ended}")
