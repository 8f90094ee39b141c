"""The outcome of a model's runs, for monitors; only reads, and never creates an experiment."""

from dataclasses import dataclass
from typing import Any, Literal

from components.core import run_folder
from components.core.registry import ledger, versions
from components.core.tracking import canary, metric_groups, queries, tag_names
from components.core.training import deadlines

Status = Literal["succeeded", "skipped", "failed", "terminated", "running", "none"]


@dataclass(frozen=True)
class Outcome:
    """A model's last run that has ended, its last one that did well, and who is champion; times in Unix seconds."""

    model: str
    status: Status = "none"  # of the last run that has ended; running where the first one has not
    reason: str = ""
    run_id: str = ""
    started: float = 0.0
    ended: float = 0.0
    running: bool = False  # whether a run is under way, or was killed elsewhere and not closed yet
    succeeded: float = 0.0  # end of the last run that succeeded or was skipped; 0: never
    seconds: float = 0.0  # of work in the last run that has ended
    cut: bool = False  # whether a deadline cut that one short
    champion: str = ""
    pending: str = ""
    accuracy: float | None = None  # of the champion, when it was evaluated; None where it gives no classes
    metric: str = ""  # what its target names first
    value: float | None = None  # of the metric

    def age(self, now: float) -> float | None:
        """Seconds since the last run that did well; None if there is none."""
        return now - self.succeeded if self.succeeded else None

    def stale(self, now: float, allowed: float) -> bool:
        """Return whether the last good run is longer ago than `allowed` seconds."""
        age = self.age(now)
        return age is None or age > allowed


def models() -> list[str]:
    """Names of all models that have a version or a run; the canary of `thawline doctor --cluster` is none."""
    named = {str(facts["name"]) for facts in versions.models()} | queries.models_with_runs()
    return sorted(named - {canary.MODEL})


GONE = "Its process is gone. The same command resumes the run."


def _is_gone(run: Any) -> bool:  # noqa: ANN401 - mlflow publishes no types
    """Return whether a run was killed on this machine, and nothing has closed it yet."""
    return run.info.status == "RUNNING" and run_folder.driver(run.data.tags.get(tag_names.RUN_KEY, "")) == "gone"


def _status(run: Any) -> Status:  # noqa: ANN401 - as above
    if run.info.status == "KILLED" or _is_gone(run):
        return "terminated"
    if run.info.status != "FINISHED":
        return "failed"
    return "skipped" if run.data.tags.get(tag_names.SKIPPED) == "true" else "succeeded"


def of(model: str) -> Outcome:
    """Return the outcome of the model's last runs; `none` if there are none.

    Runs that made way for another one are left out: that one says how the model fares.
    """
    aliases = versions.aliases(model)
    champion = aliases.get(ledger.CHAMPION, "")
    facts: dict[str, Any] = {"champion": champion, "pending": aliases.get(ledger.PENDING, "")}
    if champion:
        metric, value = versions.figure(versions.tags(model, champion))
        facts |= {"metric": metric, "value": value, "accuracy": value if metric == "accuracy" else None}
    running = queries.last_pipeline_run(model, "attributes.status = 'RUNNING'")
    good = queries.last_pipeline_run(model, "attributes.status = 'FINISHED'")
    last = queries.last_pipeline_run(model, "attributes.status != 'RUNNING'")
    if running and _is_gone(running) and (last is None or running.info.start_time > last.info.start_time):
        running, last = None, running
    if good:
        facts["succeeded"] = good.info.end_time / 1000
    newest = last or running
    if newest is None:
        return Outcome(model, **facts)
    tags = newest.data.tags
    failed = newest.info.status != "FINISHED"
    status: Status = "running" if last is None else _status(newest)
    return Outcome(
        model,
        status=status,
        reason=GONE if _is_gone(newest) else tags.get(tag_names.FAILURE if failed else tag_names.DECISION, ""),
        run_id=newest.info.run_id,
        started=newest.info.start_time / 1000,
        ended=(newest.info.end_time or 0) / 1000,
        running=bool(running and (last is None or running.info.start_time > last.info.start_time)),
        seconds=metric_groups.seconds(newest.data.metrics) or 0.0,
        cut=bool(deadlines.cuts(tags)),
        **facts,
    )
