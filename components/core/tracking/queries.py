"""Queries on MLflow: find, read and claim runs."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from components.core.storage import home_folder
from components.core.tracking import provenance, tag_names
from components.core.tracking.service.connection import client, every, experiment, own_experiment

FINISHED, RUNNING = "attributes.status = 'FINISHED'", "attributes.status = 'RUNNING'"  # conditions of a search


def step_name(run: Run) -> str:
    """The step that a run is of, whatever Kubeflow's plugin or an earlier version called the run."""
    return str(run.data.tags.get(tag_names.STEP) or run.info.run_name.replace("-", "_"))


def find_runs(model: str, run_key: str, kind: str = "", extra: str = "", view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    """Runs of one pipeline run, newest first."""
    wanted = {tag_names.MODEL: model, tag_names.RUN_KEY: run_key, tag_names.KIND: kind}  # an experiment may have others
    conditions = [tag_names.equals(tag, value) for tag, value in wanted.items() if value]
    return list(_search(model, [*conditions, *filter(None, [extra])], view=view))


def started(run_id: str) -> float:
    """Return when a run began, in seconds since the epoch."""
    return float(client().get_run(run_id).info.start_time) / 1000


def seconds_from(step: str, model: str) -> float:
    """Seconds from a step's start to the end of the model's last successful run that had this step; 0 without one."""
    for run in successful(model, tag_names.is_set(tag_names.ACCEPTED)):
        pipeline = client().get_run(run.id)
        for found in find_runs(model, pipeline.data.tags[tag_names.RUN_KEY], "step"):
            if step_name(found) == step:
                return float(pipeline.info.end_time - found.info.start_time) / 1000
        return 0.0
    return 0.0


class Ended(NamedTuple):
    """A pipeline run of the past."""

    id: str
    name: str
    tags: Mapping[str, str]


def successful(model: str, extra: str) -> Iterator[Ended]:
    """Pipeline runs of a model that ended well and for which `extra` holds, newest first, fetched as needed."""
    for run in _search(model, [*_of(model), FINISHED, extra], page=20):
        yield Ended(str(run.info.run_id), _short_name(run), dict(run.data.tags))


def _short_name(run: Run) -> str:
    """The name of a pipeline's run without what it came to."""
    return str(run.info.run_name).rpartition(tag_names.OUTCOME)[2]


def last_pipeline_run(model: str, condition: str) -> Run | None:
    """The model's newest pipeline run for which a condition holds, in whichever experiment; None without one.

    One that made way for another run counts for nothing.
    """
    found = across([*_of(model), condition], most=100)  # a condition on a tag leaves out runs without that tag
    return next((run for run in found if run.data.tags.get(tag_names.CHANGE) != provenance.BUSY), None)


def last_evaluated(model: str = "") -> Run | None:
    """The newest pipeline run that has judged a version, of a model or of any; None without one."""
    of = _of(model) if model else [tag_names.equals(tag_names.KIND, "pipeline")]
    return next(iter(across([*of, tag_names.is_set(tag_names.ACCEPTED)], most=1)), None)


def local_artifact(run: Run, name: str) -> Path | None:
    """An artifact of a run where it lies on this machine; None where it does not."""
    uri = urlsplit(run.info.artifact_uri)
    path = Path(unquote(uri.path)) / name
    return path if uri.scheme in ("", "file") and path.exists() else None


def last_working_run(model: str) -> Run | None:
    """The model's newest pipeline run that was not skipped: nothing has changed its lineage or champion since."""
    return next((run for run in across(_of(model), most=100) if tag_names.SKIPPED not in run.data.tags), None)


def models_with_runs() -> set[str]:
    """Models of the newest thousand pipeline runs, without those that are only pretrained."""
    found = across([tag_names.equals(tag_names.KIND, "pipeline")], most=1000)
    pretrained = {run.data.tags[tag_names.MODEL] for run in found if tag_names.PRETRAINED in run.data.tags}
    return {run.data.tags[tag_names.MODEL] for run in found} - pretrained


def across(conditions: Sequence[str], most: int) -> list[Run]:
    """Runs of all experiments, newest first: Kubeflow's plugin puts runs into experiments of its own."""
    experiments = [str(one.experiment_id) for one in every(client().search_experiments)]
    return list(client().search_runs(experiments, " and ".join(conditions), max_results=most)) if experiments else []


def _search(model: str, conditions: Sequence[str], page: int = 1000, view: int = ViewType.ACTIVE_ONLY) -> Iterator[Run]:
    where, condition = [experiment(model)], " and ".join(conditions)
    return every(
        client().search_runs, experiment_ids=where, filter_string=condition, run_view_type=view, max_results=page
    )


def _of(model: str, kind: str = "pipeline") -> list[str]:
    """The conditions that a run is of a kind, and of a model."""
    return [tag_names.equals(tag_names.KIND, kind), tag_names.equals(tag_names.MODEL, model)]


def download(run_id: str, name: str, folder: Path) -> Path | None:
    """An artifact of a run as a file below `folder`; None where it is gone."""
    try:
        return Path(client().download_artifacts(run_id, name, str(folder)))
    except (MlflowException, OSError):
        return None


class Open(NamedTuple):
    """A pipeline run that has not ended, by what MLflow says."""

    id: str
    name: str
    begun: float  # seconds since the epoch
    tags: Mapping[str, str]


def open_pipeline_runs(model: str) -> list[Open]:
    """The model's pipeline runs that have not ended, newest first, in whichever experiment."""
    return [
        Open(str(run.info.run_id), _short_name(run), run.info.start_time / 1000, dict(run.data.tags))
        for run in across([*_of(model), RUNNING], most=100)
    ]


def page(run_id: str) -> str:
    """The address of a run on the tracking page; empty where runs are in a file, which has no page by itself.

    `THAWLINE_TRACKING_PAGE` is the address that a browser uses, where the steps use another one.
    """
    base = os.environ.get("THAWLINE_TRACKING_PAGE") or home_folder.tracking_uri()
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https"):
        return ""
    host = parts.netloc.rpartition("@")[2]  # a user and a password may stand before it
    info = client().get_run(run_id).info
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}/#/experiments/{info.experiment_id}/runs/{run_id}"


def recorded(model: str, tag: str) -> list[str]:
    """Values of a tag over all runs of a model, oldest first; of runs that were deleted on the tracking page too."""
    found = find_runs(model, "", "", tag_names.is_set(tag), view=ViewType.ALL)
    return [run.data.tags[tag] for run in sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))]


def params_of(model: str, kind: str, *, deleted: bool = False) -> dict[str, dict[str, str]]:
    """Parameters of the runs of a kind in the model's own experiment, by id; of deleted runs too if asked."""
    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    found = client().search_runs([own_experiment(model)], " and ".join(_of(model, kind)), view)
    return {str(run.info.run_id): dict(run.data.params) for run in found}


def claim(run_id: str, name: str, value: str) -> bool:
    """Write a parameter, which MLflow takes once: whether it holds this value, of all that anyone wanted it to hold."""
    try:
        client().log_param(run_id, name, value)
    except MlflowException:
        run = client().get_run(run_id)
        if name not in run.data.params and run.info.lifecycle_stage == "active":
            raise
        return bool(run.data.params.get(name) == value)
    return True
