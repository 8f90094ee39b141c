"""Runs in MLflow: one for the pipeline, a child per step, a grandchild per trial."""

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Never, TypeVar

from mlflow.entities import Dataset, Metric, Param, Run, RunTag
from mlflow.entities.dataset_input import DatasetInput
from mlflow.entities.input_tag import InputTag

from components.core import run_folder
from components.core.contract.listener import Deadline
from components.core.contract.metric_names import label
from components.core.errors import ExpectedError, OutageError, StepError
from components.core.machine import memory, torchrun
from components.core.settings import Settings
from components.core.storage import disk_space, home_folder
from components.core.storage.hidden_logins import hidden
from components.core.tracking import metric_groups, tag_names
from components.core.tracking.queries import RUNNING, Open, across, find_runs, step_name
from components.core.tracking.service import retries
from components.core.tracking.service.connection import client, experiment, explained
from components.core.tracking.service.outbox import Outbox, ask_once
from components.core.tracking.service.server import is_server

ALIVE_SECONDS = 60.0  # between two signs of life
BATCH = 900  # MLflow takes 1,000 entities in one call
SETTLE_SECONDS, ELECTION_SECONDS = 1.0, 30.0
FAILED_SECONDS = 10.0  # that a server has to take the end of a failed step
Result = TypeVar("Result")


class StepRun:
    """One step's run in MLflow, and its line on the terminal; a silent one takes everything and records nothing."""

    def __init__(
        self, name: str, run_key: str, settings: Settings, run_id: str, pipeline_id: str, *, silent: bool = False
    ) -> None:
        self.name = name
        self.run_key = run_key
        self.settings = settings
        self.run_id = run_id
        self.pipeline_id = pipeline_id
        self.deadline = Deadline()  # of the step's training: never, unless the step sets one
        self._client = None if silent else client()
        self._outbox = None if silent or not is_server(home_folder.tracking_uri()) else Outbox(self._say)
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
            self._emit("progress", done=done, total=total, text=text)

    def note(self, text: str) -> None:
        """Show a decision of the step in a line of its own, and keep it as the tag `thawline.notes`."""
        self._notes.append(text)
        self._emit("note", text=text)
        self.tags({tag_names.NOTES: "\n".join(self._notes)[: tag_names.TAG_LENGTH]})

    def should_stop(self, seconds: float) -> bool:
        """Return whether the step's deadline will have passed in so many seconds."""
        return self.deadline.reached(seconds)

    def figure(self, text: str) -> None:
        """The one figure that the terminal shows beside the finished step."""
        self._figure = text

    def params(self, values: Mapping[str, Any], *, pipeline: bool = False) -> None:
        """Log parameters of the step, or of the whole pipeline."""
        params = [Param(k, hidden(str(v))[:6000]) for k, v in values.items()]
        if pipeline:
            self.ask(lambda: client().log_batch(self.pipeline_id, params=params))
        else:
            self.post(lambda: client().log_batch(self.run_id, params=params))

    def metrics(self, values: Mapping[str, float], *, pipeline: bool = False) -> None:
        """Log final figures of the step, or of the whole pipeline."""
        metrics = as_metrics([values])
        if pipeline:
            self.ask(lambda: log_metrics(self.pipeline_id, metrics))
        else:
            self.post(lambda: log_metrics(self.run_id, metrics))

    def saved(self, seconds: float) -> None:
        """Log what reading kept activations saved in this step."""
        self.metrics({metric_groups.SAVED: seconds})

    def tags(self, values: Mapping[str, str], *, pipeline: bool = False) -> None:
        """Tag the step's run, or the pipeline's."""
        tags = [RunTag(k, hidden(v)) for k, v in values.items()]
        if pipeline:
            self.ask(lambda: client().log_batch(self.pipeline_id, tags=tags))
        else:
            self.post(lambda: client().log_batch(self.run_id, tags=tags))

    def pipeline_tags(self) -> dict[str, str]:
        """The tags that the pipeline's run has now."""
        found = self.ask(lambda: client().get_run(self.pipeline_id).data.tags)
        return dict(found or {})

    def epoch(self, values: Mapping[str, float]) -> None:
        """Log one epoch's figures; epochs that follow within a second share a call, which costs up to 80 ms."""
        self._pending.append(metric_groups.of_epoch(values))
        if time.monotonic() - self._flushed > 1:
            self._flush()

    def _flush(self) -> None:
        metrics = as_metrics(self._pending, start=self._logged)
        self.post(lambda: log_metrics(self.run_id, metrics))
        self._logged, self._pending, self._flushed = self._logged + len(self._pending), [], time.monotonic()

    def artifact(self, path: Path, folder: str = "", *, pipeline: bool = False) -> None:
        """Upload a file."""
        run_id = self.pipeline_id if pipeline else self.run_id
        self.ask(lambda: client().log_artifact(run_id, str(path), folder or None))

    def text(self, text: str, name: str, *, pipeline: bool = False) -> None:
        """Upload text as a file; a figure goes as SVG."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_text(text)
            self.artifact(path, str(Path(name).parent) if "/" in name else "", pipeline=pipeline)

    def dataset(self, name: str, digest: str, source: str) -> None:
        """Record the data as MLflow's dataset input of this run and of the pipeline's."""
        kind = "s3" if source.startswith("s3://") else "local"
        data = Dataset(name, digest[:36], kind, json.dumps({"uri": hidden(source)}))  # MLflow takes 36 characters
        entity = DatasetInput(data, [InputTag("mlflow.data.context", "training")])
        for run_id in (self.run_id, self.pipeline_id):
            self.post(partial(client().log_inputs, run_id, [entity]))

    def close(self, status: str, seconds: float) -> None:
        """End the run as FINISHED or FAILED with the seconds of its own work."""
        self._flush()
        self.metrics({metric_groups.SECONDS: seconds})
        # a failed step may be about to be killed, or its server may be what it failed of
        self.ask(lambda: client().set_terminated(self.run_id, status), None if status == "FINISHED" else FAILED_SECONDS)
        self._emit("finished" if status == "FINISHED" else "failed", seconds=seconds, figure=self._figure)

    def post(self, message: Callable[[], object]) -> None:
        """Log something beside the work: while a server is away it waits."""
        if self._outbox:
            self._outbox.post(message)
        elif self._client:
            message()

    def ask(self, message: Callable[[], Result], seconds: float | None = None) -> Result | None:
        """Log something after all else, and wait until it is done; return its answer, or None from a silent run."""
        if self._outbox:
            return self._outbox.ask(message, seconds)
        return message() if self._client else None

    def _say(self, text: str) -> None:
        retries.say(self.name, self.run_key, text)

    def _emit(self, event: str, **facts: object) -> None:
        if self._client:
            run_folder.emit(self.run_key, self.name, event, **facts)


def describe(metric: str, figures: Mapping[str, float]) -> str:
    """The figure that the terminal shows beside a training step."""
    shown = f"{label(metric)} {figures[metric]:.3f}, " if metric in figures else ""
    return f"validation {shown}loss {figures['loss']:.3f}"


def as_metrics(epochs: Sequence[Mapping[str, float]], start: int = 0) -> list[Metric]:
    """Figures of consecutive epochs as MLflow's metrics of this moment."""
    now = int(time.time() * 1000)
    return [
        Metric(name, float(value), now, start + number)
        for number, values in enumerate(epochs)
        for name, value in values.items()
    ]


def log_metrics(run_id: str, metrics: Sequence[Metric]) -> None:
    """Log metrics in as few calls as MLflow allows."""
    for i in range(0, len(metrics), BATCH):
        client().log_batch(run_id, metrics=metrics[i : i + BATCH])


@contextmanager
def step(name: str, run_key: str, settings: str) -> Iterator[StepRun]:
    """Run a step's work inside its MLflow run; every way out but SIGKILL ends it as FINISHED or FAILED.

    Of several processes that torchrun started, the first has this run, and the others have a silent one.

    Args:
        name: The step, as its file is called.
        run_key: Finds the pipeline's run; the first step makes it.
        settings: The run's settings as JSON.
    """
    if torchrun.is_helper():
        yield StepRun(name, run_key, Settings.from_json(settings), "", "", silent=True)
        return
    previous = signal.signal(signal.SIGTERM, _exit_on_sigterm)
    try:
        with disk_space.explained(home_folder.home), explained():
            known = Settings.from_json(settings)
            run = ask_once(partial(retries.say, name, run_key), lambda: _begun(name, run_key, known))
            begin, status = time.monotonic(), "FAILED"
            try:
                if os.environ.get("THAWLINE_RUN_KEY"):  # in a pod, which a cluster starts again
                    from components.core.tracking import leases  # which imports this module

                    found = find_runs(run.settings.model, run_key, "step", tag_names.is_set(tag_names.INPUT_ERROR_AT))
                    retries.refuse_repeated(name, ((step_name(one), one.data.tags) for one in found), tag_names.ERROR)
                    leases.hold(run)
                with _living(run), disk_space.explained(home_folder.home), memory.explained(name):
                    yield run
                status = "FINISHED"
                run_folder.forget_error(run_key, name)
            except ExpectedError as error:
                if not isinstance(error, retries.RepeatedError):
                    run_folder.write_error(run_key, name, error)
                    with suppress(OutageError):  # of the server that would take it
                        run.tags({tag_names.ERROR: f"{error.kind}: {error}"[:4000], **retries.mark(error)})
                raise
            finally:
                with nullcontext() if status == "FINISHED" else suppress(OutageError):  # the first reason is told
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
        reason = pipeline.data.tags.get(tag_names.FAILURE, "")
        raise StepError(f"This run has been closed: {reason or 'it was lost.'}", "Start another one.")
    run_id = _step_run(name, run_key, settings.model, pipeline.info.run_id)
    run = StepRun(name, run_key, settings, run_id, pipeline.info.run_id)
    run_folder.working(name, run_key)
    return run


def pipeline_run(run_key: str, settings: Settings) -> Run:
    """The pipeline's run by key; made by the first step, or adopted where Kubeflow's MLflow plugin made one."""
    found = find_runs(settings.model, run_key, "pipeline")
    if found:
        return found[0]
    adopted = os.environ.get("MLFLOW_RUN_ID")
    if adopted:
        root = _root(adopted)
        # a run that all steps were given is nobody else's to end
        _tag(root, run_key, settings.model, "pipeline", {tag_names.ADOPTED: "true"} if root != adopted else {})
        return client().get_run(root)
    alone = not is_server(home_folder.tracking_uri())  # on one machine the first step has ended when the others start
    name, kind = f"{settings.model} {run_key}", "pipeline" if alone else tag_names.CANDIDATE
    run_id = create(name, run_key, settings.model, kind, None)
    if not alone and (elected := _elect(run_id, run_key, settings.model)) != run_id:
        return client().get_run(elected)
    given = {k: v for k, v in settings.model_dump().items() if v not in (None, "", {})}
    params = [Param(k, hidden(str(v))) for k, v in given.items()]
    client().log_batch(run_id, params=params, tags=[RunTag(tag_names.SETTINGS_DIGEST, settings.digest())])
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
        smallest = min((run.info.run_id for run in find_runs(model, run_key, tag_names.CANDIDATE)), default=mine)
        # in this order: a winner that is no candidate any more is found here
        elected = [run.info.run_id for run in find_runs(model, run_key, "pipeline")]
        if elected:
            client_.delete_run(mine)
            return str(elected[0])
        if smallest == mine:
            client_.set_tag(mine, tag_names.KIND, "pipeline")
            return mine
        if time.monotonic() > deadline:  # whoever made it was killed
            client_.delete_run(smallest)


def _root(run_id: str) -> str:
    """The run at the top of the tree: Kubeflow's plugin puts one between for each loop, condition and handler."""
    seen = {run_id}
    while (parent := client().get_run(run_id).data.tags.get(tag_names.PARENT, "")) and parent not in seen:
        seen.add(run_id := parent)
    return run_id


def _step_run(name: str, run_key: str, model: str, pipeline_id: str) -> str:
    adopted = os.environ.get("MLFLOW_RUN_ID")
    # a run without a parent is the pipeline's, which no step may end; the second step in a pod needs another run
    if not adopted or adopted == pipeline_id or client().get_run(adopted).data.tags.get(tag_names.STEP, name) != name:
        return create(name, run_key, model, "step", pipeline_id, more={tag_names.STEP: name})
    # by these tags the lineage and the exit handler find it
    _tag(adopted, run_key, model, "step", {tag_names.STEP: name})
    return adopted


def _tag(run_id: str, run_key: str, model: str, kind: str, more: Mapping[str, str]) -> None:
    tags = {tag_names.RUN_KEY: run_key, tag_names.MODEL: model, tag_names.KIND: kind, **more}
    client().log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


@contextmanager
def _living(run: StepRun) -> Iterator[None]:
    """Show in the pipeline's run that this step works, until it ends."""
    over, client_ = threading.Event(), client()
    run.tags({tag_names.ALIVE: sign_of_life()}, pipeline=True)

    def beat() -> None:
        while not over.wait(ALIVE_SECONDS):
            with suppress(Exception):  # a server that is away now may be there the next time
                client_.set_tag(run.pipeline_id, tag_names.ALIVE, sign_of_life())

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def sign_of_life() -> str:
    """Now, and which process says so."""
    return f"{time.time():.0f} {run_folder.process_mark()}"


def log_trial(
    search: StepRun,
    number: int,
    times: tuple[int, int],
    params: Mapping[str, Any],
    epochs: Sequence[Mapping[str, float]],
    state: str,
) -> None:
    """A finished trial as a run below the search step's, with its own start and end (milliseconds)."""
    made: list[str] = []  # a message may be sent again
    logged = [Param(k, str(v)) for k, v in params.items()]
    metrics = as_metrics([metric_groups.of_epoch(figures) for figures in epochs])

    def send() -> None:
        if not made:
            made.append(
                create(f"trial {number}", search.run_key, search.settings.model, "trial", search.run_id, times[0])
            )
        client().log_batch(made[0], params=logged, tags=[RunTag(tag_names.TRIAL_STATE, state)])
        log_metrics(made[0], metrics)
        client().set_terminated(made[0], "FAILED" if state == "FAIL" else "FINISHED", times[1])

    search.post(send)


def close_running(model: str, run_key: str, *, failed: bool) -> None:
    """End every run of this pipeline run that a kill left RUNNING; that of Kubeflow's plugin is the plugin's to end."""
    for run in find_runs(model, run_key):
        is_pipeline = run.data.tags.get(tag_names.KIND) == "pipeline"
        if is_pipeline and run.data.tags.get(tag_names.LEASE) == tag_names.HELD:
            client().set_tag(run.info.run_id, tag_names.LEASE, tag_names.NONE)
        if is_pipeline and tag_names.ADOPTED in run.data.tags:
            continue
        good = is_pipeline and not failed  # also where an earlier exit handler had failed, and closed it so
        if run.info.status == "RUNNING" or (good and run.info.status == "FAILED"):
            client().set_terminated(run.info.run_id, "FINISHED" if good else "FAILED")


def fail(run_id: str) -> None:
    """End a run as FAILED."""
    client().set_terminated(run_id, "FAILED")


def close_lost(pipeline: Open, reason: str, *, failed: bool = True) -> None:
    """End as KILLED what is open of a pipeline run that nothing works on any more.

    Args:
        pipeline: The run.
        reason: Why it is over.
        failed: Whether it came to no end of its own; else only its exit handler was lost, and it counts as FINISHED.
    """
    if failed:
        client().set_tag(pipeline.id, tag_names.FAILURE, reason)
    client().set_tag(pipeline.id, tag_names.LEASE, tag_names.NONE)
    conditions = [tag_names.equals(name, pipeline.tags[name]) for name in (tag_names.RUN_KEY, tag_names.MODEL)]
    end = pipeline.tags.get(tag_names.ALIVE, "").partition(" ")[
        0
    ]  # not when somebody noticed, which may be a week later
    ended = int(1000 * float(end)) if end else None
    left = [str(run.info.run_id) for run in across([*conditions, RUNNING], most=1000)]
    for run_id in dict.fromkeys([*left, pipeline.id]):
        client().set_terminated(run_id, "FINISHED" if run_id == pipeline.id and not failed else "KILLED", ended)


def close_killed(step: StepRun) -> None:
    """End as KILLED the other steps and trials of a pipeline run that goes on, whose processes are gone."""
    for run in find_runs(step.settings.model, step.run_key, extra=RUNNING):
        if run.data.tags.get(tag_names.KIND) in ("step", "trial") and run.info.run_id != step.run_id:
            client().set_terminated(run.info.run_id, "KILLED")


def record(run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
    """Log figures and tags of a run that may have ended already."""
    log_metrics(run_id, as_metrics([metrics]))
    client().log_batch(
        run_id, tags=[RunTag(name, hidden(value)[: tag_names.TAG_LENGTH]) for name, value in tags.items()]
    )


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
    tags = {
        tag_names.RUN_NAME: name,
        tag_names.RUN_KEY: run_key,
        tag_names.MODEL: model,
        tag_names.KIND: kind,
        **(more or {}),
    }
    tags |= {tag_names.PARENT: parent} if parent else {}
    run = client().create_run(experiment(model), start_time=start or int(time.time() * 1000), tags=tags)
    return str(run.info.run_id)


def _exit_on_sigterm(_signal: int, _frame: FrameType | None) -> Never:
    raise SystemExit(128 + signal.SIGTERM)
