"""The DAG, read top to bottom.

`thawline compile` writes it as YAML for Kubeflow; `thawline run SOURCE` runs the same definition here.
"""

from typing import NamedTuple

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
    search_workers: list,  # type: ignore[type-arg]  # KFP's form of a list
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


@dsl.pipeline(name="fine-tuning", description="Freeze, train a head, thaw, evaluate, register.")  # type: ignore[untyped-decorator]  # kfp is untyped
def fine_tuning(
    source: str,
    settings: str,
    run_key: str,
    search_workers: list = [0],  # type: ignore[type-arg]  # noqa: B006 - KFP's form of a list and its default
) -> None:
    """Fine-tune a pretrained network on labelled data and register it.

    Args:
        source: A folder, s3://bucket/prefix or a manifest.
        settings: All options as one canonical JSON string (`components/core/settings.py`).
        run_key: Names this run; all its runs in MLflow carry it.
        search_workers: One search step runs for each item.
    """
    finished = steps.finish(settings=settings, run_key=run_key).set_display_name("finish")
    finished.set_caching_options(False)  # a cached exit handler would close nothing
    with dsl.ExitHandler(finished, name="fine-tune"):
        prepared = steps.prepare_data(source=source, settings=settings, run_key=run_key)
        # KFP's cache keys on names and addresses, not on content: the digests make it see a change
        made_of = {
            "dataset_digest": prepared.outputs["dataset_digest"],
            "weights_digest": prepared.outputs["weights_digest"],
        }
        common = {"settings": settings, "run_key": run_key}
        data = {"dataset": prepared.outputs["dataset"], **made_of}
        chosen = best_trial(search_workers=search_workers, **common, **data)
        hyperparameters = chosen.outputs["hyperparameters"]
        head = steps.train_head(hyperparameters=hyperparameters, **common, **data)
        tuned = steps.fine_tune(hyperparameters=hyperparameters, head=head.outputs["checkpoint"], **common, **data)
        evaluated = steps.evaluate(
            checkpoint=tuned.outputs["checkpoint"], trials=chosen.outputs["trials"], **common, **data
        )
        registered = steps.register(
            served=evaluated.outputs["served"],
            checkpoint=tuned.outputs["checkpoint"],
            accepted=evaluated.outputs["accepted"],
            champion=evaluated.outputs["champion"],
            **common,
            **made_of,
        )
        for gate in (evaluated, registered):
            gate.set_caching_options(False)  # the champion may have changed since
