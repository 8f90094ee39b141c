"""Thaw the last stages and train on with lower rates; where that does not help, the head-only model goes on."""

import shutil
from pathlib import Path

from components.core.compute import distributed
from components.core.compute.determinism import seed_everything
from components.core.compute.device import place
from components.core.fitting import training_state
from components.core.machine import torchrun
from components.core.registry import recall
from components.core.settings import Hyperparameters
from components.core.tracking import runs, step_records, tag_names
from components.core.tracking.service import retries
from components.core.training import deadlines
from components.core.training.beginning import begin
from components.core.training.checkpoints import (
    TRAINING,
    check_room,
    kept_epoch,
    load_checkpoint,
    load_weights,
    read_facts,
    save_checkpoint,
    weights_digest,
)
from components.core.training.thawing import thaw

NOT_THAWED = "No stage was thawed, so the head-only model is kept"


@step_records.taken_over("checkpoint")
@retries.patient
def fine_tune(
    settings: str,
    run_key: str,
    dataset: Path,
    hyperparameters: str,
    head: Path,
    checkpoint: Path,
    version: str = "",
) -> float:
    """Write the thawed model where it is surely better, else the head-only one; return the loss on held-out rows.

    Args:
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.
        dataset: Folder that `prepare_data` wrote.
        hyperparameters: The chosen trial as JSON; empty for the defaults, where there is no search.
        head: Checkpoint that `train_head` wrote.
        checkpoint: Folder to write.
        version: An earlier version that is judged again: its checkpoint is written instead; else empty.
    """
    with runs.step("fine_tune", run_key, settings) as run:
        if version:
            return _recall(run, version, checkpoint)
        chosen, data = begin(run, dataset, hyperparameters)
        distributed.rendezvous()  # the first process may still be writing the head
        network, facts = load_checkpoint(head)
        check_room(checkpoint, network)
        before = kept_epoch(facts)
        # processes of torchrun can't know the deadline and are under way: there one epoch is trained
        if chosen.thaw == 0 or (not torchrun.launched() and run.deadline.reached()):
            return _hand_on(run, chosen, head, checkpoint, before["loss"])
        seed_everything(run.settings)
        states = training_state.folder(run, chosen.model_dump_json(), data.examples.digest, weights_digest(head))
        judged = thaw(place(network, run.settings.device), data, chosen, run, states)
        if torchrun.is_helper():
            return float(before["loss"])
        if judged.undecided:
            deadlines.cut(run, NOT_THAWED)
        else:
            deadlines.note(run, "The thawed training", len(judged.history), chosen.thaw_epochs)
        if not judged.helps:
            load_weights(head, network)
        epochs = [*facts["history"], *({"phase": "thaw", **figures} for figures in judged.history)]
        calibration = judged.calibration if judged.helps else facts.get("calibration")
        known = {"history": epochs, "thawed": chosen.thaw if judged.helps else 0, "thawing": str(judged)}
        known |= {"calibration": calibration}
        after = kept_epoch(known)
        save_checkpoint(checkpoint, network, run.settings, chosen, facts["classes"], known)
        shutil.copy(head / TRAINING, checkpoint)
        run.saved(data.reuse.seconds)
        run.tags({tag_names.THAWING_HELPED: str(judged.helps).lower()})
        run.note(str(judged))
        figure = runs.describe(data.target.metrics[0].name, after)
        run.figure(figure if judged.helps else f"{figure}: no clear gain from thawing, the head-only model is kept")
    return float(after["loss"])


def _recall(run: runs.StepRun, version: str, checkpoint: Path) -> float:
    """Bring an earlier version back, which needs no training; return its validation loss."""
    if torchrun.is_helper():
        return 0.0
    recall.checkpoint(run.settings.model, version, checkpoint)
    run.tags({tag_names.VERSION: version})
    run.figure(f"version {version} is judged again")
    return float(kept_epoch(read_facts(checkpoint))["loss"])


def _hand_on(run: runs.StepRun, chosen: Hyperparameters, head: Path, checkpoint: Path, loss: float) -> float:
    """Write the head-only model, because nothing is to be thawed or no time is left; return its validation loss."""
    if torchrun.is_helper():
        return loss
    shutil.copytree(head, checkpoint, dirs_exist_ok=True)
    run.figure("head only, as requested" if chosen.thaw == 0 else "head only: no time was left")
    if run.deadline.hit:
        deadlines.cut(run, NOT_THAWED)
    return loss
