"""Deadlines of training, which stops with the best so far: a budget from the run's start, and one for each step.

Evaluation and registration keep a part of the run's budget, so the rest is the time to train. The search stops at 70%
of it and the head phase at 85%; a step that ends early leaves its time to the next one.
"""

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from components.core.contract.listener import Deadline
from components.core.machine import torchrun
from components.core.settings import Settings
from components.core.tracking import tag_names

if TYPE_CHECKING:
    from components.core.tracking.runs import StepRun

SHARES = {"search": 0.7, "train_head": 0.85, "fine_tune": 1.0}  # of the time to train, by whose end a step stops
RESERVED_SHARE = 0.15  # of the budget, that evaluation and registration have at least
MAX_RESERVED_SHARE = 0.5  # however long they took the last time
SPARE_FACTOR = 1.2  # their time of the last run, and some more: data grow
GRACE_SECONDS = 300.0  # seconds beyond a limit after which one machine takes a step for hung


def of(run: "StepRun") -> Deadline:
    """Return when this step has to stop training: by the run's budget or its own, whichever comes first.

    A helper has none: the first process's deadline holds for all.
    """
    if torchrun.is_helper():
        return Deadline()
    settings, found = run.settings, [Deadline()]
    if settings.max_minutes:
        begin, end = time_to_train(run)
        at = begin + SHARES[run.name] * (end - begin)
        found.append(Deadline(at, f"its share of --max-minutes {settings.max_minutes:g}"))
    if settings.step_max_minutes:
        own = time.time() + 60 * settings.step_max_minutes
        found.append(Deadline(own, f"--step-max-minutes {settings.step_max_minutes:g}"))
    return min(found, key=lambda deadline: deadline.at)


def time_to_train(run: "StepRun") -> tuple[float, float]:
    """The run's start, and when all training has to have ended: never without a budget.

    The start of a run that went on is later by the time in which nothing worked on it.
    """
    from components.core.tracking import queries

    budget = 60 * run.settings.max_minutes
    begin = queries.started(run.pipeline_id) + float(run.pipeline_tags().get(tag_names.IDLE, "0"))
    return begin, begin + budget - _reserve(run.settings.model, budget) if budget else math.inf


def _reserve(model: str, budget: float) -> float:
    """Seconds for what follows training: as long as it took in the last successful run, within bounds."""
    from components.core.tracking import queries

    last = SPARE_FACTOR * queries.seconds_from("evaluate", model)
    return min(max(RESERVED_SHARE * budget, last), MAX_RESERVED_SHARE * budget)


def cut(run: "StepRun", what: str) -> None:
    """Record that a step stopped early, as a note and as a tag of the pipeline's run.

    Args:
        run: The step, whose deadline was reached.
        what: What ended where, as `The search stopped after 3 of 20 trials`.
    """
    sentence = f"{what}: {run.deadline.name} was used up."
    run.note(sentence)
    run.tags({f"{tag_names.CUT}{run.name}": sentence}, pipeline=True)


def note(run: "StepRun", work: str, done: int, total: int) -> None:
    """Record after a training that it stopped early, if the step's deadline was reached; see `cut`."""
    if run.deadline.hit:
        cut(run, f"{work} stopped after {done} of {total} epochs")


def cuts(tags: Mapping[str, str]) -> str:
    """Return sentences on what stopped early in a pipeline's run, from its tags; empty if nothing did."""
    return " ".join(tags[f"{tag_names.CUT}{step}"] for step in SHARES if f"{tag_names.CUT}{step}" in tags)


def patience(limit: float) -> float:
    """Seconds after which a limit of so many seconds was not kept, so that what runs hangs."""
    return limit + max(GRACE_SECONDS, limit / 4)


def overdue(settings: Settings, seconds: float, running: Mapping[str, float]) -> str:
    """Why a run on this machine has to be ended by force; empty while it has time.

    Args:
        settings: Of the run.
        seconds: Since its start.
        running: Seconds since the start of each step that runs.
    """
    limit = 60 * settings.max_minutes
    if limit and seconds > patience(limit):
        return (
            f"The run did not end within --max-minutes {settings.max_minutes:g} plus a grace period, so it was stopped."
        )
    limit = 60 * settings.step_max_minutes
    for step, spent in running.items():
        if limit and spent > patience(limit):
            option = f"--step-max-minutes {settings.step_max_minutes:g}"
            return f"The step {step} did not end within {option} plus a grace period, so the run was stopped."
    return ""
