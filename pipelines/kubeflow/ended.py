"""The outcome of a run on Kubeflow: Kubeflow's status, and the result that its steps wrote into MLflow."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from components.core.errors import InputError
from components.core.run_result import RunResult, Status
from components.core.tracking import endings
from pipelines.kubeflow.client import TERMINATED, word_of


class Ended(NamedTuple):
    """The outcome of a run, as far as it is known here."""

    result: RunResult
    page: str = ""  # in MLflow
    kind: str = "failure"  # of its error; `input` where the input is at fault


def result_of(model: str, run_key: str, run: Any) -> Ended:  # noqa: ANN401 - kfp_server_api's run
    """The run's result, as `thawline run` gives it.

    It is read from MLflow where MLFLOW_TRACKING_URI says here where that is, and it answers; otherwise only Kubeflow's
    word is known, and the run and the page that Kubeflow's plugin for MLflow names.
    """
    word, plugin = word_of(run), _plugin(run)
    failed = endings.failed(str(run.state), recorded=True)
    status: Status = "terminated" if word == TERMINATED else "failed" if failed else "succeeded"
    reason = f"Kubeflow says that the run ended as {word.lower()}."
    reason = "The run was terminated on Kubeflow." if word == TERMINATED else reason
    page = plugin.get("run_url", "")
    known = RunResult(status=status, reason=reason, model=model, mlflow_run_id=plugin.get("root_run_id", ""))
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return Ended(known, page)
    from components.core.tracking import queries
    from components.core.tracking.service import connection

    try:
        with connection.explained(), _experiment(plugin.get("experiment_id", "")):
            result, kind = _recorded(model, run_key, str(run.state), reason if word == TERMINATED else "")
            result = result.but(status=status, reason=reason) if word == TERMINATED else result
            found = queries.page(result.mlflow_run_id) if result.mlflow_run_id else ""
            return Ended(result, found or page, kind)
    except InputError as error:  # the run has ended, whatever has become of the server meanwhile
        return Ended(known.but(reason=f"{reason} {error}"), page)


def _plugin(run: Any) -> dict[str, str]:  # noqa: ANN401 - as above
    """Read what Kubeflow's plugin for MLflow says of the run that it made there; empty without the plugin."""
    output = (run.plugins_output or {}).get("mlflow")
    return {name: str(entry.value or "") for name, entry in ((output and output.entries) or {}).items()}


@contextmanager
def _experiment(identity: str) -> Iterator[None]:
    """Read where the plugin let the steps write, whatever experiment this shell is in; nothing changes without it."""
    name = "MLFLOW_EXPERIMENT_ID"
    before = os.environ.get(name)
    if identity:
        os.environ[name] = identity
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _recorded(model: str, run_key: str, state: str, terminated: str) -> tuple[RunResult, str]:
    from components import finish
    from components.core.tracking import queries, runs, tag_names

    for run in queries.open_pipeline_runs(model) if terminated else []:  # no exit handler has closed it
        if run.tags[tag_names.RUN_KEY] == run_key and tag_names.ADOPTED not in run.tags:
            runs.close_lost(run, terminated)
    result = finish.result_of(model, run_key, state)
    steps = finish.unmended(list(reversed(queries.find_runs(model, run_key, "step"))))
    of_input = any(step.data.tags.get(tag_names.ERROR, "").startswith("input: ") for step in steps)
    return result, "input" if of_input else "failure"
