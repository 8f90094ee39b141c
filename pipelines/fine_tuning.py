"""The DAG, read top to bottom.

`thawline compile` writes it as YAML for Kubeflow; `thawline run SOURCE` runs the same definition here.
"""

from typing import Any, NamedTuple

from kfp import dsl

from pipelines import steps


class Chosen(NamedTuple):
    """The outputs of `best_trial`."""

    hyperparameters: str
    trials: dsl.Artifact


@dsl.pipeline(name="best-trial", description="Search with every worker, take the best trial.")  # type: ignore[untyped-decorator]  # kfp is untyped
def best_trial(
    settings: str,
    run_key: str,
    search_workers: list[int],
    dataset: dsl.Input[dsl.Dataset],
    dataset_digest: str,
    weights_digest: str,
) -> Chosen:
    """Search and choose, as a pipeline of its own.

    In a loop that takes another task's parameter itself, kfp.local 2.17 puts the loop's item in its place: the
    search would not see the digests, and go on with the study of other data.
    """
    made_of = {"dataset_digest": dataset_digest, "weights_digest": weights_digest}
    with dsl.ParallelFor(search_workers, name="workers") as worker:
        searched = steps.search(settings=settings, run_key=run_key, dataset=dataset, worker=worker, **made_of)
    chosen = steps.select_trial(settings=settings, run_key=run_key, studies=dsl.Collected(searched.output))
    return Chosen(chosen.outputs["Output"], chosen.outputs["trials"])


def _prepare(inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What every later step takes, the digests, and the data with its digests."""
    prepared = steps.prepare_data(**inputs)
    # KFP's cache keys on names and addresses, not on content: the digests make it see a change
    made_of = {name: prepared.outputs[name] for name in ("dataset_digest", "weights_digest")}
    common = {name: inputs[name] for name in ("settings", "run_key")}
    return common, made_of, {"dataset": prepared.outputs["dataset"], **made_of}


def _register(evaluated: Any, served: Any, checkpoint: Any, common: dict[str, Any]) -> None:  # noqa: ANN401 - kfp's
    decision = {name: evaluated.outputs[name] for name in ("accepted", "champion")}
    registered = steps.register(served=served, checkpoint=checkpoint, **decision, **common)
    for gate in (evaluated, registered):
        gate.set_caching_options(False)  # the champion may have changed since


def _train(inputs: dict[str, Any], search_workers: Any) -> None:  # noqa: ANN401 - a parameter of the DAG
    """The inputs are new: everything from the raw records to a new version."""
    common, made_of, data = _prepare(inputs)
    chosen = best_trial(search_workers=search_workers, **common, **data)
    hyperparameters = chosen.outputs["hyperparameters"]
    head = steps.train_head(hyperparameters=hyperparameters, **common, **data)
    tuned = steps.fine_tune(hyperparameters=hyperparameters, head=head.outputs["checkpoint"], **common, **data)
    checkpoint = tuned.outputs["checkpoint"]
    evaluated = steps.evaluate(checkpoint=checkpoint, trials=chosen.outputs["trials"], **common, **data)
    _register(evaluated, evaluated.outputs["served"], checkpoint, common | made_of)


def _judge(inputs: dict[str, Any], version: Any) -> None:  # noqa: ANN401 - a parameter of the DAG
    """An earlier run made `version` of these inputs, but the gate or the champion has changed since."""
    common, made_of, data = _prepare(inputs)
    recalled = steps.recall(version=version, **common)
    checkpoint = recalled.outputs["checkpoint"]
    evaluated = steps.evaluate(checkpoint=checkpoint, trials=recalled.outputs["trials"], **common, **data)
    _register(evaluated, recalled.outputs["served"], checkpoint, common | made_of)


@dsl.pipeline(name="train-or-judge", description="Train anew, judge an earlier version anew, or neither.")  # type: ignore[untyped-decorator]  # kfp is untyped
def train_or_judge(
    source: str,
    settings: str,
    run_key: str,
    search_workers: list[int],
    train: bool,  # noqa: FBT001 - KFP passes by name
    judge: bool,  # noqa: FBT001 - as above
    version: str,
    input_digest: str,
) -> None:
    """What `detect_changes` decided, as a pipeline of its own.

    kfp.local 2.17 does not find a step's named output in a condition beside it and takes it for false; a parameter
    it finds.
    """
    inputs = {"source": source, "settings": settings, "run_key": run_key, "input_digest": input_digest}
    with dsl.If(train == True, name="train"):  # noqa: E712 - builds a condition
        _train(inputs, search_workers)
    with dsl.If(judge == True, name="judge"):  # noqa: E712 - as above
        _judge(inputs, version)


@dsl.pipeline(name="fine-tuning", description="Freeze, train a head, thaw, evaluate, register.")  # type: ignore[untyped-decorator]  # kfp is untyped
def fine_tuning(
    source: str,
    settings: str,
    run_key: str,
    search_workers: list[int] = [0],  # noqa: B006 - KFP's form of a default
    schedule: str = "",  # noqa: ARG001 - Kubeflow keeps it with the run
) -> None:
    """Fine-tune a pretrained network on labelled data and register it.

    Args:
        source: A folder, s3://bucket/prefix or a manifest.
        settings: All options as one canonical JSON string (`components/core/settings.py`).
        run_key: Names this run; all its runs in MLflow carry it.
        search_workers: One search step runs for each item.
        schedule: What `thawline schedule` remembers of the schedule that started the run; no step reads it.
    """
    finished = steps.finish(settings=settings, run_key=run_key).set_display_name("finish")
    finished.set_caching_options(False)  # a cached exit handler would close nothing
    with dsl.ExitHandler(finished, name="fine-tune"):
        changes = steps.detect_changes(source=source, settings=settings, run_key=run_key)
        changes.set_caching_options(False)  # the source is a name; what it stands for may have changed
        train_or_judge(
            source=source,
            settings=settings,
            run_key=run_key,
            search_workers=search_workers,
            **{name: changes.outputs[name] for name in ("train", "judge", "version", "input_digest")},
        )
