"""Each step as a Kubeflow component: a wrapper of a few lines over the plain function of the same name.

Kubeflow ships a wrapper's source and runs it elsewhere, so its imports stand inside; `start` comes before the
step's own import, which costs seconds that the run's progress tells apart.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from kfp import dsl

IMAGE = os.environ.get("THAWLINE_IMAGE", "thawline-python:latest")  # read when the DAG is compiled
Configure = Callable[[str, Any], None]  # takes a step's name and the task that kfp made of it
_configure: ContextVar[Configure] = ContextVar("configure", default=lambda _name, _task: None)


@contextmanager
def configured(configure: Configure) -> Iterator[None]:
    """Let `configure` change every task of the steps that are called meanwhile; without it a task stays as it is."""
    token = _configure.set(configure)
    try:
        yield
    finally:
        _configure.reset(token)


def step(function: Callable[..., Any]) -> Any:  # noqa: ANN401 - kfp is untyped
    """A wrapper as a component of the image."""
    component = dsl.component(function, base_image=IMAGE, install_kfp_package=False)

    def call(**inputs: Any) -> Any:  # noqa: ANN401 - as above
        task = component(**inputs)
        task.set_caching_options(False)  # what an input names may have changed: a source, a champion, a run in MLflow
        _configure.get()(function.__name__, task)
        return task

    call.python_func = function  # type: ignore[attr-defined]  # as kfp's own components have it
    return call


@step
def detect_changes(
    source: str,
    settings: str,
    run_key: str,
) -> NamedTuple("Changes", Output=bool, version=str, input_digest=str):  # type: ignore[valid-type]  # as below
    """See components/detect_changes.py, which announces itself: most often the command line has looked already.

    `Output` is whether there is anything to do: in a condition kfp.local 2.17 finds no output of another name.
    """
    from components.core.run_folder import own_key
    from components.detect_changes import detect_changes

    return detect_changes(source, settings, own_key(run_key))


@step
def prepare_data(
    source: str,
    settings: str,
    run_key: str,
    input_digest: str,
    dataset: dsl.Output[dsl.Dataset],
) -> None:
    """See components/prepare_data.py."""
    from pathlib import Path

    from components.core.run_folder import start

    run_key = start("prepare_data", run_key)
    from components.prepare_data import prepare_data

    prepare_data(source, settings, run_key, Path(dataset.path), input_digest)


@step
def search(
    settings: str,
    run_key: str,
    version: str,
    dataset: dsl.Input[dsl.Dataset],
    trials: dsl.Output[dsl.Artifact],
) -> str:
    """See components/search.py and components/select_trial.py: one pod searches, and takes the best trial."""
    from pathlib import Path

    from components.core.run_folder import start

    run_key = start("search", run_key)
    from components.search import search

    study = search(settings, run_key, Path(dataset.path), version=version)
    start("select_trial", run_key)
    from components.select_trial import select_trial

    return select_trial(settings, run_key, [study], Path(dataset.path), Path(trials.path), version)


@step
def search_worker(
    settings: str,
    run_key: str,
    version: str,
    dataset: dsl.Input[dsl.Dataset],
    worker: int,
) -> str:
    """See components/search.py: one of several pods that share a study."""
    from pathlib import Path

    from components.core.run_folder import start

    run_key = start("search", run_key)
    from components.search import search

    return search(settings, run_key, Path(dataset.path), worker, version)


@step
def select_trial(
    settings: str,
    run_key: str,
    version: str,
    dataset: dsl.Input[dsl.Dataset],
    studies: list,  # type: ignore[type-arg]  # KFP gives elements of a list no type
    trials: dsl.Output[dsl.Artifact],
) -> str:
    """See components/select_trial.py: of the study that several pods share."""
    from pathlib import Path

    from components.core.run_folder import start

    run_key = start("select_trial", run_key)
    from components.select_trial import select_trial

    return select_trial(settings, run_key, studies, Path(dataset.path), Path(trials.path), version)


@step
def train_head(
    settings: str,
    run_key: str,
    version: str,
    dataset: dsl.Input[dsl.Dataset],
    hyperparameters: str,
    checkpoint: dsl.Output[dsl.Model],
) -> float:
    """See components/train_head.py."""
    from pathlib import Path

    from components.core.run_folder import start

    run_key = start("train_head", run_key)
    from components.train_head import train_head

    return train_head(
        settings,
        run_key,
        Path(dataset.path),
        hyperparameters,
        Path(checkpoint.path),
        version,
    )


@step
def fine_tune(
    settings: str,
    run_key: str,
    version: str,
    dataset: dsl.Input[dsl.Dataset],
    hyperparameters: str,
    head: dsl.Input[dsl.Model],
    checkpoint: dsl.Output[dsl.Model],
) -> float:
    """See components/fine_tune.py."""
    from pathlib import Path

    from components.core.run_folder import start

    run_key = start("fine_tune", run_key)
    from components.fine_tune import fine_tune

    return fine_tune(
        settings,
        run_key,
        Path(dataset.path),
        hyperparameters,
        Path(head.path),
        Path(checkpoint.path),
        version,
    )


@step
def evaluate(
    settings: str,
    run_key: str,
    version: str,
    dataset: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Input[dsl.Model],
    served: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    trials: dsl.Input[dsl.Artifact] = None,  # made by the search, where there is one
) -> NamedTuple("Evaluated", accepted=bool, champion=str):  # type: ignore[valid-type]  # KFP's form of it
    """See components/evaluate.py."""
    from pathlib import Path

    from components.core.run_folder import start

    run_key = start("evaluate", run_key)
    from components.evaluate import evaluate

    found = evaluate(
        settings,
        run_key,
        Path(dataset.path),
        Path(checkpoint.path),
        Path(trials.path) if trials else None,
        Path(served.path),
        Path(report.path),
        version,
    )
    for name, value in found.metrics.items():
        metrics.log_metric(name, value)
    if found.confusion is not None:
        confusion.log_confusion_matrix(*found.confusion)
    return found.accepted, found.champion


@step
def register(
    settings: str,
    run_key: str,
    served: dsl.Input[dsl.Model],
    checkpoint: dsl.Input[dsl.Model],
    champion: str,
    accepted: bool,  # noqa: FBT001 - KFP passes by name
) -> str:
    """See components/register.py."""
    from pathlib import Path

    from components.core.run_folder import start

    run_key = start("register", run_key)
    from components.register import register

    return register(
        settings,
        run_key,
        Path(served.path),
        Path(checkpoint.path),
        champion,
        accepted=accepted,
    )


@step
def finish(settings: str, run_key: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """See components/finish.py."""
    from components.core.run_folder import start

    run_key = start("finish", run_key)
    from components.finish import finish

    finish(settings, run_key, status.state)
