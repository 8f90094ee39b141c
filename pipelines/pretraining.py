"""The DAG of `thawline pretrain`: the steps of a run as far as the training, then a folder with the weights.

Nothing is evaluated, registered or promoted: that is for the run which starts from these weights.
"""

from collections.abc import Callable
from typing import Any

from kfp import dsl

from pipelines import steps
from pipelines.fine_tuning import search_for, training


@steps.step
def save_weights(settings: str, run_key: str, checkpoint: dsl.Input[dsl.Model], output: str) -> None:
    """See components/core/training/saved_weights.py."""
    from pathlib import Path

    from components.core.run_folder import start

    run_key = start("save_weights", run_key)
    from components.core.training.saved_weights import save_weights

    save_weights(settings, run_key, Path(checkpoint.path), output)


def pretraining_for(trials: int) -> Callable[..., Any]:
    """Return the DAG for a number of trials; it takes the folder as `output` beside the parameters of a run."""

    @dsl.pipeline(name="pretraining", description="Search, train a head, thaw, save the weights.")  # type: ignore[untyped-decorator]  # kfp is untyped
    def pretraining(source: str, settings: str, run_key: str, output: str) -> None:
        with training(source, settings, run_key, search_for(trials)) as trained:
            save_weights(settings=settings, run_key=run_key, checkpoint=trained.checkpoint, output=output)

    dag: Callable[..., Any] = pretraining
    return dag
