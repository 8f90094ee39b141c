"""Train a new head on the frozen network: fine-tuning with the thaw line right below the head."""

import math
from pathlib import Path

from components.core.errors import StepError
from components.core.fitting import folds, training_state
from components.core.fitting.head_phase import is_solved, solve_head
from components.core.fitting.thaw_line import check_features
from components.core.machine import torchrun
from components.core.settings import Settings
from components.core.tracking import runs, step_records
from components.core.tracking.service import retries
from components.core.training import deadlines
from components.core.training.beginning import begin
from components.core.training.checkpoints import check_room, save_checkpoint, save_training_rows
from components.core.training.phase import build_network, train_phase
from components.core.training.processes import process_count, together


@step_records.taken_over("checkpoint")
@retries.patient
def train_head(
    settings: str,
    run_key: str,
    dataset: Path,
    hyperparameters: str,
    checkpoint: Path,
    version: str = "",
) -> float:
    """Write the checkpoint of the head-only model; return its loss on rows that were held out.

    Args:
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.
        dataset: Folder that `prepare_data` wrote.
        hyperparameters: The chosen trial as JSON; empty for the defaults, where there is no search.
        checkpoint: Folder to write.
        version: An earlier version that is judged again, so no head is trained and the folder stays empty; else empty.
    """
    with runs.step("train_head", run_key, settings) as run:
        if version:
            checkpoint.mkdir(parents=True, exist_ok=True)
            run.figure(f"nothing to train: version {version} is judged again")
            return 0.0
        chosen, data = begin(run, dataset, hyperparameters)
        network = build_network(data, chosen, run)
        check_room(checkpoint, network)
        calibration = None
        with together(network):
            if is_solved(network, data):
                _note_unused(run)
                found = solve_head(network, folds.joined(data), chosen, run, whole=True)
                history, calibration = [found.figures], found.calibration
                run.epoch(found.figures)
            else:
                states = training_state.folder(run, chosen.model_dump_json(), data.examples.digest)
                count = process_count(data.settings)
                history = train_phase(network, data, chosen, thaw=0, listener=run, states=states, processes=count)
        best = min(history, key=lambda figures: figures["loss"], default={"loss": math.inf})
        if torchrun.is_helper():
            return best["loss"]
        if not history:
            check_features(network, data)
            raise StepError("The training of the head diverged.", "Lower --head-learning-rate.")
        deadlines.note(run, "The training of the head", len(history), run.settings.head_epochs)
        facts = {"history": [{"phase": "head", **figures} for figures in history], "thawed": 0}
        facts |= {"calibration": calibration}
        save_checkpoint(checkpoint, network, run.settings, chosen, data.examples.classes, facts)
        save_training_rows(checkpoint, data.examples, data.target)
        run.saved(data.reuse.seconds)
        run.figure(runs.describe(data.target.metrics[0].name, best))
    return best["loss"]


def _note_unused(run: runs.StepRun) -> None:
    """Name the options that were given for a head that trains in epochs: a solved one uses none of them."""
    fields = {name: Settings.model_fields[name] for name in ("head_epochs", "head_learning_rate")}
    names = [name for name, field in fields.items() if getattr(run.settings, name) != field.default]
    if names:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in names)
        run.note(f"The head is solved for, without {options}; --head-solver sgd trains it in epochs")
