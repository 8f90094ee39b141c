"""One run at a time for each model: `detect_changes` takes a lease in MLflow, which ends with the run.

A lease is a tag of the pipeline's run. MLflow has no lock, so on a server who wants one says so, waits until it must
see all others who want it, and gives way to the smallest id; whoever holds it is seen by all who come later. The files
of one machine are locked instead.

While a step works it shows a sign of life (`tracking.ALIVE`); between two steps nothing does, and a pod may wait for
hours for a node. So whether a silent run is over is asked of its process where that is on this machine, of Kubeflow's
API where that answers, and only otherwise decided by its age.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from filelock import FileLock

from components.core import kubeflow_runs, runs, tracking
from components.core.tracking import Open
from components.core.tracking_server import is_server

LEASE = "thawline.lease"  # tag of the pipeline's run: wanted, held, or none
CLUSTER = "thawline.cluster"  # tag of the pipeline's run: the Kubeflow whose id of the run is its key
WANTED, HELD, NONE = "wanted", "held", "none"
SETTLE_SECONDS, ELECTION_SECONDS = 1.0, 30.0


def take(run: tracking.StepRun) -> str:
    """Take the lease of the run's model, and close runs of it that were lost.

    Returns:
        Empty if this run has the lease now, else which run has it and since when.
    """
    if run.pipeline_tags().get(LEASE) == HELD:  # this step was started again
        return ""
    where = kubeflow_runs.mine(run.run_key)
    run.tags({LEASE: WANTED, **({CLUSTER: where} if where else {})}, pipeline=True)
    with _alone(run.settings.model):
        holder = _holder(run)
        run.tags({LEASE: NONE if holder else HELD}, pipeline=True)
        if holder is None and _is_shared():
            holder = _overtaken(run)
    return _sentence(holder) if holder else ""


@contextmanager
def _alone(model: str) -> Iterator[None]:
    if _is_shared():
        yield
        return
    with FileLock(runs.home() / f"{model}.lease.lock"):
        yield


def _is_shared() -> bool:
    return is_server(runs.tracking_uri())


def _holder(run: tracking.StepRun) -> Open | None:
    """The run that has the lease; None once nobody has it, and nobody who wants it comes before this run."""
    deadline = time.monotonic() + ELECTION_SECONDS
    while True:
        if _is_shared():
            time.sleep(SETTLE_SECONDS)
        others = _others(run)
        held = [other for other in others if other.tags.get(LEASE) == HELD]
        if held:
            return held[0]
        before = [one for one in others if one.tags.get(LEASE) == WANTED and one.id < run.pipeline_id]
        if not before or not _is_shared() or time.monotonic() > deadline:  # whoever wanted it was killed
            return None


def _overtaken(run: tracking.StepRun) -> Open | None:
    """Give the lease back where another run took it in the same moment; of two the one with the smaller id keeps it."""
    time.sleep(SETTLE_SECONDS)
    held = [other for other in _others(run) if other.tags.get(LEASE) == HELD]
    if any(other.id < run.pipeline_id for other in held):
        run.tags({LEASE: NONE}, pipeline=True)
        return held[0]
    return None


def _others(run: tracking.StepRun) -> list[Open]:
    """The model's other runs that go on; those that don't are closed."""
    found = []
    for other in tracking.open_pipeline_runs(run.settings.model):
        if other.id == run.pipeline_id:
            continue
        reason = _why_over(other, run)
        if not reason:
            found.append(other)
        elif tracking.ADOPTED not in other.tags:  # Kubeflow's plugin ends its own
            tracking.close_lost(other, reason)
            run.note(f"The run {other.name} was closed: {reason}")
    return found


def _why_over(other: Open, run: tracking.StepRun) -> str:
    """Why another run is over though MLflow says that it goes on; empty if it goes on."""
    tags, key = other.tags, other.tags.get(tracking.RUN_KEY, "")
    where = kubeflow_runs.mine(run.run_key)
    if where and tags.get(CLUSTER) == where and (known := kubeflow_runs.state(key)):
        return f"It {known.reason}." if known.ended else ""
    said, _, process = tags.get(tracking.ALIVE, "").partition(" ")
    if runs.driver(key) == "gone" and runs.fate(process) != "lives":
        return "Its process ended without closing it."
    silent = time.time() - (float(said) if said else other.begun)
    hours = run.settings.lost_after_hours
    return f"It showed no sign of life for {hours:g} hours." if silent > 3600 * hours else ""


def _sentence(holder: Open) -> str:
    since = datetime.fromtimestamp(holder.begun, UTC)
    return f"The run {holder.name} is in progress since {since:%Y-%m-%d %H:%M} UTC."
