"""Publish the DAG on Kubeflow, start a run of it, and follow the run."""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console

from components.core.errors import StepError
from components.core.settings import Settings
from pipelines.kubeflow.client import ENDED, call, experiment, too_old, upload
from pipelines.kubeflow.parameters import dag_of, parameters
from pipelines.kubeflow.pods import FINE_TUNING, SEARCHING_IN_PODS, WITHOUT_SEARCH, Cluster, compile_dag
from pipelines.kubeflow.progress import Progress
from pipelines.terminal.option_checks import check_names

PIPELINE = "thawline"  # its name in Kubeflow; each change of the DAG or of its pods is a version
POLL = 5.0  # seconds between two looks at a run
PATIENCE = 60  # looks in a row without an answer after which waiting ends
GOES_ON = "The run continues:"


class GoesOnError(StepError):
    """Waiting has ended before the run."""


class Plan(NamedTuple):
    """A run to submit, checked as far as possible from here."""

    settings: Settings
    cluster: Cluster
    parameters: dict[str, Any]


def plan(source: str, settings: Settings, cluster: Cluster) -> Plan:
    """Check a run on a cluster, as far as that can be done from here.

    Raises:
        InputError: Pods can't do what is asked for.
    """
    check_names(settings, here=False)
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
            "The pods have no MLFLOW_TRACKING_URI: they need Kubeflow's MLflow plugin, or --env "
            "MLFLOW_TRACKING_URI=http://….",
        )
    name = PIPELINE if dag.startswith(FINE_TUNING) else f"{PIPELINE}-{dag}"
    compiled = compile_dag(cluster, dag)
    pipeline, version, new = upload(client, name, namespace, compiled)
    tell(console, f"Pipeline    {name}-{compiled.digest[:16]}, {'uploaded' if new else 'as before'}")
    return {"pipeline_id": pipeline, "version_id": version}


def start(client: Any, planned: Plan, namespace: str, named: tuple[str, str], ids: dict[str, str]) -> str:  # noqa: ANN401 - as above
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
    from pipelines.terminal import display

    dag = dag_of(given)
    found = display.steps_of(0 if dag == WITHOUT_SEARCH else 1)
    return [step for step in found if step != "select_trial" or dag == SEARCHING_IN_PODS]


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
    from pipelines.terminal import display

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
