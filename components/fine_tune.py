"""Thaw the last stages and train on with lower rates; where that does not help, the head-only model goes on."""

import json
import shutil
from pathlib import Path

from components.core.compute import distributed
from components.core.compute.device import place
from components.core.registry import recall
from components.core.settings import Hyperparameters, Settings
from components.core.tracking import provenance, retries, runs
from components.core.training import deadlines
from components.core.training.checkpoints import TRAINING, load_checkpoint, read_facts, save_checkpoint
from components.core.training.phase import open_data, seed_everything
from components.core.training.processes import train


@retries.patient
def fine_tune(
    settings: str,
    run_key: str,
    dataset: Path,
    dataset_digest: str,
    weights_digest: str,
    hyperparameters: str,
    head: Path,
    checkpoint: Path,
    version: str = "",
) -> float:
    """Write the better of the head-only and the thawed model by validation loss; return that loss.

    Args:
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.
        dataset: Folder that `prepare_data` wrote.
        dataset_digest: Of that data; here so that a cache can't serve another week's result.
        weights_digest: Of the pretrained weights, for the same reason.
        hyperparameters: The chosen trial as JSON.
        head: Checkpoint that `train_head` wrote.
        checkpoint: Folder to write.
        version: An earlier version that is judged again: its checkpoint is written instead; else empty.
    """
    if version:
        return _recall(settings, run_key, version, checkpoint)
    chosen = Hyperparameters.model_validate(json.loads(hyperparameters))
    distributed.meet()  # the first process may still be writing the head
    if distributed.helps():
        return _help(Settings.from_json(settings), dataset, chosen, head)
    with runs.step("fine_tune", run_key, settings) as run:
        run.params(chosen.model_dump())
        run.tags({"thawline.dataset_digest": dataset_digest, "thawline.weights_digest": weights_digest})
        network, facts = load_checkpoint(head)
        before = min(facts["history"], key=lambda figures: figures["loss"])
        deadline = deadlines.of(run)
        # those of torchrun can't know the deadline and are under way: there one epoch is trained
        if chosen.thaw == 0 or (not distributed.launched() and deadline.reached()):
            shutil.copytree(head, checkpoint, dirs_exist_ok=True)
            run.figure("head only, as asked" if chosen.thaw == 0 else "head only: no time was left")
            if deadline.hit:
                deadlines.cut(run, "No stage was thawed, so the head-only model goes on", deadline)
            return float(before["loss"])
        data = open_data(dataset, run.settings)
        seed_everything(run.settings)
        place(network, run.settings.device)

        def report(figures: dict[str, float]) -> None:
            run.epoch(figures)
            run.progress(int(figures["epoch"]) + 1, chosen.thaw_epochs, f"validation loss {figures['loss']:.3f}")

        history = train(
            network,
            data,
            chosen,
            thaw=chosen.thaw,
            report=report,
            say=run.note,
            progress=run.progress,
            stop=deadline.reached,
        )
        if deadline.hit:
            what = f"The thawed training stopped after {len(history)} of {chosen.thaw_epochs} epochs"
            deadlines.cut(run, what, deadline)
        after = min(history, key=lambda figures: figures["loss"], default=before)  # none where it diverged at once
        both = [*facts["history"], *({"phase": "thaw", **figures} for figures in history)]
        helped = after["loss"] < before["loss"]
        kept, thawed = (network, chosen.thaw) if helped else (load_checkpoint(head)[0], 0)
        save_checkpoint(checkpoint, kept, run.settings, chosen, facts["classes"], {"history": both, "thawed": thawed})
        shutil.copy(head / TRAINING, checkpoint)
        run.saved(data.reuse.seconds)
        run.tags({"thawline.thawing_helped": str(helped).lower()})
        figure = runs.describe(data.target.metrics[0].name, after if helped else before)
        run.figure(figure if helped else f"{figure}: thawing did not help, the head-only model goes on")
    return float(min(before["loss"], after["loss"]))


def _recall(settings: str, run_key: str, version: str, checkpoint: Path) -> float:
    """Bring an earlier version back, which needs no training."""
    with runs.step("fine_tune", run_key, settings) as run:
        recall.checkpoint(run.settings.model, version, checkpoint)
        run.tags({provenance.VERSION: version})
        run.figure(f"version {version} is judged again")
    return float(min(figures["loss"] for figures in read_facts(checkpoint)["history"]))


def _help(settings: Settings, dataset: Path, chosen: Hyperparameters, head: Path) -> float:
    """Train along with the first process, which records and writes."""
    network, facts = load_checkpoint(head)
    losses = [figures["loss"] for figures in facts["history"]]
    if chosen.thaw:
        seed_everything(settings)
        history = train(place(network, settings.device), open_data(dataset, settings), chosen, thaw=chosen.thaw)
        losses += [figures["loss"] for figures in history]
    return float(min(losses))
