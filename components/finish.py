"""The exit handler: close what is still open in MLflow, write the result that scripts read, and tell a webhook."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from components.core import run_folder
from components.core.registry import descriptions
from components.core.reporting import costs, notification
from components.core.run_result import RunResult
from components.core.settings import Settings
from components.core.tracking import endings, metric_groups, queries, runs, tag_names
from components.core.tracking.service import connection, retries
from components.core.training import deadlines


@retries.patient
def finish(settings: str, run_key: str, state: str) -> RunResult:
    """Close the runs of this pipeline run, and of runs whose process is gone; write and return the result.

    Args:
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.
        state: What Kubeflow calls the pipeline's state; it decides only together with what MLflow knows (`endings`).
    """
    if run_folder.read_errors(run_key):  # a server that a step has waited for in vain is not waited for once more
        connection.open_store()
    return end(Settings.from_json(settings), run_key, state)


def end(settings: Settings, run_key: str, state: str, reason: str = "") -> RunResult:
    """`finish`, also of a run that was ended from outside for a `reason` that its steps don't know."""
    with connection.explained():
        for abandoned in run_folder.abandoned_runs():
            _close(abandoned)
        run_folder.delete_old()
        result = result_of(settings.model, run_key, state)
        if result.status == "failed" and reason:
            result = result.but(reason=reason)
        result = result.but(cost=_record(settings, run_key, result))
    result.write(run_key)
    descriptions.describe(result, notification.title(result), run_key)
    notification.notify(settings, run_key, result)
    run_folder.emit(run_key, "finish", "finished", figure=result.status)
    return result


def _close(run_key: str) -> None:
    run_folder.clear(run_key)
    # only the model's name is needed, and settings of an older version may have other names
    model = run_folder.read_facts(run_folder.run_folder(run_key) / "settings.json").get("model")
    result = RunResult(status="failed", reason=endings.UNFINISHED)
    if model:  # else the file is damaged
        pipelines = queries.find_runs(model, run_key, "pipeline")
        ended = any(run.info.status == "FINISHED" for run in pipelines)  # killed after that, before its result
        result = result_of(model, run_key, endings.SUCCEEDED if ended else endings.FAILED)
    result.write(run_key)


def result_of(model: str, run_key: str, state: str) -> RunResult:
    """Close what is still open of a pipeline run, and read its result from MLflow; what the run cost is not known."""
    pipeline = next(iter(queries.find_runs(model, run_key, "pipeline")), None)
    tags = pipeline.data.tags if pipeline else {}
    lost = tags.get(tag_names.FAILURE, "") if pipeline and pipeline.info.status == "KILLED" else ""
    failed = bool(lost) or endings.failed(state, recorded=endings.is_recorded(tags))
    runs.close_running(model, run_key, failed=failed)
    steps = list(reversed(queries.find_runs(model, run_key, "step")))
    skipped = not failed and tags.get(tag_names.SKIPPED) == "true"
    same_as = tags.get(tag_names.SAME_AS, "") if skipped else ""
    # a run that made way for another one stands for none
    made = pipeline if not skipped else connection.client().get_run(same_as) if same_as else None
    facts = made.data.tags if made else {}
    cut = deadlines.cuts(tags)
    decision = " ".join(filter(None, [tags.get(tag_names.DECISION, ""), cut]))
    return RunResult(
        status="failed" if failed else "skipped" if skipped else "succeeded",
        reason=lost or (_failure(run_key, steps) if failed else decision),
        model=model,
        version=facts.get(tag_names.VERSION, ""),
        promoted=tags.get(tag_names.PROMOTED) == "true",
        pending=tags.get(tag_names.PENDING, ""),
        compared_with=facts.get(tag_names.COMPARED_WITH, ""),
        metric=facts.get(tag_names.METRIC, ""),
        metrics=metric_groups.of_result(made.data.metrics) if made else {},
        dataset_digest=facts.get(tag_names.DATASET_DIGEST, ""),
        mlflow_run_id=pipeline.info.run_id if pipeline else "",
        steps={
            queries.step_name(run): seconds
            for run in steps
            if (seconds := metric_groups.seconds(run.data.metrics)) is not None
        },
        cut=cut,
        reference=facts.get(tag_names.REFERENCE, ""),
        report=_report(made.info.artifact_uri) if made and tag_names.ACCEPTED in facts else "",
        same_as=same_as,
    )


def _failure(run_key: str, steps: Sequence[Any]) -> str:
    """Why a run failed, as far as its steps know."""
    errors = run_folder.read_errors(run_key)
    if errors:
        return " ".join(f"{error['sentence']} {error['hint']}" for error in errors.values())
    broken = unmended(steps)
    if not broken:
        return endings.UNFINISHED
    # of several attempts the last one that says why
    told = next(
        filter(None, (run.data.tags.get(tag_names.ERROR, "").partition(": ")[2] for run in reversed(broken))), ""
    )  # another pod's files are gone
    return told or f"The step {queries.step_name(broken[0])} failed."


def unmended(steps: Sequence[Any]) -> list[Any]:
    """The failed runs of steps, oldest first, without those that a later attempt of the same step made good."""
    failed = [run for run in steps if run.info.status == "FAILED"]
    good = [(queries.step_name(run), run.info.start_time) for run in steps if run.info.status == "FINISHED"]
    left = [
        run
        for run in failed
        if not any(name == queries.step_name(run) and begun >= run.info.start_time for name, begun in good)
    ]
    return left or failed  # one of several search workers has the same name


def _record(settings: Settings, run_key: str, result: RunResult) -> str:
    """Keep in MLflow what the run cost, and why it failed; return the cost in words."""
    steps = queries.find_runs(settings.model, run_key, "step")  # several workers of the search are several steps
    seconds = sum(metric_groups.seconds(run.data.metrics) or 0.0 for run in steps)
    cost = costs.sentence(seconds, settings)
    if result.mlflow_run_id:
        found = {metric_groups.SECONDS: seconds}
        if settings.price_per_hour:
            found[metric_groups.PRICE] = costs.amount(seconds, settings)
        tags = {tag_names.COST: cost}
        if result.status == "failed":
            tags[tag_names.FAILURE] = result.reason
        runs.record(result.mlflow_run_id, found, tags)
    return cost


def _report(artifact_uri: str) -> str:
    uri = urlparse(artifact_uri)
    return str(Path(unquote(uri.path)) / "report.html") if uri.scheme in ("", "file") else f"{artifact_uri}/report.html"
