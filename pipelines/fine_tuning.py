"""The DAG, read top to bottom.

`thawline compile` writes it as YAML for Kubeflow; `thawline run SOURCE` runs the same definition here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from kfp import dsl

from pipelines import steps


class Chosen(NamedTuple):
    """Inputs of the steps after the search, of which it made the values."""

    hyperparameters: Any
    trials: dict[str, Any]  # of `evaluate`; empty where there was no search


class Trained(NamedTuple):
    """Inputs of the steps after the training."""

    checkpoint: Any
    trials: dict[str, Any]  # as above
    inputs: dict[str, Any]  # what every step after `prepare_data` takes


Search = Callable[[dict[str, Any]], Chosen]  # takes what a step after `prepare_data` takes


def _search_in_one_pod(inputs: dict[str, Any]) -> Chosen:
    """One pod searches, with as many processes as it likes, and takes the best trial."""
    searched = steps.search(**inputs)
    return Chosen(searched.outputs["Output"], {"trials": searched.outputs["trials"]})


def _without_search(_inputs: dict[str, Any]) -> Chosen:
    """No pod searches. Steps take nothing for the defaults, and an artifact that no task makes is left out."""
    return Chosen("", {})


def _search_in_pods(workers: Any) -> Search:  # noqa: ANN401 - a parameter of the DAG
    """A pod for each of `workers`; they share a study, of which another one takes the best trial."""

    def search(inputs: dict[str, Any]) -> Chosen:
        with dsl.ParallelFor(workers, name="workers") as worker:
            searched = steps.search_worker(worker=worker, **inputs)
        chosen = steps.select_trial(studies=dsl.Collected(searched.output), **inputs)
        return Chosen(chosen.outputs["Output"], {"trials": chosen.outputs["trials"]})

    return search


@contextmanager
def training(source: str, settings: str, run_key: str, search: Search) -> Iterator[Trained]:
    """Look for changes; where there are any, train on them, or bring an earlier version back. What follows is added.

    An earlier version is judged again where its inputs are those of today, but the gate or the champion is another one:
    `search`, `train_head` and `fine_tune` then have its `version` to give back, and nothing to train.
    """
    common = {"settings": settings, "run_key": run_key}
    finished = steps.finish(**common).set_display_name("finish")
    with dsl.ExitHandler(finished, name="fine-tune"):
        changes = steps.detect_changes(source=source, **common)
        with dsl.If(changes.outputs["Output"] == True, name="changed"):  # noqa: E712 - builds a condition
            prepared = steps.prepare_data(source=source, input_digest=changes.outputs["input_digest"], **common)
            inputs = {**common, "version": changes.outputs["version"], "dataset": prepared.outputs["dataset"]}
            hyperparameters, trials = search(inputs)
            head = steps.train_head(hyperparameters=hyperparameters, **inputs)
            tuned = steps.fine_tune(hyperparameters=hyperparameters, head=head.outputs["checkpoint"], **inputs)
            yield Trained(tuned.outputs["checkpoint"], trials, inputs)


def _run(source: str, settings: str, run_key: str, search: Search) -> None:
    """Train, or take an earlier version; judge it and register it."""
    with training(source, settings, run_key, search) as (checkpoint, trials, inputs):
        evaluated = steps.evaluate(checkpoint=checkpoint, **trials, **inputs)
        decision = {name: evaluated.outputs[name] for name in ("served", "accepted", "champion")}
        steps.register(checkpoint=checkpoint, settings=settings, run_key=run_key, **decision)


@dsl.pipeline(name="fine-tuning", description="Freeze, train a head, thaw, evaluate, register.")  # type: ignore[untyped-decorator]  # kfp is untyped
def fine_tuning(
    source: str,
    settings: str,
    run_key: str,
    schedule: str = "",  # noqa: ARG001 - Kubeflow keeps it with the run
) -> None:
    """Fine-tune a pretrained network on labeled data and register it.

    Args:
        source: A folder, s3://bucket/prefix or a manifest.
        settings: All options as one canonical JSON string (`components/core/settings.py`).
        run_key: Names this run; all its runs in MLflow carry it.
        schedule: What `thawline schedule` remembers of the schedule that started the run; no step reads it.
    """
    _run(source, settings, run_key, _search_in_one_pod)


@dsl.pipeline(name="fine-tuning", description="Search in several pods, train a head, thaw, evaluate, register.")  # type: ignore[untyped-decorator]  # kfp is untyped
def searching_in_pods(
    source: str,
    settings: str,
    run_key: str,
    search_workers: list[int],
    schedule: str = "",  # noqa: ARG001 - as above
) -> None:
    """`fine_tuning`, with several pods that search; they need a study on a database.

    Args:
        source: As above.
        settings: As above.
        run_key: As above.
        search_workers: One pod searches for each item.
        schedule: As above.
    """
    _run(source, settings, run_key, _search_in_pods(search_workers))


@dsl.pipeline(name="fine-tuning", description="Train a head, thaw, evaluate, register.")  # type: ignore[untyped-decorator]  # kfp is untyped
def without_search(
    source: str,
    settings: str,
    run_key: str,
    schedule: str = "",  # noqa: ARG001 - as above
) -> None:
    """`fine_tuning` for 0 trials: no pod searches.

    The choice is made where the DAG is compiled. In the DAG a condition on the trials would need a step on its other
    side, since what steps behind it read has to come from one of the two (`dsl.OneOf`): as many pods as it saves.

    Args:
        source: As above.
        settings: As above, with 0 trials.
        run_key: As above.
        schedule: As above.
    """
    _run(source, settings, run_key, _without_search)


def search_for(trials: int) -> Search:
    """Return the search of a number of trials on one machine."""
    return _search_in_one_pod if trials else _without_search


def dag_for(trials: int) -> Callable[..., Any]:
    """Return the DAG that runs on one machine for a number of trials."""
    dag: Callable[..., Any] = fine_tuning if trials else without_search
    return dag
