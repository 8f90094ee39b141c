"""Train a new head on the frozen network: fine-tuning with the thaw line right below the head."""

import json
import math
from pathlib import Path

from components.core.compute import distributed
from components.core.errors import StepError
from components.core.settings import Hyperparameters, Settings
from components.core.tracking import retries, runs
from components.core.training import deadlines
from components.core.training.checkpoints import save_checkpoint, save_training_rows
from components.core.training.phase import build_network, open_data
from components.core.training.processes import train


@retries.patient
def train_head(
    settings: str,
    run_key: str,
    dataset: Path,
    dataset_digest: str,
    weights_digest: str,
    hyperparameters: str,
    checkpoint: Path,
    version: str = "",
) -> float:
    """Write the checkpoint of the head-only model; return its validation loss.

    Args:
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.
        dataset: Folder that `prepare_data` wrote.
        dataset_digest: Of that data; here so that a cache can't serve another week's result.
        weights_digest: Of the pretrained weights, for the same reason.
        hyperparameters: The chosen trial as JSON.
        checkpoint: Folder to write.
        version: An earlier version that is judged again, so no head is trained and the folder stays empty; else empty.
    """
    if version:
        checkpoint.mkdir(parents=True, exist_ok=True)
        with runs.step("train_head", run_key, settings) as run:
            run.figure(f"nothing to train: version {version} is judged again")
        return 0.0
    chosen = Hyperparameters.model_validate(json.loads(hyperparameters))
    if distributed.helps():
        return _help(Settings.from_json(settings), dataset, chosen)
    with runs.step("train_head", run_key, settings) as run:
        run.params(chosen.model_dump())
        run.tags({"thawline.dataset_digest": dataset_digest, "thawline.weights_digest": weights_digest})
        deadline = deadlines.of(run)
        data = open_data(dataset, run.settings)
        network = build_network(data, chosen, run.note)
        epochs = run.settings.head_epochs

        def report(figures: dict[str, float]) -> None:
            run.epoch(figures)
            run.progress(int(figures["epoch"]) + 1, epochs, f"validation loss {figures['loss']:.3f}")

        history = train(
            network, data, chosen, thaw=0, report=report, say=run.note, progress=run.progress, stop=deadline.reached
        )
        if not history:
            raise StepError("The training of the head diverged.", "Lower --head-learning-rate.")
        if deadline.hit:
            deadlines.cut(run, f"The training of the head stopped after {len(history)} of {epochs} epochs", deadline)
        best = min(history, key=lambda figures: figures["loss"])
        facts = {"history": [{"phase": "head", **figures} for figures in history], "thawed": 0}
        save_checkpoint(checkpoint, network, run.settings, chosen, data.examples.classes, facts)
        save_training_rows(checkpoint, data.examples, data.target)
        run.saved(data.reuse.seconds)
        run.figure(runs.describe(data.target.metrics[0].name, best))
    return best["loss"]


def _help(settings: Settings, dataset: Path, chosen: Hyperparameters) -> float:
    """Train along with the first process, which records and writes."""
    data = open_data(dataset, settings)
    history = train(build_network(data, chosen), data, chosen, thaw=0)
    return min((figures["loss"] for figures in history), default=math.inf)
