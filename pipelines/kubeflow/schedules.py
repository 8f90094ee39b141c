"""Schedules as Kubeflow's recurring runs, which can be enabled, disabled and deleted, but not edited.

A change makes a new recurring run, disabled, and `settle` does the rest: disable the old one, enable the new one,
delete the old one. What is left to do can be told from what Kubeflow holds, so a kill anywhere is mended by the next
`settle`.
Deleting a recurring run ends its runs in progress (up to Kubeflow 2.15 always), so an old one waits, disabled, until
they have ended.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from components.core.errors import StepError
from pipelines.kubeflow import cron, limits
from pipelines.kubeflow.client import ENDED, RefusalError, call, delete_recurring_run, equals, every

PARAMETER = "schedule"  # of the DAG; no step reads it, and Kubeflow keeps 255 characters of a description
EARLIER = 5  # former recurring runs of a schedule that are remembered for their last run
CLOCKS = timedelta(hours=3)  # more than clocks are ever put back or forward
RECENT = 20  # runs of a recurring run that are looked at; at most one at a time is in progress
Say = Callable[[str], None]


@dataclass(frozen=True)
class Facts:
    """The state of a schedule in its recurring run's parameter; Kubeflow stores it unchanged."""

    name: str
    cron: str  # five or six fields, as they were given, in `time_zone`
    time_zone: str
    source: str
    settings: Mapping[str, Any]  # those that are not the defaults
    pods: Mapping[str, Any]  # as above
    cluster_time_zone: str = "UTC"
    revision: int = 1
    enabled: bool = True  # what it is to be once it has replaced the one before
    catch_up: bool = False
    earlier: tuple[str, ...] = field(default=())  # ids of those before, newest first

    def title(self) -> str:
        """The recurring run's name."""
        return f"{self.name} r{self.revision}"

    def sentence(self) -> str:
        """For Kubeflow's page."""
        return limits.cut(f"Thawline trains by {self.cron} in {self.time_zone} from {self.source}")


@dataclass(frozen=True)
class Schedule:
    """A recurring run of Kubeflow's that is a schedule of ours."""

    id: str
    facts: Facts
    enabled: bool
    cluster_cron: str
    begin: datetime  # it is not due before
    experiment_id: str
    pipeline_id: str
    version_id: str
    parameters: Mapping[str, Any]
    service_account: str

    def next_due(self, now: datetime) -> datetime | None:
        """Return when Kubeflow starts it next, in UTC; None while it is disabled."""
        there = cron.zone(self.facts.cluster_time_zone)
        return cron.due(self.cluster_cron, there, max(now, self.begin)) if self.enabled else None


def read(recurring: Any) -> Schedule | None:  # noqa: ANN401 - kfp_server_api's
    """A recurring run as a schedule; None if it is not one of Thawline's."""
    config = recurring.runtime_config
    parameters = dict((config and config.parameters) or {})
    facts = _facts(parameters.pop(PARAMETER, None))
    if facts is None:
        return None
    reference = recurring.pipeline_version_reference
    return Schedule(
        id=str(recurring.recurring_run_id),
        facts=facts,
        enabled=recurring.mode == "ENABLE",
        cluster_cron=str(recurring.trigger.cron_schedule.cron),
        begin=recurring.trigger.cron_schedule.start_time,
        experiment_id=str(recurring.experiment_id),
        pipeline_id=str(reference.pipeline_id),
        version_id=str(reference.pipeline_version_id),
        parameters=parameters,
        service_account=str(recurring.service_account or ""),
    )


def _facts(text: Any) -> Facts | None:  # noqa: ANN401 - the value of any pipeline's parameter of that name
    """Read the parameter; None if it is not ours."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return None
    known = {one.name: one.default is MISSING and one.default_factory is MISSING for one in fields(Facts)}
    if not isinstance(found, dict) or {name for name, needed in known.items() if needed} - found.keys():
        return None
    kept = {name: value for name, value in found.items() if name in known}  # a newer Thawline may say more
    return Facts(**{**kept, "earlier": tuple(kept.get("earlier", ()))})


def held(client: Any, namespace: str) -> dict[str, list[Schedule]]:  # noqa: ANN401 - kfp is untyped
    """All schedules by name, each with the recurring runs that Kubeflow holds for it, newest first."""
    found: dict[str, list[Schedule]] = {}
    listed = every(client, "list_recurring_runs", "recurring_runs", namespace=namespace or None)
    for schedule in filter(None, map(read, sorted(listed, key=lambda one: one.created_at))):
        found.setdefault(schedule.facts.name, []).append(schedule)
    return {name: sorted(group, key=lambda one: -one.facts.revision) for name, group in sorted(found.items())}


def create(client: Any, schedule: Schedule, *, enabled: bool) -> None:  # noqa: ANN401 - as above
    """Make the recurring run that `schedule` describes; its id is Kubeflow's to give.

    Raises:
        StepError: Kubeflow refused it, which may have left something behind that fires.
    """
    facts = schedule.facts
    try:
        call(
            client,
            "create_recurring_run",
            experiment_id=schedule.experiment_id,
            job_name=facts.title(),
            description=facts.sentence(),
            cron_expression=schedule.cluster_cron,
            start_time=schedule.begin.strftime("%Y-%m-%dT%H:%M:%SZ"),
            max_concurrency=1,
            no_catchup=not facts.catch_up,
            params={**schedule.parameters, PARAMETER: json.dumps(asdict(facts), sort_keys=True)},
            pipeline_id=schedule.pipeline_id,
            version_id=schedule.version_id,
            enabled=enabled,
            service_account=schedule.service_account or None,
        )
    except RefusalError as error:
        if error.status < 500:  # noqa: PLR2004 - a fault of the server
            raise
        hint = (
            "It may be running anyway, without appearing in any list: check `kubectl get scheduledworkflows` "
            "in its namespace."
        )
        raise StepError(error.sentence, hint) from None


def succeed(client: Any, namespace: str, old: Schedule, new: Schedule, say: Say) -> Schedule:  # noqa: ANN401 - as above
    """Put `new` in the place of `old`."""
    create(client, _following(old, new), enabled=False)
    found = settle(client, namespace, say)[new.facts.name]
    for text in waiting(client, namespace, found):
        say(text)
    return found


def waiting(client: Any, namespace: str, schedule: Schedule) -> list[str]:  # noqa: ANN401 - as above
    """A sentence for each former revision that a run in progress keeps."""
    name = schedule.facts.name
    revisions = [old.facts.revision for old in held(client, namespace).get(name, [])[1:]]
    return [f"{name}: a run of its former revision {number} is in progress and continues." for number in revisions]


def settle(client: Any, namespace: str, say: Say) -> dict[str, Schedule]:  # noqa: ANN401 - as above
    """Do what changes have left to do, and move what daylight saving has moved; the schedules by name."""
    for group in held(client, namespace).values():
        _finish(client, namespace, group)
    for name, (newest, *_) in held(client, namespace).items():
        later = timed(newest, datetime.now(UTC))
        if newest.enabled and later.cluster_cron != newest.cluster_cron and _same_time(newest, later):
            say(
                f"{name}: {later.cluster_cron} in {newest.facts.cluster_time_zone} from now on, because the "
                "clocks change."
            )
            create(client, _following(newest, later), enabled=False)
            _finish(client, namespace, held(client, namespace)[name])
    return {name: newest for name, (newest, *_) in held(client, namespace).items()}


def timed(schedule: Schedule, now: datetime) -> Schedule:
    """The schedule with the times that Kubeflow has to keep for what is due next after `now`."""
    facts = schedule.facts
    wanted, home = cron.six_fields(facts.cron), cron.zone(facts.time_zone)
    moved = cron.moved(wanted, home, cron.zone(facts.cluster_time_zone), now)
    return replace(schedule, cluster_cron=moved, begin=cron.begin(wanted, home, now))


def _same_time(held_now: Schedule, later: Schedule) -> bool:
    """Return whether Kubeflow's next time is the one to move, and not one that is already late."""
    due = held_now.next_due(datetime.now(UTC))
    return due is not None and due > later.begin - CLOCKS


def _following(old: Schedule, new: Schedule) -> Schedule:
    """`new` as the revision after `old`."""
    earlier = (old.id, *old.facts.earlier)[:EARLIER]
    return replace(new, facts=replace(new.facts, revision=old.facts.revision + 1, earlier=earlier))


def _finish(client: Any, namespace: str, group: list[Schedule]) -> None:  # noqa: ANN401 - as above
    """Let the newest take the place of all others: at no time are two enabled."""
    newest, *others = group
    for old in others:
        if old.enabled:
            call(client, "disable_recurring_run", recurring_run_id=old.id)
    if others and newest.facts.enabled and not newest.enabled:
        call(client, "enable_recurring_run", recurring_run_id=newest.id)
    for old in others:
        if not in_progress(client, namespace, old):
            delete_recurring_run(client, old.id)


def runs_of(client: Any, namespace: str, identity: str) -> list[Any]:  # noqa: ANN401 - as above
    """The latest runs of a recurring run, newest first."""
    by = equals("recurring_run_id", identity)
    page = call(
        client, "list_runs", namespace=namespace or None, page_size=RECENT, sort_by="created_at desc", filter=by
    )
    return list(page.runs or [])


def in_progress(client: Any, namespace: str, schedule: Schedule) -> bool:  # noqa: ANN401 - as above
    """Return whether one of its runs has not ended."""
    return any(run.state not in ENDED for run in runs_of(client, namespace, schedule.id))


def last_run(client: Any, namespace: str, schedule: Schedule) -> Any | None:  # noqa: ANN401 - as above
    """The latest run of a schedule, of a former revision too; None if there was none."""
    found: Iterator[Any] = (
        run for identity in (schedule.id, *schedule.facts.earlier) for run in runs_of(client, namespace, identity)
    )
    return next(found, None)


def pause(client: Any, namespace: str, schedule: Schedule, say: Say) -> Schedule:  # noqa: ANN401 - as above
    """Disable it; while a former revision waits for its run, by a new revision.

    Otherwise it would look like a change that was killed before it enabled its new recurring run.
    """
    if len(held(client, namespace)[schedule.facts.name]) > 1:
        paused = replace(schedule, facts=replace(schedule.facts, enabled=False))
        return succeed(client, namespace, schedule, paused, say)
    call(client, "disable_recurring_run", recurring_run_id=schedule.id)
    return replace(schedule, enabled=False)


def resume(client: Any, schedule: Schedule) -> Schedule:  # noqa: ANN401 - as above
    """Enable it."""
    call(client, "enable_recurring_run", recurring_run_id=schedule.id)
    return replace(schedule, enabled=True)
