"""Names and descriptions of a model, its versions and its runs on MLflow's pages, in Markdown.

A description that somebody else wrote stays as it is: ours end with a line that says whose they are.
"""

import json
import math
from contextlib import suppress
from itertools import starmap
from urllib.parse import quote

from components.core.contract.metric_names import heading, label
from components.core.registry import versions
from components.core.run_result import RunResult
from components.core.tracking import tag_names
from components.core.tracking.service import connection

PAGE = "workflowType=machine_learning"  # else MLflow shows a run as one of a language model
OURS = "*Written by Thawline. A description without this line stays as it is.*"


def describe(result: RunResult, title: str, run_key: str) -> None:
    """Describe the run of a result, its version, its model and the model's experiment; never fails.

    Args:
        result: What the run came to.
        title: It in a few words.
        run_key: The run's.
    """
    with suppress(Exception):  # a page that says less must not fail a run that has ended
        if not result.mlflow_run_id:
            return
        client = connection.client()
        run = client.get_run(result.mlflow_run_id)
        if tag_names.ADOPTED not in run.data.tags:  # Kubeflow's plugin names its own
            client.update_run(result.mlflow_run_id, name=run_name(result, run_key))
        place = f"#/experiments/{run.info.experiment_id}/runs/{result.same_as or result.mlflow_run_id}"
        links = [f"[Report]({place}/artifactPath/report.html)"] if result.report else []
        links += [_link(result.model, result.version)] if result.version else []
        links += _comparison(result, run.info.experiment_id)
        text = _text(" · ".join([f"**{title}**", *links]), result.reason, _figures(result))  # its page folds the end
        if _is_ours(run.data.tags.get(tag_names.NOTE, "")):
            client.set_tag(result.mlflow_run_id, tag_names.NOTE, text)
        if result.version and result.status == "succeeded":
            _describe_version(result, f"[The run]({place}?{PAGE})", links[0] if result.report else "")
    describe_model(result.model)


def describe_model(model: str) -> None:
    """Say on the pages of a model and of its experiment which version is champion; never fails."""
    with suppress(Exception):
        client = connection.client()
        found = client.search_registered_models(f"name = '{model}'")
        champion = str(found[0].aliases.get("champion", "")) if found else ""
        figure = ""
        if champion:
            metric, value = versions.figure(versions.tags(model, champion))
            figure = f", {label(metric)} {value:.3f} on its test rows" if value is not None else ""
        now = f"Champion: {_link(model, champion)}{figure}." if champion else "No version is champion."
        if found and _is_ours(found[0].description or ""):
            client.update_registered_model(
                model, description=_text(now, "`thawline models` shows how it came to that.")
            )
        experiment = client.get_experiment_by_name(model)
        if experiment and _is_ours(experiment.tags.get(tag_names.NOTE, "")):
            what = "A run for each `thawline run`, and below it one for each step and each trial."
            client.set_experiment_tag(experiment.experiment_id, tag_names.NOTE, _text(now, what))


def run_name(result: RunResult, run_key: str) -> str:
    """The name of a pipeline's run: what it came to, which a narrow column shows, the model, and the key."""
    what: str = result.status
    if result.status == "succeeded":
        state = "champion" if result.promoted or result.stays else "challenger"
        what = f"version {result.version}, {'waits for approval' if result.pending else state}"
        what = what if result.version else "trained"
    return f"{what}{tag_names.OUTCOME}{result.model} {run_key}"


def _describe_version(result: RunResult, *links: str) -> None:
    client = connection.client()
    found = client.get_model_version(result.model, result.version)
    if _is_ours(found.description or ""):
        text = _text(result.reason, _figures(result), " · ".join(filter(None, links)))
        client.update_model_version(result.model, result.version, description=text)


def _figures(result: RunResult) -> str:
    """A table of the test figures that have an interval."""
    metrics = result.metrics if result.status == "succeeded" else {}
    rows = []
    for name, value in metrics.items():
        low, high, trivial = (metrics.get(key, math.nan) for key in (f"{name}_low", f"{name}_high", f"baseline_{name}"))
        if math.isfinite(low) and math.isfinite(high) and math.isfinite(trivial):
            rows.append([heading(name), f"{value:.3f}", f"{low:.3f} to {high:.3f}", f"{trivial:.3f}"])
    if not rows:
        return ""
    return "\n".join(
        [_row("on the test rows", "", "95% interval", "trivial model"), "|---|---|---|---|", *starmap(_row, rows)]
    )


def _row(*cells: str) -> str:
    """A row of a table; MLflow's style leaves no space between columns, so the cells bring it."""
    return f"| {' | '.join(f'{cell}&nbsp;&nbsp;' for cell in cells)} |"


def _link(model: str, version: str) -> str:
    return f"[{model} version {version}](#/models/{model}/versions/{version})"


def _comparison(result: RunResult, experiment: str) -> list[str]:
    """A link to MLflow's comparison of this run with the one that made the champion; none without another champion."""
    if result.status != "succeeded" or result.compared_with in ("", result.version):
        return []
    other = connection.client().get_model_version(result.model, result.compared_with).run_id
    runs, experiments = (quote(json.dumps(one)) for one in ([other, result.mlflow_run_id], [experiment]))
    link = f"#/compare-runs?runs={runs}&experiments={experiments}&{PAGE}"
    return [f"[Beside version {result.compared_with}]({link})"]


def _text(*parts: str) -> str:
    return "\n\n".join([*filter(None, parts), OURS])


def _is_ours(text: str) -> bool:
    return not text.strip() or text.rstrip().endswith(OURS)
