"""`thawline submit`: run the DAG on Kubeflow, and wait for it."""

import json
import os
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from components.core.errors import ExpectedError, InputError, StepError
from components.core.run_result import RunResult, Status
from components.core.tracking import tag_names
from pipelines.commands.options import (
    ConfigOption,
    HostOption,
    JsonOption,
    NamespaceOption,
    merge_run,
    model_name,
    use_home,
    with_cluster,
    with_settings,
)
from pipelines.kubeflow import limits
from pipelines.kubeflow.client import connect, page_of
from pipelines.kubeflow.ended import Ended, result_of
from pipelines.kubeflow.parameters import dag_of
from pipelines.kubeflow.submission import GoesOnError, follow, plan, publish, start, steps_of, tell, warn

app = typer.Typer()
ResultOption = Annotated[
    str | None,
    typer.Option(
        help="MLflow server at its address from this machine, to read the result of --wait (default: "
        "$MLFLOW_TRACKING_URI); the pods get theirs with --env",
        show_default=False,
    ),
]


@app.command(
    epilog="Example: thawline submit s3://photos/stamps --host https://kubeflow.example.com/pipeline "
    "--env MLFLOW_TRACKING_URI=http://mlflow.kubeflow:5000 --accelerators 1 --memory fine_tune=16Gi --wait"
)
@with_cluster
@with_settings
def submit(
    source: Annotated[str, typer.Argument(help="s3://bucket/prefix, or a manifest there, that the pods can read.")],
    *,
    host: HostOption = "",
    namespace: NamespaceOption = "",
    experiment_name: Annotated[
        str, typer.Option("--experiment", help="Experiment in Kubeflow (default: the model's name).")
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Show the steps, and exit with the run's status.")] = False,
    wait_minutes: Annotated[
        float,
        typer.Option(min=0, help="With --wait: stop waiting, but not the run, after this many minutes; 0: no limit."),
    ] = 0.0,
    tracking_uri: ResultOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **options: Any,  # noqa: ANN401 - one per setting and one per option of the pods, checked by pydantic
) -> None:
    """Run the whole pipeline on Kubeflow; upload it first if it has changed."""
    console = Console(stderr=True)
    facts: dict[str, Any] = {}
    ended = Ended(RunResult(status="submitted"))
    try:
        planned = plan(source, *merge_run(options, config, source))
        named = _named(planned.settings.model, experiment_name)
        if wait:
            _open_tracking(tracking_uri)
        elif wait_minutes:
            raise InputError("--wait-minutes has no effect without --wait.", "Add --wait.")
        client = connect(host, namespace)
        warn(client, console)
        ids = publish(client, planned.cluster, namespace, console, dag_of(planned.parameters))
        run_key = start(client, planned, namespace, named, ids)
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


def _open_tracking(tracking_uri: str | None) -> None:
    """Find out before anything runs whether its result can be read here.

    Raises:
        InputError: The MLflow server that was named can't be reached, or refuses.
    """
    if tracking_uri is not None or os.environ.get("MLFLOW_TRACKING_URI"):
        use_home(None, tracking_uri)
        from components.core.tracking.service import connection

        connection.open_store()


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
