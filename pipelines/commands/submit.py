"""`thawline submit`: run the DAG on Kubeflow, and wait for it."""

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from components.core.errors import ExpectedError, InputError, StepError
from components.core.run_result import RunResult, Status
from components.core.settings import Settings
from components.core.tracking import tag_names
from pipelines.commands.options import JsonOption, merge, model_name, read_config, use_home, with_settings
from pipelines.kubeflow import limits
from pipelines.kubeflow.client import (
    ENDED,
    HostOption,
    NamespaceOption,
    call,
    connect,
    experiment,
    page_of,
    too_old,
    upload,
)
from pipelines.kubeflow.ended import Ended, result_of
from pipelines.kubeflow.parameters import dag_of, parameters
from pipelines.kubeflow.pods import FINE_TUNING, SEARCHING_IN_PODS, Cluster, compile_dag, merge_cluster, with_cluster
from pipelines.kubeflow.progress import Progress

app = typer.Typer()
PIPELINE = "thawline"  # its name in Kubeflow; each change of the DAG or of its pods is a version
POLL = 5.0  # seconds between two looks at a run
PATIENCE = 60  # looks in a row without an answer after which waiting ends
GOES_ON = "The run goes on:"
ExperimentOption = Annotated[str, typer.Option(help="Experiment in Kubeflow; the model's name if not given.")]
ResultOption = Annotated[
    str | None,
    typer.Option(
        help="MLflow server as it is reached from here, to read the result of --wait (default: $MLFLOW_TRACKING_URI); "
        "the pods are given theirs by --env",
        show_default=False,
    ),
]
ConfigOption = Annotated[Path | None, typer.Option(help="YAML file with the same names; the command line wins.")]


class GoesOnError(StepError):
    """Waiting has ended before the run."""


class Plan(NamedTuple):
    """What is to run, checked as far as it can be from here."""

    settings: Settings
    cluster: Cluster
    parameters: dict[str, Any]


def plan(source: str, options: dict[str, Any], config: Path | None) -> Plan:
    """Check the options of a run on a cluster.

    Raises:
        InputError: A name or value is not allowed, or pods can't do it.
    """
    given = read_config(config) if config else {}
    cluster = merge_cluster(options, given)
    settings = merge({name: value for name, value in options.items() if name in Settings.model_fields}, config, source)
    return Plan(settings, cluster, parameters(source, settings, cluster))


def publish(
    client: Any,  # noqa: ANN401 - kfp is untyped
    cluster: Cluster,
    namespace: str,
    console: Console,
    dag: str = FINE_TUNING,
) -> dict[str, str]:
    """Compile a DAG and upload it unless Kubeflow has this version; its ids, as kfp's methods take them."""
    if "MLFLOW_TRACKING_URI" not in cluster.names():
        tell(
            console,
            "The pods are given no MLFLOW_TRACKING_URI: they need Kubeflow's MLflow plugin, "
            "or --env MLFLOW_TRACKING_URI=http://….",
        )
    name = PIPELINE if dag in (FINE_TUNING, SEARCHING_IN_PODS) else f"{PIPELINE}-{dag}"
    compiled = compile_dag(cluster, dag)
    pipeline, version, new = upload(client, name, namespace, compiled)
    tell(console, f"Pipeline    {name}-{compiled.digest[:16]}, {'uploaded' if new else 'as before'}")
    return {"pipeline_id": pipeline, "version_id": version}


@app.command(
    epilog="Example: thawline submit s3://photos/stamps --host https://kubeflow.example.com/pipeline "
    "--env MLFLOW_TRACKING_URI=http://mlflow.kubeflow:5000 --accelerators 1 --memory fine_tune=16Gi --wait"
)
@with_cluster
@with_settings
def submit(
    source: Annotated[str, typer.Argument(help="s3://bucket/prefix or a manifest there: what pods can read.")],
    *,
    host: HostOption = "",
    namespace: NamespaceOption = "",
    experiment_name: Annotated[str, typer.Option("--experiment", help="In Kubeflow; if not given the model's.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Show the steps, and end as the run does.")] = False,
    wait_minutes: Annotated[
        float, typer.Option(min=0, help="With --wait: end the waiting, not the run, after so long; 0: no limit.")
    ] = 0.0,
    tracking_uri: ResultOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **options: Any,  # noqa: ANN401 - one per setting and one per option of the pods, checked by pydantic
) -> None:
    """Run the whole pipeline on Kubeflow; uploads it first if it has changed."""
    console = Console(stderr=True)
    facts: dict[str, Any] = {}
    ended = Ended(RunResult(status="submitted"))
    try:
        planned = plan(source, options, config)
        named = _named(planned.settings.model, experiment_name)
        if wait:
            _open_tracking(tracking_uri)
        elif wait_minutes:
            raise InputError("--wait-minutes says how long to wait, but nothing is waited for.", "Give --wait too.")
        client = connect(host, namespace)
        warn(client, console)
        ids = publish(client, planned.cluster, namespace, console, dag_of(planned.parameters))
        run_key = _start(client, planned, namespace, named, ids)
        facts = {"run_key": run_key, "kubeflow_run_id": run_key, "kubeflow": page_of(client, "runs", run_key), **ids}
        tell(console, f"Run         {facts['kubeflow']}")
        ended = Ended(RunResult(status="submitted", model=planned.settings.model))
        if wait:
            watched = (client, run_key, facts["kubeflow"], console, steps_of(planned.parameters))
            run = follow(*watched, namespace=namespace, minutes=wait_minutes)
            ended = result_of(planned.settings.model, run_key, run)
    except ExpectedError as error:
        if as_json:
            status: Status = "running" if isinstance(error, GoesOnError) else "failed"
            known = RunResult(status=status, reason=str(error), model=str(options.get("model") or model_name(source)))
            sys.stdout.write(json.dumps({**known.model_dump(), **facts}) + "\n")
        raise
    _report(console, ended, facts, as_json=as_json)


def _named(model: str, experiment_name: str) -> tuple[str, str]:
    """The names of the experiment and of the run.

    Raises:
        InputError: Kubeflow keeps no such long one.
    """
    named = experiment_name or model, f"{model} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    limits.check(experiment=named[0], run=named[1])
    return named


def _start(client: Any, planned: Plan, namespace: str, named: tuple[str, str], ids: dict[str, str]) -> str:  # noqa: ANN401 - as above
    """Start a run of an uploaded version; its id, which its steps go by, and those of a clone by the clone's."""
    run = call(
        client,
        "run_pipeline",
        experiment_id=experiment(client, named[0], namespace),
        job_name=named[1],
        params=planned.parameters,
        service_account=planned.cluster.service_account or None,
        **ids,
    )
    return str(run.run_id)


def _open_tracking(tracking_uri: str | None) -> None:
    """Find out before anything runs whether its result can be read here.

    Raises:
        InputError: The MLflow server that was named can't be reached, or refuses.
    """
    if tracking_uri is not None or os.environ.get("MLFLOW_TRACKING_URI"):
        use_home(None, tracking_uri)
        from components.core.tracking import connection

        connection.open_store()


def warn(client: Any, console: Console) -> None:  # noqa: ANN401 - as above
    """A line about a server that is older than what Thawline is known to work with."""
    text = too_old(client)
    if text:
        tell(console, text)


def tell(console: Console, text: str) -> None:
    """A line for the reader, unbroken."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def steps_of(given: dict[str, Any]) -> list[str]:
    """The steps that a run with these parameters shows: one pod that searches also selects the trial."""
    from pipelines import display

    return [step for step in display.STEPS if step != "select_trial" or dag_of(given) == SEARCHING_IN_PODS]


def follow(
    client: Any,  # noqa: ANN401 - as above
    run_id: str,
    link: str,
    console: Console,
    steps: Sequence[str],
    *,
    namespace: str = "",
    minutes: float = 0.0,
) -> Any:  # noqa: ANN401 - kfp_server_api's run
    """Show the steps until the run has ended; what Kubeflow says of it then.

    Raises:
        GoesOnError: Waiting was interrupted, or took `minutes`; 0: no limit.
        StepError: Kubeflow does not answer any more.
    """
    from pipelines import display

    pods = f"pods -l pipeline/runid={run_id},workflows.argoproj.io/completed=false"
    progress = Progress(steps, f"kubectl -n {namespace or 'kubeflow'} describe {pods}")
    failures, end = 0, time.monotonic() + 60 * minutes if minutes else math.inf
    try:
        with display.shown(console, steps) as shown:
            while True:
                try:
                    run = call(client, "get_run", run_id=run_id)
                    failures = 0
                    for event in progress.events(run):
                        shown.take(event)
                    if run.state in ENDED:
                        return run
                except StepError as error:
                    failures += 1
                    if failures >= PATIENCE:
                        raise StepError(error.sentence, f"{error.hint} {GOES_ON} {link}") from None
                if time.monotonic() >= end:
                    raise GoesOnError(f"The run has not ended within {minutes:g} minutes.", f"{GOES_ON} {link}")
                time.sleep(max(0.0, min(POLL, end - time.monotonic())))
    except KeyboardInterrupt:
        raise GoesOnError("Waiting was interrupted.", f"{GOES_ON} {link}") from None


def _report(console: Console, ended: Ended, facts: dict[str, Any], *, as_json: bool) -> None:
    """Print the result; a bad one ends the command with its reason.

    Raises:
        InputError: The input is at fault.
        StepError: The run failed otherwise, or was terminated.
    """
    result = ended.result
    bad = result.status in ("failed", "terminated")
    if as_json:
        sys.stdout.write(json.dumps({**result.model_dump(), "mlflow": ended.page, **facts}) + "\n")
    elif not bad:
        _print(console, ended, facts)
    if bad:
        error = InputError if ended.kind == "input" else StepError
        raise error(result.reason, f"See {ended.page or facts['kubeflow']} .")


def _print(console: Console, ended: Ended, facts: dict[str, Any]) -> None:
    result = ended.result
    if result.status == "submitted":
        tell(console, f"Run key     {facts['run_key']} (tag {tag_names.RUN_KEY} in MLflow)")
        return
    lines = {"Status": result.status, "Why": result.reason, "Tracking": ended.page}
    if result.version:
        lines["Registered"] = f"{result.model} version {result.version}"
    for name, text in lines.items():
        if text:
            tell(console, f"{name:<11} {text}")
