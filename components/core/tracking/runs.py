"""Runs in MLflow: one for the pipeline, a child per step, a grandchild per trial. The only import of mlflow."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Never, get_args, get_origin, get_type_hints, is_typeddict
from urllib.parse import urlsplit

import mlflow
from filelock import FileLock
from mlflow.entities import Dataset, Metric, Param, Run, RunTag, ViewType
from mlflow.entities.dataset_input import DatasetInput
from mlflow.entities.input_tag import InputTag
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from components.core import run_folder
from components.core.errors import ExpectedError, InputError, StepError
from components.core.settings import Settings
from components.core.tracking import provenance
from components.core.tracking import retries as attempts
from components.core.tracking.server import (
    CHECK_SECONDS,
    WRITING,
    check_address,
    failing,
    forbidden,
    is_server,
    refusal,
    unreachable,
)

RUN_KEY = "thawline.run_key"
KIND = "thawline.kind"
MODEL = "thawline.model"
PARENT = "mlflow.parentRunId"
STEP = "thawline.step"  # of a step's run: its name here, where Kubeflow's plugin gave the run another one
ADOPTED = "thawline.adopted"  # "true": Kubeflow's plugin made the pipeline's run, and ends it
ALIVE = "thawline.alive"  # of the pipeline's run: seconds since the epoch and the process, while a step works
ALIVE_SECONDS = 60.0  # between two signs of life
LEASE, HELD, NONE = (
    "thawline.lease",
    "held",
    "none",
)  # tag of the pipeline's run; see components/core/tracking/leases.py
LOST = "thawline.failure"  # why a run failed, or was lost
ERROR = "thawline.error"  # of a step: kind and sentences of an expected error
SAVED = "saved_seconds"  # metric of a step, and of the pipeline
METRIC = "thawline.metric"  # of the pipeline and of a version: what the target names first
BATCH = 900  # MLflow takes 1,000 entities in one call
CANDIDATE = "candidate"
SETTLE_SECONDS, ELECTION_SECONDS = 1.0, 30.0
OK, SERVER_ERROR = 200, 500  # HTTP
TAG_LENGTH = 5000  # characters that every store of MLflow takes


def client() -> mlflow.MlflowClient:
    """A client of `MLFLOW_TRACKING_URI`, or of the SQLite store in the home folder.

    Explicit run ids everywhere: a stray fluent call after a run has ended would open another one. The address is
    also set globally, because MLflow's own registry asks there when it resolves a logged model.

    Raises:
        InputError: A server's address holds more than that, maybe a password: MLflow's errors would repeat it. Or a pod
            has no address, and would write into a file that goes with it.
    """
    for way in ("UPLOAD", "DOWNLOAD"):  # past the server, to an S3 address that often only the server reaches
        os.environ.setdefault(f"MLFLOW_ENABLE_PROXY_MULTIPART_{way}", "false")
    uri = run_folder.tracking_uri()
    if is_server(uri):  # in a pod no command line has looked at it
        check_address(uri)
    elif run_folder.is_pod() and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise InputError(
            "This pod has no MLFLOW_TRACKING_URI, so nothing that the run finds would outlive it.",
            "Give --env MLFLOW_TRACKING_URI=http://…, or let Kubeflow's MLflow plugin set it (injectUserEnvVars).",
        )
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri)


def open_store() -> None:
    """Make the store ready for a command: ask the server whether it is there and knows us, or migrate the local one.

    Raises:
        InputError: The server can't be reached, or refuses.
    """
    if is_server(run_folder.tracking_uri()):
        check_server()
    else:
        migrate()


def check_server(model: str = "") -> None:
    """Ask an MLflow server once, without the minutes of retries that a run may spend.

    Args:
        model: Whose experiment and versions will be written, if any; where the server has no permissions to tell of,
            a run finds out.

    Raises:
        InputError: It can't be reached, refuses the login, or lets it read only.
    """
    uri = run_folder.tracking_uri()
    answer = _asked("/api/2.0/mlflow/experiments/search", max_results=1)
    if answer.status_code != OK:
        raise refusal(uri, answer.status_code, answer.text) or failing(uri, answer.status_code, answer.text)
    user = get_default_host_creds(uri).username  # type: ignore[no-untyped-call]  # mlflow types a part of itself
    if not model or not user:
        return
    found = client().get_experiment_by_name(model)
    wanted = {"experiment": found.experiment_id} if found else {}
    wanted |= {"registered_model": model} if client().search_registered_models(f"name = '{model}'") else {}
    for kind, name in wanted.items():
        answer = _asked("/api/3.0/mlflow/users/permissions/get", username=user, resource_type=kind, resource_id=name)
        if answer.status_code == OK and answer.json().get("permission") not in WRITING:
            raise forbidden(uri, f"the {kind.replace('_', ' ')} {model!r}")


def _asked(path: str, **question: Any) -> Any:  # noqa: ANN401 - any JSON value; mlflow publishes no types
    uri = run_folder.tracking_uri()
    login = get_default_host_creds(uri)  # type: ignore[no-untyped-call]  # as above
    once = {"max_retries": 0, "timeout": CHECK_SECONDS, "raise_on_status": False}
    try:
        return http_request(login, path, "GET", **once, params=question)  # type: ignore[no-untyped-call]  # as above
    except MlflowException as error:
        raise unreachable(uri) from error


def explanation(error: Exception) -> InputError | None:
    """A server's silence or refusal as one sentence; None for every other error."""
    uri = run_folder.tracking_uri()
    if not isinstance(error, MlflowException) or not is_server(uri):
        return None
    status = error.get_http_status_code()  # type: ignore[no-untyped-call]  # as above
    if status == SERVER_ERROR and "API request to" in error.message:
        repeated = re.search(r"too many (\d+) error responses", error.message)  # mlflow keeps no more of the answers
        return failing(uri, int(repeated[1])) if repeated else unreachable(uri)
    return refusal(uri, status, error.message)


@contextmanager
def explained() -> Iterator[None]:
    """Turn a server's silence or refusal into one sentence."""
    try:
        yield
    except MlflowException as error:
        known = explanation(error)
        if known is None:
            raise
        raise known from error


def migrate() -> None:
    """Bring the local store to this version's schema, once: steps that start together would race for it."""
    uri = run_folder.tracking_uri()
    if not uri.startswith("sqlite:///"):
        return
    database = Path(uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_suffix(".lock")):
        if run_folder.store_is_current(database):
            return
        if database.exists():
            subprocess.run([sys.executable, "-m", "mlflow", "db", "upgrade", uri], check=True, capture_output=True)
        client().search_experiments(max_results=1)  # creates the tables of a new store
        run_folder.mark_store_current(database)


class StepRun:
    """One step's run in MLflow, and its line on the terminal."""

    def __init__(self, name: str, run_key: str, settings: Settings, run_id: str, pipeline_id: str) -> None:
        self.name = name
        self.run_key = run_key
        self.settings = settings
        self.run_id = run_id
        self.pipeline_id = pipeline_id
        self._client = client()
        self._shown = 0.0
        self._figure = ""
        self._notes: list[str] = []
        self._pending: list[dict[str, float]] = []
        self._logged = 0
        self._flushed = 0.0

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Show how far a long step is, at most five times a second."""
        if done >= total or time.monotonic() - self._shown > 0.2:  # noqa: PLR2004 - seconds
            self._shown = time.monotonic()
            run_folder.emit(self.run_key, self.name, "progress", done=done, total=total, text=text)

    def note(self, text: str) -> None:
        """Show a decision of the step in a line of its own, and keep it as the tag `thawline.notes`."""
        self._notes.append(text)
        run_folder.emit(self.run_key, self.name, "note", text=text)
        self.tags({"thawline.notes": "\n".join(self._notes)[:TAG_LENGTH]})

    def figure(self, text: str) -> None:
        """The one figure that the terminal shows beside the finished step."""
        self._figure = text

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters of the step."""
        self._client.log_batch(self.run_id, params=[Param(k, str(v)[:6000]) for k, v in values.items()])

    def metrics(self, values: Mapping[str, float], *, pipeline: bool = False) -> None:
        """Log final figures of the step, or of the whole pipeline."""
        log_epochs(self.pipeline_id if pipeline else self.run_id, [dict(values)])

    def saved(self, seconds: float) -> None:
        """Log what reading kept activations saved in this step."""
        self.metrics({SAVED: seconds})

    def tags(self, values: Mapping[str, str], *, pipeline: bool = False) -> None:
        """Tag the step's run, or the pipeline's."""
        tags = [RunTag(k, v) for k, v in values.items()]
        self._client.log_batch(self.pipeline_id if pipeline else self.run_id, tags=tags)

    def pipeline_tags(self) -> dict[str, str]:
        """The tags that the pipeline's run has now."""
        return dict(self._client.get_run(self.pipeline_id).data.tags)

    def epoch(self, values: Mapping[str, float]) -> None:
        """Log one epoch's figures; epochs that follow within a second share a call, which costs up to 80 ms."""
        self._pending.append(dict(values))
        if time.monotonic() - self._flushed > 1:
            self._flush()

    def _flush(self) -> None:
        log_epochs(self.run_id, self._pending, start=self._logged)
        self._logged, self._pending, self._flushed = self._logged + len(self._pending), [], time.monotonic()

    def artifact(self, path: Path, folder: str = "", *, pipeline: bool = False) -> None:
        """Upload a file."""
        self._client.log_artifact(self.pipeline_id if pipeline else self.run_id, str(path), folder or None)

    def text(self, text: str, name: str) -> None:
        """Upload text as a file; a figure goes as SVG."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_text(text)
            self.artifact(path, str(Path(name).parent) if "/" in name else "")

    def dataset(self, name: str, digest: str, source: str) -> None:
        """Record the data as MLflow's dataset input of this run and of the pipeline's."""
        kind = "s3" if source.startswith("s3://") else "local"
        data = Dataset(name, digest[:36], kind, json.dumps({"uri": source}))  # MLflow takes 36 characters
        entity = DatasetInput(data, [InputTag("mlflow.data.context", "training")])
        for run_id in (self.run_id, self.pipeline_id):
            self._client.log_inputs(run_id, [entity])

    def close(self, status: str, seconds: float) -> None:
        """End the run as FINISHED or FAILED with the seconds of its own work."""
        self._flush()
        self.metrics({"step_seconds": seconds})
        self._client.set_terminated(self.run_id, status)
        event = "finished" if status == "FINISHED" else "failed"
        run_folder.emit(self.run_key, self.name, event, seconds=seconds, figure=self._figure)


def describe(metric: str, figures: Mapping[str, float]) -> str:
    """The figure that the terminal shows beside a training step."""
    return f"validation {metric.replace('_', ' ')} {figures[metric]:.3f}, loss {figures['loss']:.3f}"


def log_epochs(run_id: str, epochs: Sequence[Mapping[str, float]], start: int = 0) -> None:
    """Log figures of consecutive epochs in as few calls as MLflow allows."""
    now = int(time.time() * 1000)
    metrics = [
        Metric(name, float(value), now, start + number)
        for number, values in enumerate(epochs)
        for name, value in values.items()
    ]
    for i in range(0, len(metrics), BATCH):
        client().log_batch(run_id, metrics=metrics[i : i + BATCH])


@contextmanager
def step(name: str, run_key: str, settings: str) -> Iterator[StepRun]:
    """Run a step's work inside its MLflow run; every way out but SIGKILL ends it as FINISHED or FAILED.

    Args:
        name: The step, as its file is called.
        run_key: Finds the pipeline's run; the first step makes it.
        settings: The run's settings as JSON.
    """
    previous = signal.signal(signal.SIGTERM, _exit_on_sigterm)
    try:
        with explained():
            run = _begun(name, run_key, Settings.from_json(settings))
            begin, status = time.monotonic(), "FAILED"
            try:
                if os.environ.get("THAWLINE_RUN_KEY"):  # in a pod, which a cluster starts again
                    found = find_runs(run.settings.model, run_key, "step", f"tags.`{attempts.SINCE}` != ''")
                    attempts.refuse_repeated(name, ((step_name(one), one.data.tags) for one in found), ERROR)
                    if client().get_run(run.pipeline_id).info.status == "FAILED":
                        _reopen(run)
                with _living(run.pipeline_id):
                    yield run
                status = "FINISHED"
                run_folder.forget_error(run_key, name)
            except ExpectedError as error:
                if not isinstance(error, attempts.RepeatedError):
                    run_folder.write_error(run_key, name, error)
                    run.tags({ERROR: f"{error.kind}: {error}"[:4000], **attempts.mark(error)})
                raise
            finally:
                run.close(status, time.monotonic() - begin)
    except ExpectedError as error:
        if name not in run_folder.read_errors(run_key):  # the first reason is the true one
            run_folder.write_error(run_key, name, error)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _begun(name: str, run_key: str, settings: Settings) -> StepRun:
    pipeline = pipeline_run(run_key, settings)
    if pipeline.info.status == "KILLED":  # the model's next run took this one for lost, and works
        reason = pipeline.data.tags.get(LOST, "")
        raise StepError(f"This run was closed meanwhile: {reason or 'it was lost.'}", "Start another one.")
    run_id = _step_run(name, run_key, settings.model, pipeline.info.run_id)
    run = StepRun(name, run_key, settings, run_id, pipeline.info.run_id)
    run_folder.working(name, run_key)
    return run


def _reopen(run: StepRun) -> None:
    """Let a run that ended as failed, and that somebody retries on Kubeflow, have the model's lease again.

    Raises:
        StepError: Another run has it now.
    """
    from components.core.tracking import leases  # which imports this module

    client().update_run(run.pipeline_id, status="RUNNING")
    if other := leases.take(run):
        client().set_terminated(run.pipeline_id, "FAILED")
        raise StepError(other, "Retry this one when that has ended.")


def pipeline_run(run_key: str, settings: Settings) -> Run:
    """The pipeline's run by key; made by the first step, or adopted where Kubeflow's MLflow plugin made one."""
    found = find_runs(settings.model, run_key, "pipeline")
    if found:
        return found[0]
    adopted = os.environ.get("MLFLOW_RUN_ID")
    if adopted:
        root = _root(adopted)
        # a run that all steps were given is nobody else's to end
        _tag(root, run_key, settings.model, "pipeline", {ADOPTED: "true"} if root != adopted else {})
        return client().get_run(root)
    alone = not is_server(run_folder.tracking_uri())  # on one machine the first step has ended when the others start
    name, kind = f"{settings.model} {run_key}", "pipeline" if alone else CANDIDATE
    run_id = create(name, run_key, settings.model, kind, None)
    if not alone and (elected := _elect(run_id, run_key, settings.model)) != run_id:
        return client().get_run(elected)
    params = [Param(k, str(v)) for k, v in settings.model_dump().items() if v is not None]
    client().log_batch(run_id, params=params, tags=[RunTag("thawline.settings_digest", settings.digest())])
    return client().get_run(run_id)


def _elect(mine: str, run_key: str, model: str) -> str:
    """Agree on one of the candidates that steps made which started together; the others are deleted.

    MLflow has no create-if-absent. So each makes a candidate, waits until it must see those of all who
    saw no pipeline's run, and the smallest id becomes it. Who comes later sees that, because a candidate waits longer
    than the winner takes from its look to its tag.
    """
    client_, deadline = client(), time.monotonic() + ELECTION_SECONDS
    while True:
        time.sleep(SETTLE_SECONDS)
        smallest = min((run.info.run_id for run in find_runs(model, run_key, CANDIDATE)), default=mine)
        # in this order: a winner that is no candidate any more is found here
        elected = [run.info.run_id for run in find_runs(model, run_key, "pipeline")]
        if elected:
            client_.delete_run(mine)
            return str(elected[0])
        if smallest == mine:
            client_.set_tag(mine, KIND, "pipeline")
            return mine
        if time.monotonic() > deadline:  # whoever made it was killed
            client_.delete_run(smallest)


def _root(run_id: str) -> str:
    """The run at the top of the tree: Kubeflow's plugin puts one between for each loop, condition and handler."""
    seen = {run_id}
    while (parent := client().get_run(run_id).data.tags.get(PARENT, "")) and parent not in seen:
        seen.add(run_id := parent)
    return run_id


def _step_run(name: str, run_key: str, model: str, pipeline_id: str) -> str:
    adopted = os.environ.get("MLFLOW_RUN_ID")
    # a run without a parent is the pipeline's, which no step may end; the second step in a pod needs another run
    if not adopted or adopted == pipeline_id or client().get_run(adopted).data.tags.get(STEP, name) != name:
        return create(name, run_key, model, "step", pipeline_id, more={STEP: name})
    _tag(adopted, run_key, model, "step", {STEP: name})  # by these tags the lineage and the exit handler find it
    return adopted


def _tag(run_id: str, run_key: str, model: str, kind: str, more: Mapping[str, str]) -> None:
    tags = {RUN_KEY: run_key, MODEL: model, KIND: kind, **more}
    client().log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def step_name(run: Run) -> str:
    """The step that a run is of, whatever Kubeflow's plugin or an earlier version called the run."""
    return str(run.data.tags.get(STEP) or run.info.run_name.replace("-", "_"))


@contextmanager
def _living(pipeline_id: str) -> Iterator[None]:
    """Show in the pipeline's run that this step works, until it ends."""
    over, client_ = threading.Event(), client()
    client_.set_tag(pipeline_id, ALIVE, sign_of_life())

    def beat() -> None:
        while not over.wait(ALIVE_SECONDS):
            with suppress(Exception):  # a server that is away now may be there the next time
                client_.set_tag(pipeline_id, ALIVE, sign_of_life())

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def sign_of_life() -> str:
    """Now, and which process says so."""
    return f"{time.time():.0f} {run_folder.process_mark()}"


def find_runs(model: str, run_key: str, kind: str = "", extra: str = "", view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    """Runs of one pipeline run, newest first."""
    conditions = [f"tags.`{MODEL}` = '{model}'"]  # Kubeflow's plugin may put several models into one experiment
    conditions += [f"tags.`{RUN_KEY}` = '{run_key}'"] if run_key else []
    conditions += [f"tags.`{KIND}` = '{kind}'"] if kind else []
    conditions += [extra] if extra else []
    return list(_search(model, conditions, view=view))


def started(run_id: str) -> float:
    """When a run began, in seconds since the epoch."""
    return float(client().get_run(run_id).info.start_time) / 1000


def seconds_from(step: str, model: str) -> float:
    """Seconds from a step's start to the end of the model's last successful run that had this step; 0 without one."""
    for run in successful(model, "tags.`thawline.accepted` != ''"):
        pipeline = client().get_run(run.id)
        for found in find_runs(model, pipeline.data.tags[RUN_KEY], "step"):
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
    conditions = [f"tags.`{MODEL}` = '{model}'", f"tags.`{KIND}` = 'pipeline'", "attributes.status = 'FINISHED'", extra]
    for run in _search(model, conditions, page=20):
        yield Ended(str(run.info.run_id), str(run.info.run_name), dict(run.data.tags))


def last_pipeline_run(model: str, condition: str) -> Run | None:
    """The model's newest pipeline run for which a condition holds, in whichever experiment; None without one.

    One that made way for another run counts for nothing.
    """
    conditions = [f"tags.`{KIND}` = 'pipeline'", f"tags.`{MODEL}` = '{model}'", condition]
    found = _across(conditions, most=100)  # a condition on a tag leaves out runs without that tag
    return next((run for run in found if run.data.tags.get(provenance.CHANGE) != provenance.BUSY), None)


def models_with_runs() -> set[str]:
    """Models of the newest thousand pipeline runs."""
    return {run.data.tags[MODEL] for run in _across([f"tags.`{KIND}` = 'pipeline'"], most=1000)}


def _across(conditions: Sequence[str], most: int) -> list[Run]:
    """Runs of all experiments, newest first: Kubeflow's plugin puts runs into experiments of its own."""
    experiments: list[str] = []
    token: str | None = ""
    while token is not None:
        page = client().search_experiments(page_token=token or None)
        experiments, token = [*experiments, *(str(one.experiment_id) for one in page)], page.token or None
    return list(client().search_runs(experiments, " and ".join(conditions), max_results=most)) if experiments else []


def _search(model: str, conditions: Sequence[str], page: int = 1000, view: int = ViewType.ACTIVE_ONLY) -> Iterator[Run]:
    token: str | None = ""
    while token is not None:
        found = client().search_runs(
            [experiment(model)], " and ".join(conditions), view, max_results=page, page_token=token or None
        )
        yield from found
        token = found.token or None


def download(run_id: str, name: str, folder: Path) -> Path | None:
    """An artifact of a run as a file below `folder`; None where it is gone."""
    try:
        return Path(client().download_artifacts(run_id, name, str(folder)))
    except (MlflowException, OSError):
        return None


def experiment(model: str) -> str:
    """The id of the model's experiment; Kubeflow's plugin may bring another, or a run that lies in another."""
    given, adopted = os.environ.get("MLFLOW_EXPERIMENT_ID"), os.environ.get("MLFLOW_RUN_ID")
    return given or (_experiment_of(adopted) if adopted else own_experiment(model))


@functools.cache
def _experiment_of(run_id: str) -> str:
    return str(client().get_run(run_id).info.experiment_id)


def own_experiment(model: str) -> str:
    """The id of the experiment that bears the model's name, whoever asks; made on demand.

    Raises:
        InputError: It was deleted.
    """
    found = client().get_experiment_by_name(model)
    if found is not None and found.lifecycle_stage != "active":
        hint = "Restore it there, or use another --model."
        raise InputError(f"The experiment {model!r} was deleted on the tracking page.", hint)
    if found is not None:
        return str(found.experiment_id)
    local = run_folder.tracking_uri().startswith("sqlite:///")  # a server knows its own place for artifacts
    location = (run_folder.home() / "artifacts" / model).as_uri() if local else None
    try:
        return str(client().create_experiment(model, artifact_location=location))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return own_experiment(model)  # another step made it just now


def log_trial(
    search: StepRun,
    number: int,
    times: tuple[int, int],
    params: Mapping[str, Any],
    epochs: Sequence[Mapping[str, float]],
    state: str,
) -> None:
    """A finished trial as a run below the search step's, with its own start and end (milliseconds)."""
    run_id = create(f"trial {number}", search.run_key, search.settings.model, "trial", search.run_id, times[0])
    tags = [RunTag("thawline.trial_state", state)]
    client().log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()], tags=tags)
    log_epochs(run_id, epochs)
    client().set_terminated(run_id, "FAILED" if state == "FAIL" else "FINISHED", times[1])


def close_running(model: str, run_key: str, *, failed: bool) -> None:
    """End every run of this pipeline run that a kill left RUNNING; that of Kubeflow's plugin is the plugin's to end."""
    for run in find_runs(model, run_key):
        is_pipeline = run.data.tags.get(KIND) == "pipeline"
        if is_pipeline and run.data.tags.get(LEASE) == HELD:
            client().set_tag(run.info.run_id, LEASE, NONE)
        if run.info.status == "RUNNING" and not (is_pipeline and ADOPTED in run.data.tags):
            client().set_terminated(run.info.run_id, "FINISHED" if is_pipeline and not failed else "FAILED")


class Open(NamedTuple):
    """A pipeline run that has not ended, by what MLflow says."""

    id: str
    name: str
    begun: float  # seconds since the epoch
    tags: Mapping[str, str]


def open_pipeline_runs(model: str) -> list[Open]:
    """The model's pipeline runs that have not ended, newest first, in whichever experiment."""
    conditions = [f"tags.`{KIND}` = 'pipeline'", f"tags.`{MODEL}` = '{model}'", "attributes.status = 'RUNNING'"]
    return [
        Open(str(run.info.run_id), str(run.info.run_name), run.info.start_time / 1000, dict(run.data.tags))
        for run in _across(conditions, most=100)
    ]


def close_lost(pipeline: Open, reason: str, *, failed: bool = True) -> None:
    """End as KILLED what is open of a pipeline run that nothing works on any more.

    Args:
        pipeline: The run.
        reason: Why it is over.
        failed: Whether it came to no end of its own; else only its exit handler was lost, and it counts as FINISHED.
    """
    if failed:
        client().set_tag(pipeline.id, LOST, reason)
    client().set_tag(pipeline.id, LEASE, NONE)
    conditions = [f"tags.`{name}` = '{pipeline.tags[name]}'" for name in (RUN_KEY, MODEL)]
    left = [str(run.info.run_id) for run in _across([*conditions, "attributes.status = 'RUNNING'"], most=1000)]
    for run_id in dict.fromkeys([*left, pipeline.id]):
        client().set_terminated(run_id, "FINISHED" if run_id == pipeline.id and not failed else "KILLED")


def record(run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
    """Log figures and tags of a run that may have ended already."""
    log_epochs(run_id, [metrics] if metrics else [])
    client().log_batch(run_id, tags=[RunTag(name, value[:TAG_LENGTH]) for name, value in tags.items()])


def page(run_id: str) -> str:
    """The address of a run on the tracking page; empty where runs are in a file, which has no page by itself.

    `THAWLINE_TRACKING_PAGE` is the address that a browser uses, where the steps use another one.
    """
    base = os.environ.get("THAWLINE_TRACKING_PAGE") or run_folder.tracking_uri()
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https"):
        return ""
    host = parts.netloc.rpartition("@")[2]  # a user and a password may stand before it
    info = client().get_run(run_id).info
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}/#/experiments/{info.experiment_id}/runs/{run_id}"


def recorded(model: str, tag: str) -> list[str]:
    """Values of a tag over all runs of a model, oldest first; of runs that were deleted on the tracking page too."""
    found = find_runs(model, "", "", f"tags.`{tag}` != ''", view=ViewType.ALL)
    return [run.data.tags[tag] for run in sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))]


def params_of(model: str, kind: str, *, deleted: bool = False) -> dict[str, dict[str, str]]:
    """Parameters of the runs of a kind in the model's own experiment, by id; of deleted runs too if asked."""
    condition = f"tags.`{KIND}` = '{kind}' and tags.`{MODEL}` = '{model}'"
    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    found = client().search_runs([own_experiment(model)], condition, view)
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


def create(
    name: str,
    run_key: str,
    model: str,
    kind: str,
    parent: str | None,
    start: int | None = None,
    more: Mapping[str, str] | None = None,
) -> str:
    """Make a run of a kind, below another one if there is a parent; its id."""
    tags = {"mlflow.runName": name, RUN_KEY: run_key, MODEL: model, KIND: kind, **(more or {})}
    tags |= {PARENT: parent} if parent else {}
    run = client().create_run(experiment(model), start_time=start or int(time.time() * 1000), tags=tags)
    return str(run.info.run_id)


def _exit_on_sigterm(_signal: int, _frame: FrameType | None) -> Never:
    raise SystemExit(128 + signal.SIGTERM)


def save_pyfunc(
    folder: Path, code: Path, served: Path, input_name: str, example: bytes, answer: type, requirements: Sequence[str]
) -> None:
    """Save a served model in MLflow's format, as code and artifacts, without a pickle.

    Args:
        folder: Where the model goes; must not exist.
        code: The model as code, `served_model.py`.
        served: Folder of its artifacts.
        input_name: The column of raw records.
        example: One raw record, kept as the input example.
        answer: A TypedDict of the answers' columns, for the signature.
        requirements: Libraries that the task's serving code needs.
    """
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    mlflow.pyfunc.save_model(
        folder,
        python_model=str(code),
        artifacts={"served": str(served)},
        signature=ModelSignature(
            Schema([ColSpec(DataType.binary, input_name)]),
            Schema([ColSpec(_mlflow_type(hint), name) for name, hint in get_type_hints(answer).items()]),
        ),
        input_example=pd.DataFrame({input_name: [example]}),
        pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "torch", "numpy", "pandas", *requirements)],
    )


def _mlflow_type(hint: Any) -> Any:  # noqa: ANN401 - mlflow publishes no types
    """MLflow's type of a column of text, numbers, lists, TypedDicts, or dicts by text."""
    from mlflow.types import DataType
    from mlflow.types.schema import Array, Map, Object, Property

    inner = get_args(hint)
    if get_origin(hint) is dict:
        return Map(_mlflow_type(inner[1]))
    if get_origin(hint) is list:
        return Array(_mlflow_type(inner[0]))
    if is_typeddict(hint):
        return Object([Property(name, _mlflow_type(kind)) for name, kind in get_type_hints(hint).items()])
    return {str: DataType.string, float: DataType.double, int: DataType.long, bool: DataType.boolean}[hint]


def load_pyfunc(folder: Path) -> Any:  # noqa: ANN401 - mlflow publishes no types
    """A served model from a local folder that has been checked."""
    return mlflow.pyfunc.load_model(str(folder))


def download_version(model: str, version: str, folder: Path) -> Path:
    """Download a registered version's files, without the marker that loading by name would add."""
    uri = client().get_model_version_download_uri(model, version)
    return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
