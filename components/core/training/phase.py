"""A phase of fine-tuning: freeze below the thaw line, train what lies above. Both training steps and every trial."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from torch import Tensor
from torch.utils._pytree import tree_map_only

from components.core.activations.rows import Rows
from components.core.compute.determinism import seed_everything
from components.core.compute.device import place
from components.core.contract.listener import SILENT, Listener
from components.core.data.examples import START
from components.core.digests import digest
from components.core.fitting.batches import batch_count, fresh_batches, is_fresh, kept_batches
from components.core.fitting.calibration import calibrated_figures
from components.core.fitting.data import Data
from components.core.fitting.folds import pooled
from components.core.fitting.gradient_layout import channels_last_gradients
from components.core.fitting.head_phase import is_solved, solve_head
from components.core.fitting.loop import fit, make_optimizer, output_batches, outputs_of, warmup_cosine
from components.core.fitting.thaw_line import rows_at_line, rows_of_split
from components.core.fitting.training_state import StateFiles
from components.core.machine import torchrun
from components.core.networks.network import Network, Pytree, set_thawed
from components.core.settings import Hyperparameters
from components.core.training.processes import in_processes
from components.core.training.warm_start import start_from

Validate: TypeAlias = Callable[[Pytree, Tensor], dict[str, float]]


def base_network(data: Data, hyperparameters: Hyperparameters) -> Network:
    """The pretrained network with a new head, seeded, on its device."""
    seed_everything(data.settings)
    network = data.task.build(data.settings, data.examples.classes, hyperparameters.dropout)
    return place(network, data.settings.device)


def build_network(data: Data, hyperparameters: Hyperparameters, listener: Listener = SILENT) -> Network:
    """The network that training starts from: pretrained with a new head, or with a warm start the champion's."""
    network = base_network(data, hyperparameters)
    solved = is_solved(network, data)
    if (data.examples.folder / START).exists():
        folder, classes = data.examples.folder / START, data.examples.classes
        lent = start_from(network, folder, classes, head=not solved, adapt=data.task.adapt)
        listener.note(f"Started from the champion: {lent}")
    return network


def outputs(network: Network, data: Data, thawed: int, split: str, listener: Listener = SILENT) -> Pytree:
    """Outputs [N, ...] of a trained network for a split; networks with the same frozen stages share these."""
    line, rows = _rows(network, data, thawed, split, listener)
    return outputs_of(network, line, rows, next(network.parameters()).device)


def outputs_by_batch(
    network: Network, data: Data, thawed: int, split: str, listener: Listener = SILENT
) -> Iterator[Pytree]:
    """The same outputs, batch after batch: scores of 20,000 items for as many users would take 1.6 GB."""
    line, rows = _rows(network, data, thawed, split, listener)
    for part in output_batches(network, line, rows, next(network.parameters()).device, slice(0, len(rows))):
        yield tree_map_only(Tensor, Tensor.cpu, part)


def _rows(network: Network, data: Data, thawed: int, split: str, listener: Listener) -> tuple[int, Rows]:
    place(network, data.settings.device)
    line = len(network.stages) - thawed
    uses = 2.0  # by this run and by the next one, whose champion or challenger shares the frozen stages
    return line, rows_of_split(network, data, {line: uses}, split, listener)[line]


def train_phase(
    network: Network,
    data: Data,
    hyperparameters: Hyperparameters,
    *,
    thaw: int,
    listener: Listener = SILENT,
    validate: Validate | None = None,
    whole_epochs: int = 0,
    states: Path | None = None,
    processes: int = 1,
) -> list[dict[str, float]]:
    """Train the head and the last `thaw` stages; `thaw=0` is the head phase, whose optimum is solved for if it has one.

    Args:
        network: On its device; keeps the best epoch's weights, or the last one's where nothing validates.
        data: The prepared data.
        hyperparameters: Rates, decays and epochs of both phases.
        thaw: Stages to thaw.
        listener: Takes notes on activations, their progress, and each epoch's figures; see `fit`.
        validate: In place of the target's, which is asked of calibrated outputs above a solved head.
        whole_epochs: Train on training and validation rows together, for so many of the phase's epochs.
        states: Folder of the step's states, from which a phase that was cut off goes on; see `training_state`.
        processes: Of this machine that divide each batch, and use the target's own `validate`; what is solved for has
            no batches to divide.

    Returns:
        Every epoch's figures, see `fit`; those of a solved head as one epoch, see `solve_head`.
    """
    solved = is_solved(network, data)
    if solved and not thaw:
        found = solve_head(network, data, hyperparameters, listener).figures
        listener.epoch(found)
        return [found]
    if processes > 1:
        phase = partial(
            train_phase, hyperparameters=hyperparameters, thaw=thaw, whole_epochs=whole_epochs, states=states
        )
        return in_processes(processes, phase, network, data, hyperparameters, listener)
    data = pooled(data) if whole_epochs else data
    settings, target = data.settings, data.target
    line = set_thawed(network, thaw)
    rate, decay, planned = hyperparameters.head_learning_rate, 1.0, settings.head_epochs
    if thaw:
        rate, decay = hyperparameters.thaw_learning_rate, hyperparameters.layer_decay
        planned = hyperparameters.thaw_epochs
    steps = batch_count(len(data.rows["train"]), settings.batch_size) * planned
    optimizer = make_optimizer(network, line, settings.optimizer, rate, decay, hyperparameters.weight_decay)
    weights = data.class_weights.to(next(network.parameters()).device) if data.class_weights is not None else None
    lines = {line: float(planned)}
    if not thaw and hyperparameters.thaw:  # the thawed phase follows: one pass serves both
        lines[line - hyperparameters.thaw] = float(hyperparameters.thaw_epochs)
    splits = {"validation": 0} if data.rows["validation"] else {}
    if not is_fresh(data, line):
        splits["train"] = settings.views
    rows = rows_at_line(network, data, line, lines, splits, listener)
    batches = kept_batches(data, rows["train"]) if "train" in rows else fresh_batches(network, data, line)
    with channels_last_gradients([*network.stages[line:], network.head]):
        return fit(
            network,
            line,
            batches,
            (rows["validation"], data.targets["validation"]) if "validation" in rows else None,
            lambda outputs, targets: target.loss(outputs, targets, hyperparameters.label_smoothing, weights),
            validate or (partial(calibrated_figures, target) if solved else target.validate),
            optimizer,
            warmup_cosine(optimizer, steps, settings.warmup),
            epochs=whole_epochs or planned,
            patience=settings.patience,
            clip_norm=settings.clip_norm,
            listener=listener,
            states=_states(states, data, [thaw, whole_epochs or planned]) if states else None,
        )


def _states(folder: Path, data: Data, phase: Sequence[int]) -> StateFiles:
    """The states of one of a step's phases, which are told apart by their rows too; the first process writes."""
    name = digest([phase, data.rows["train"], data.rows["validation"]])[:16]
    return StateFiles(folder / name, writes=not torchrun.is_helper())
