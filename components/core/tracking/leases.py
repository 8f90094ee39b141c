"""One run at a time for each model: `detect_changes` takes a lease in MLflow, which ends with the run.

A lease is a tag of the pipeline's run. MLflow has no lock, so on a server who wants one says so, waits until it must
see all others who want it, gives way to the smallest id, and looks once more after it has the lease: of two that took
it in the same moment the smaller id keeps it, and one whose own write was slow keeps it beside nobody. The files of one
machine are locked instead.

While a step works it shows a sign of life (`tag_names.ALIVE`); between two steps nothing does, and a pod may wait for
hours for a node. So whether a silent run is over is asked of its process where that is on this machine, of Kubeflow's
API where that answers, and only otherwise decided by its age. A run that is over is closed, and none of its steps
begins any more.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from components.core import run_folder
from components.core.errors import StepError
from components.core.storage import home_folder
from components.core.tracking import endings, kubeflow_runs, queries, runs, tag_names
from components.core.tracking.queries import Open
from components.core.tracking.service.connection import client
from components.core.tracking.service.server import is_server

WANTED = "wanted"
SETTLE_SECONDS, ELECTION_SECONDS = 1.0, 30.0
FRESH_SECONDS = 180.0  # three signs of life: younger ones say more than that Kubeflow does not know a run


def take(run: runs.StepRun) -> str:
    """Take the lease of the run's model, and close runs of it that were lost.

    Returns:
        Empty if this run has the lease now, else which run has it and since when.
    """
    if run.pipeline_tags().get(tag_names.LEASE) == tag_names.HELD:  # this step was started again
        return ""
    where = kubeflow_runs.mine(run.run_key)
    run.tags({tag_names.LEASE: WANTED, **({tag_names.CLUSTER: where} if where else {})}, pipeline=True)
    with _alone(run.settings.model):
        holder = _elected(run) if _is_shared() else next(iter(_holders(_living(run))), None)
        run.tags({tag_names.LEASE: tag_names.NONE if holder else tag_names.HELD}, pipeline=True)
    return _sentence(holder) if holder else ""


def in_progress(run: runs.StepRun) -> str:
    """Return which other run of the model has the lease and goes on, in a sentence, or nothing; changes nothing."""
    held = [other for other in _holders(_open(run)) if not _why_over(other, run)]
    return _sentence(held[0]) if held else ""


def hold(run: runs.StepRun) -> None:
    """See that a step works under the model's lease: one of a run that goes on after its end takes it again.

    Raises:
        StepError: Another run has it now.
    """
    pipeline = client().get_run(run.pipeline_id)
    going = pipeline.info.status == "RUNNING"
    if going and pipeline.data.tags.get(tag_names.LEASE, tag_names.HELD) == tag_names.HELD:
        return
    if not going:  # alive first: whoever sees that it goes on must not take it for silent
        run.tags({tag_names.LEASE: tag_names.NONE, tag_names.ALIVE: runs.sign_of_life()}, pipeline=True)
        if tag_names.FAILURE in pipeline.data.tags:
            client().delete_tag(run.pipeline_id, tag_names.FAILURE)
        client().update_run(run.pipeline_id, status="RUNNING")
    if run.name == "detect_changes":  # which takes the lease itself, and gives way in its own words
        return
    if other := take(run):
        client().set_terminated(run.pipeline_id, "FAILED")
        raise StepError(other, "Retry this one when that run has ended.")


@contextmanager
def _alone(model: str) -> Iterator[None]:
    if _is_shared():
        yield
        return
    with home_folder.locked(home_folder.home() / f"{model}.lease.lock"):
        yield


def _is_shared() -> bool:
    return is_server(home_folder.tracking_uri())


def _holders(others: list[Open]) -> list[Open]:
    return [other for other in others if other.tags.get(tag_names.LEASE) == tag_names.HELD]


def _elected(run: runs.StepRun) -> Open | None:
    """The run that has the lease, by whatever came between; None where this run has it."""
    waited = 0.0
    while True:
        time.sleep(SETTLE_SECONDS)
        waited += SETTLE_SECONDS
        before_asking = {other.id for other in _open(run)}
        dead = before_asking - {other.id for other in _living(run)}  # which may ask Kubeflow, and take its time
        begin = time.monotonic()
        others = [other for other in _open(run) if other.id not in dead]
        if held := _holders(others):
            return held[0]
        before = [other for other in others if other.tags.get(tag_names.LEASE) == WANTED and other.id < run.pipeline_id]
        if not before or waited > ELECTION_SECONDS:  # whoever wanted it was killed
            break
    run.tags({tag_names.LEASE: tag_names.HELD}, pipeline=True)
    slow = time.monotonic() - begin > SETTLE_SECONDS
    for _ in range(2 if slow else 1):  # a slow one looks again: the other may give way meanwhile
        time.sleep(SETTLE_SECONDS)
        held = _holders([other for other in _open(run) if other.id not in dead])
        if first := next((other for other in held if other.id < run.pipeline_id), None):
            return first
    return held[0] if slow and held else None


def _open(run: runs.StepRun) -> list[Open]:
    return [other for other in queries.open_pipeline_runs(run.settings.model) if other.id != run.pipeline_id]


def _living(run: runs.StepRun) -> list[Open]:
    """The model's other runs that go on; those that don't are closed."""
    found = []
    for other in _open(run):
        reason = _why_over(other, run)
        if not reason:
            found.append(other)
        elif tag_names.ADOPTED not in other.tags:  # Kubeflow's plugin ends its own
            # whatever Kubeflow calls it: a run that registered its version lost its exit handler only
            runs.close_lost(other, reason, failed=not endings.is_recorded(other.tags))
            run.note(f"The run {other.name} was closed: {reason}")
    return found


def _why_over(other: Open, run: runs.StepRun) -> str:
    """Why another run is over though MLflow says that it goes on; empty if it does."""
    tags, key = other.tags, other.tags.get(tag_names.RUN_KEY, "")
    said, _, process = tags.get(tag_names.ALIVE, "").partition(" ")
    silent = time.time() - (float(said) if said else other.begun)
    where = kubeflow_runs.mine(run.run_key)
    if where and tags.get(tag_names.CLUSTER) == where and (known := kubeflow_runs.state(key, run.run_key)):
        over = known.ended and (known.word or silent > FRESH_SECONDS)
        return f"It {known.reason}." if over else ""
    if "lives" in (driver := run_folder.driver(key), run_folder.fate(process)):
        return ""
    if driver == "gone":
        return "Its process ended without closing it."
    hours = run.settings.lost_after_hours
    return f"It showed no sign of life for {hours:g} hours." if silent > 3600 * hours else ""


def _sentence(holder: Open) -> str:
    since = datetime.fromtimestamp(holder.begun, UTC)
    return f"The run {holder.name} is in progress (since {since:%Y-%m-%d %H:%M} UTC)."
