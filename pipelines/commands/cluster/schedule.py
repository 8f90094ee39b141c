"""`thawline schedule`: recurring runs on Kubeflow, made, listed, paused and changed."""

import json
import re
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from components.core.errors import InputError
from components.core.machine.times import minute
from pipelines.commands.options import (
    ConfigOption,
    HostOption,
    JsonOption,
    NamespaceOption,
    merge_run,
    with_cluster,
    with_settings,
)
from pipelines.commands.tables import table
from pipelines.kubeflow import cron, limits, schedules
from pipelines.kubeflow.client import connect, delete_recurring_run, experiment, page_of, word_of
from pipelines.kubeflow.parameters import dag_of
from pipelines.kubeflow.pods import Cluster
from pipelines.kubeflow.schedules import Facts, Schedule
from pipelines.kubeflow.submission import plan, publish, tell, warn
from pipelines.terminal.config_file import read_config

app = typer.Typer(help="Run the pipeline on Kubeflow on a schedule.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="The schedule's name.")]
CronOption = Annotated[str, typer.Option(help="Five fields, or six with seconds first, such as '0 2 * * 1'.")]
ZoneOption = Annotated[str, typer.Option(help="IANA name of the time zone of --cron.")]
ClusterZoneOption = Annotated[
    str, typer.Option(help="Time zone of Kubeflow's controller (its CRON_SCHEDULE_TIMEZONE; UTC if not set).")
]
CatchUpOption = Annotated[bool, typer.Option(help="Run once for each missed time, not once for all of them.")]
_COLUMNS = ("schedule", "cron", "zone", "state", "last run", "ended (UTC)", "next")
Anything = Any  # kfp is untyped


@app.command(
    epilog="Example: thawline schedule create weekly s3://photos/stamps --cron '0 2 * * 1' --time-zone Europe/Berlin"
)
@with_cluster
@with_settings
def create(
    name: NameArgument,
    source: Annotated[str, typer.Argument(help="s3://bucket/prefix, or a manifest there, that the pods can read.")],
    *,
    cron_text: Annotated[str, typer.Option("--cron", help="Five fields, or six with seconds first.")],
    time_zone: ZoneOption = "UTC",
    cluster_time_zone: ClusterZoneOption = "UTC",
    catch_up: CatchUpOption = False,
    paused: Annotated[bool, typer.Option("--paused", help="Create it paused; it runs after `resume`.")] = False,
    experiment_name: Annotated[
        str, typer.Option("--experiment", help="Experiment in Kubeflow (default: the model's name).")
    ] = "",
    host: HostOption = "",
    namespace: NamespaceOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **options: Any,  # noqa: ANN401 - one per setting and one per option of the pods, checked by pydantic
) -> None:
    """Create a schedule. Its runs skip training while nothing has changed, unless --force is set."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?", name):
        raise InputError(f"{name!r} is not a valid name of a schedule.", "Use lowercase letters, digits and dashes.")
    given = {**(read_config(config) if config else {}), **_given(options)}
    facts = Facts(
        name=name,
        cron=cron_text,
        time_zone=time_zone,
        source=source,
        settings={n: v for n, v in given.items() if n not in Cluster.model_fields},
        pods={n: v for n, v in given.items() if n in Cluster.model_fields},
        cluster_time_zone=cluster_time_zone,
        enabled=not paused,
        catch_up=catch_up,
    )
    draft = _draft(facts)
    named = experiment_name or str(draft.facts.settings["model"])
    limits.check(experiment=named)
    console = Console(stderr=True)
    client = connect(host, namespace)
    warn(client, console)
    if name in schedules.settle(client, namespace, lambda text: tell(console, text)):
        raise InputError(f"The schedule {name!r} already exists.", f"Change it with `thawline schedule change {name}`.")
    made = _published(client, namespace, draft, console)
    made = replace(made, experiment_id=experiment(client, named, namespace))
    schedules.create(client, made, enabled=not paused)
    _print(client, namespace, _found(client, namespace, name, console), as_json=as_json)


@app.command("list", epilog="Example: thawline schedule list --json | jq '.schedules[].last.state'")
def list_(*, host: HostOption = "", namespace: NamespaceOption = "", as_json: JsonOption = False) -> None:
    """List all schedules with their last outcome and their next time."""
    console, client = Console(stderr=True), connect(host, namespace)
    found = schedules.settle(client, namespace, lambda text: tell(console, text))
    described = [_described(client, namespace, schedule) for schedule in found.values()]
    if as_json:
        sys.stdout.write(json.dumps({"schedules": described}) + "\n")
        return
    rows = [
        (
            one["name"],
            one["cron"],
            one["time_zone"],
            "on" if one["enabled"] else "paused",
            one["last"]["state"] if one["last"] else "none yet",
            minute(one["last"]["finished"] if one["last"] else ""),
            minute(one["next_local"]),
        )
        for one in described
    ]
    sys.stdout.write("\n".join(table(_COLUMNS, rows) or ["There are no schedules yet."]) + "\n")


@app.command(epilog="Example: thawline schedule show weekly")
def show(
    name: NameArgument, *, host: HostOption = "", namespace: NamespaceOption = "", as_json: JsonOption = False
) -> None:
    """Show a schedule: when, what, with which options, and how its last run ended."""
    console, client = Console(stderr=True), connect(host, namespace)
    schedule = _found(client, namespace, name, console)
    for text in schedules.waiting(client, namespace, schedule):
        tell(console, text)
    _print(client, namespace, schedule, as_json=as_json)


@app.command(epilog="Example: thawline schedule pause weekly")
def pause(
    name: NameArgument, *, host: HostOption = "", namespace: NamespaceOption = "", as_json: JsonOption = False
) -> None:
    """Start no further runs; a run in progress continues."""
    console, client = Console(stderr=True), connect(host, namespace)
    schedule = _found(client, namespace, name, console)
    if schedule.enabled:
        schedule = schedules.pause(client, namespace, schedule, lambda text: tell(console, text))
    _print(client, namespace, schedule, as_json=as_json)


@app.command(epilog="Example: thawline schedule resume weekly")
def resume(
    name: NameArgument, *, host: HostOption = "", namespace: NamespaceOption = "", as_json: JsonOption = False
) -> None:
    """Start runs again; Kubeflow makes up for the last missed time at once."""
    console, client = Console(stderr=True), connect(host, namespace)
    schedule = _found(client, namespace, name, console)
    if not schedule.enabled:
        schedules.resume(client, schedule)
        schedule = _found(client, namespace, name, console)  # the clocks may have changed meanwhile
    _print(client, namespace, schedule, as_json=as_json)


@app.command(epilog="Example: thawline schedule change weekly --cron '0 3 * * 1' --trials 40 --memory fine_tune=16Gi")
@with_cluster
@with_settings
def change(
    name: NameArgument,
    *,
    source: Annotated[str, typer.Option(help="Another source.")] = "",
    cron_text: Annotated[str, typer.Option("--cron", help="Other times.")] = "",
    time_zone: Annotated[str, typer.Option(help="Another time zone.")] = "",
    cluster_time_zone: Annotated[str, typer.Option(help="Another zone of Kubeflow's controller.")] = "",
    host: HostOption = "",
    namespace: NamespaceOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **options: Any,  # noqa: ANN401 - as for create
) -> None:
    """Change the given options, and switch to this version of the DAG; a run in progress continues unchanged."""
    console, client = Console(stderr=True), connect(host, namespace)
    warn(client, console)
    old = _found(client, namespace, name, console)
    given = {**(read_config(config) if config else {}), **_given(options)}
    facts = replace(
        old.facts,
        source=source or old.facts.source,
        cron=cron_text or old.facts.cron,
        time_zone=time_zone or old.facts.time_zone,
        cluster_time_zone=cluster_time_zone or old.facts.cluster_time_zone,
        settings={**old.facts.settings, **{n: v for n, v in given.items() if n not in Cluster.model_fields}},
        pods={**old.facts.pods, **{n: v for n, v in given.items() if n in Cluster.model_fields}},
        enabled=old.enabled,
    )
    draft = replace(_published(client, namespace, _draft(facts), console), experiment_id=old.experiment_id)
    new = schedules.succeed(client, namespace, old, draft, lambda text: tell(console, text))
    _print(client, namespace, new, as_json=as_json)


@app.command(epilog="Example: thawline schedule delete weekly")
def delete(
    name: NameArgument, *, host: HostOption = "", namespace: NamespaceOption = "", as_json: JsonOption = False
) -> None:
    """Delete a schedule that has no run in progress; its runs and models stay."""
    console, client = Console(stderr=True), connect(host, namespace)
    _found(client, namespace, name, console)
    group = schedules.held(client, namespace)[name]
    busy = next((one for one in group if schedules.in_progress(client, namespace, one)), None)
    if busy:
        raise InputError(
            f"The schedule {name!r} has a run in progress, which Kubeflow might end with it.",
            f"Pause it with `thawline schedule pause {name}`, and delete it when the run has ended.",
        )
    for one in reversed(group):  # the newest last: killed before that, it is a schedule still
        delete_recurring_run(client, one.id)
    if as_json:
        sys.stdout.write(json.dumps({"name": name, "deleted": True}) + "\n")
    else:
        sys.stdout.write(f"{name} is deleted\n")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value not in (None, [])}


def _draft(facts: Facts) -> Schedule:
    """A schedule that Kubeflow does not know yet, checked as far as it can be from here.

    Raises:
        InputError: Something in it is not allowed.
    """
    planned = plan(facts.source, *merge_run({**facts.settings, **facts.pods}, None, facts.source))
    kept = {"model": planned.settings.model}, {"image": planned.cluster.image}  # whatever a later change's shell has
    now = datetime.now(UTC)
    draft = Schedule(
        id="",
        facts=replace(facts, settings={**facts.settings, **kept[0]}, pods={**facts.pods, **kept[1]}),
        enabled=facts.enabled,
        cluster_cron="",
        begin=now,
        experiment_id="",
        pipeline_id="",
        version_id="",
        parameters=planned.parameters,
        service_account=planned.cluster.service_account,
    )
    timed = schedules.timed(draft, now)
    limits.check(recurring_run=facts.title(), cron=timed.cluster_cron)
    return timed


def _published(client: Anything, namespace: str, draft: Schedule, console: Console) -> Schedule:
    """The draft with the ids of its pipeline in Kubeflow, uploaded where it is not there."""
    ids = publish(client, Cluster.model_validate(draft.facts.pods), namespace, console, dag_of(draft.parameters))
    return replace(draft, pipeline_id=ids["pipeline_id"], version_id=ids["version_id"])


def _found(client: Anything, namespace: str, name: str, console: Console) -> Schedule:
    """The schedule of that name, after what a kill has left is done.

    Raises:
        InputError: There is none.
    """
    found = schedules.settle(client, namespace, lambda text: tell(console, text))
    if name not in found:
        raise InputError(f"There is no schedule {name!r}.", f"Existing schedules: {', '.join(found) or 'none'}.")
    return found[name]


def _described(client: Anything, namespace: str, schedule: Schedule) -> dict[str, Any]:
    """A schedule as JSON: what it is, its last run and its next time."""
    due = schedule.next_due(datetime.now(UTC))
    run = schedules.last_run(client, namespace, schedule)
    local = due.astimezone(cron.zone(schedule.facts.time_zone)) if due else None
    facts = asdict(schedule.facts)
    kept = {key: facts[key] for key in ("name", "cron", "time_zone", "source", "settings", "pods", "revision")}
    return {
        **kept,
        "model": facts["settings"]["model"],
        "enabled": schedule.enabled,
        "next": due.isoformat() if due else "",
        "next_local": local.isoformat() if local else "",
        "last": _run(client, run) if run else None,
        "kubeflow": page_of(client, "recurringrun", schedule.id),
    }


def _run(client: Anything, run: Anything) -> dict[str, str]:
    ended = run.finished_at.isoformat() if run.finished_at and run.finished_at.year > 1970 else ""  # noqa: PLR2004 - Go's zero time
    return {
        "state": word_of(run).lower(),
        "started": run.created_at.isoformat() if run.created_at else "",
        "finished": ended,
        "kubeflow": page_of(client, "runs", run.run_id),
    }


def _print(client: Anything, namespace: str, schedule: Schedule, *, as_json: bool) -> None:
    described = _described(client, namespace, schedule)
    if as_json:
        sys.stdout.write(json.dumps(described) + "\n")
        return
    last = described["last"]
    lines = {
        "Schedule": f"{described['name']}, {'on' if schedule.enabled else 'paused'}, revision {described['revision']}",
        "Times": f"{described['cron']} in {described['time_zone']}",
        "Next": described["next_local"] or "none while it is paused",
        "Last": f"{last['state']} {last['finished'] or last['started']} {last['kubeflow']}" if last else "none yet",
        "Source": described["source"],
        "Model": described["model"],
        "Options": " ".join(f"{n}={v}" for n, v in {**described["settings"], **described["pods"]}.items()),
        "Kubeflow": described["kubeflow"],
    }
    sys.stdout.write("".join(f"{name:<9} {text}\n" for name, text in lines.items() if text))
