"""`thawline submit`: run the DAG on Kubeflow, and wait for it."""

import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from components.core import runs
from components.core.errors import ExpectedError, InputError, StepError
from components.core.settings import Settings
from pipelines.cluster import STEPS, Cluster, compile_dag, merge_cluster, with_cluster
from pipelines.kubeflow import ENDED, HostOption, NamespaceOption, call, connect, experiment, page_of, upload
from pipelines.options import JsonOption, merge, model_name, read_config, use_home, with_settings
from pipelines.parameters import parameters

app = typer.Typer()
PIPELINE = "thawline"  # its name in Kubeflow; each change of the DAG or of its pods is a version
POLL = 5.0  # seconds between two looks at a run
PATIENCE = 60  # looks in a row without an answer after which waiting ends
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
    dag: str = "fine_tuning",
) -> dict[str, str]:
    """Compile a DAG and upload it unless Kubeflow has this version; its ids, as kfp's methods take them."""
    if "MLFLOW_TRACKING_URI" not in cluster.names():
        tell(
            console,
            "The pods are given no MLFLOW_TRACKING_URI: they need Kubeflow's MLflow plugin, "
            "or --env MLFLOW_TRACKING_URI=http://….",
        )
    name = PIPELINE if dag == "fine_tuning" else f"{PIPELINE}-{dag}"
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
    tracking_uri: ResultOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **options: Any,  # noqa: ANN401 - one per setting and one per option of the pods, checked by pydantic
) -> None:
    """Run the whole pipeline on Kubeflow; uploads it first if it has changed."""
    console = Console(stderr=True)
    try:
        planned = plan(source, options, config)
        if wait:
            _open_tracking(tracking_uri)
        client = connect(host, namespace)
        ids = publish(client, planned.cluster, namespace, console)
        run = call(
            client,
            "run_pipeline",
            experiment_id=experiment(client, experiment_name or planned.settings.model, namespace),
            job_name=f"{planned.settings.model} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
            params=planned.parameters,
            service_account=planned.cluster.service_account or None,
            **ids,
        )
        run_key = str(run.run_id)  # what its steps go by, and those of a clone by the clone's
        link = page_of(client, "runs", run_key)
        tell(console, f"Run         {link}")
        state = watch(client, run_key, link, console) if wait else ""
        result, kind = _outcome(planned.settings.model, run_key, state)
    except ExpectedError as error:
        if as_json:
            model = str(options.get("model") or model_name(source))
            sys.stdout.write(json.dumps({**runs.NOTHING, "reason": str(error), "model": model}) + "\n")
        raise
    facts = {"run_key": run_key, "kubeflow_run_id": run_key, "kubeflow": link, "mlflow": _page(result)}
    if as_json:
        sys.stdout.write(json.dumps({**result, **facts, **ids}) + "\n")
    elif result["status"] != "failed":
        _print(console, {**result, **facts})
    if result["status"] == "failed":
        raise (InputError if kind == "input" else StepError)(result["reason"], f"See {facts['mlflow'] or link} .")


def _open_tracking(tracking_uri: str | None) -> None:
    """Find out before anything runs whether its result can be read here.

    Raises:
        InputError: The MLflow server that was named can't be reached, or refuses.
    """
    if tracking_uri is not None or os.environ.get("MLFLOW_TRACKING_URI"):
        use_home(None, tracking_uri)
        from components.core import tracking

        tracking.open_store()


def tell(console: Console, text: str) -> None:
    """A line for the reader, unbroken."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def watch(client: Any, run_id: str, link: str, console: Console, steps: Sequence[str] = STEPS) -> str:  # noqa: ANN401 - as above
    """Show the steps until the run has ended; its state."""
    from pipelines import display

    failures = 0
    told: dict[str, str] = {}
    try:
        with display.shown(console, display.STEPS if steps is STEPS else steps) as shown:
            while True:
                try:
                    run = call(client, "get_run", run_id=run_id)
                    failures = 0
                except StepError:
                    failures += 1
                    if failures >= PATIENCE:
                        raise
                    time.sleep(POLL)
                    continue
                for event in events(run, told, steps):
                    shown.take(event)
                if run.state in ENDED:
                    return str(run.state)
                time.sleep(POLL)
    except KeyboardInterrupt:
        raise StepError("Waiting was interrupted.", f"The run goes on: {link}") from None


def events(run: Any, told: dict[str, str], steps: Sequence[str] = STEPS) -> list[dict[str, Any]]:  # noqa: ANN401 - kfp_server_api's run
    """What has happened to the steps since `told`, which keeps the last state of each, as the display takes it.

    A step may stand for several tasks: one for each search worker, and for each branch of the DAG.
    """
    tasks: dict[str, list[Any]] = {}
    for task in (run.run_details and run.run_details.task_details) or []:
        name = _step(str(task.display_name or ""), steps)
        if name and task.start_time:
            tasks.setdefault(name, []).append(task)
    found = []
    for name, parts in tasks.items():
        states = {part.state for part in parts}
        begin = min(part.start_time.timestamp() for part in parts)
        ends = [part.end_time.timestamp() for part in parts if part.end_time]
        over = len(ends) == len(parts) and states <= {*ENDED, None}
        state = "failed" if over and "FAILED" in states else "finished" if over else "started"
        if over and states == {"SKIPPED"}:
            continue
        if name not in told:
            found.append({"step": name, "event": "started", "time": begin})
        if over and told.get(name) != state:
            found.append({"step": name, "event": state, "time": max(ends)})
        told[name] = state
    return sorted(found, key=lambda event: float(event["time"]))


def _step(display_name: str, steps: Sequence[str]) -> str:
    """The step that a task of Kubeflow is; empty for drivers, branches and loops."""
    name = display_name.replace("-", "_")
    stem, _, number = name.rpartition("_")
    name = stem if number.isdecimal() and stem in steps else name
    return name if name in steps else ""


def _outcome(model: str, run_key: str, state: str) -> tuple[dict[str, Any], str]:
    """The run's result, as `thawline run` gives it, and the kind of its error.

    It is read from MLflow where MLFLOW_TRACKING_URI says here where that is, and it answers; otherwise only Kubeflow's
    word is known.
    """
    if not state:
        return {**runs.NOTHING, "status": "submitted", "model": model}, ""
    failed = state != "SUCCEEDED"
    reason = f"Kubeflow says that the run ended as {state.lower()}."
    known = {**runs.NOTHING, "status": "failed" if failed else "succeeded", "model": model, "reason": reason}
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return known, "failure"
    from components.core import tracking

    try:
        with tracking.explained():
            return _recorded(model, run_key, failed=failed)
    except InputError as error:  # the run has ended, whatever has become of the server meanwhile
        return {**known, "reason": f"{reason} {error}"}, "failure"


def _recorded(model: str, run_key: str, *, failed: bool) -> tuple[dict[str, Any], str]:
    from components.core import tracking
    from components.finish import result_of, unmended

    result = result_of(model, run_key, failed=failed)
    steps = unmended(list(reversed(tracking.find_runs(model, run_key, "step"))))
    of_input = any(step.data.tags.get(tracking.ERROR, "").startswith("input: ") for step in steps)
    return result, "input" if of_input else "failure"


def _page(result: dict[str, Any]) -> str:
    """Address of the run's page in MLflow; empty while it is not known."""
    if not result["mlflow_run_id"]:
        return ""
    from components.core import tracking

    return tracking.page(result["mlflow_run_id"])


def _print(console: Console, result: dict[str, Any]) -> None:
    if result["status"] == "submitted":
        tell(console, f"Run key     {result['run_key']} (tag thawline.run_key in MLflow)")
        return
    lines = {"Status": result["status"], "Why": result["reason"], "Tracking": result["mlflow"]}
    if result["version"]:
        lines["Registered"] = f"{result['model']} version {result['version']}"
    for name, text in lines.items():
        if text:
            tell(console, f"{name:<11} {text}")
