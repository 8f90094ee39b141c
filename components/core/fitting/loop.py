"""The training loop: one for every phase and every problem."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from components.core.activations.rows import Rows
from components.core.compute import distributed
from components.core.compute.depthwise import fast_convolutions
from components.core.compute.device import half_precision, mixed_precision, to_device
from components.core.contract.listener import SILENT, Listener
from components.core.fitting.training_state import StateFiles, TrainingState, copied
from components.core.networks.network import Network, Pytree, set_training

# an epoch, and the number of the first batch of it -> batches at the thaw line, each as this process's share of its
# rows, and the targets of all rows
Batches = Callable[[int, int], Iterator[tuple[Pytree, Tensor]]]
EVALUATION_BATCH = 64


def make_optimizer(
    network: Network, line: int, name: str, learning_rate: float, layer_decay: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Optimizer over the head and the thawed stages, with lower rates for deeper stages.

    The head trains at `learning_rate`, the d-th stage below it at `learning_rate * layer_decay**d`
    (discriminative fine-tuning, Howard & Ruder 2018). Norms and biases, the one-dimensional parameters,
    get no weight decay.
    """
    modules = [network.head, *reversed(network.stages[line:])]
    groups: list[dict[str, Any]] = []
    for depth, module in enumerate(modules):
        rate = learning_rate * layer_decay**depth
        parameters = [p for p in module.parameters() if p.requires_grad]
        groups += [
            {"params": [p for p in parameters if p.dim() > 1], "lr": rate, "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "lr": rate, "weight_decay": 0.0},
        ]
    groups = [group for group in groups if group["params"]]
    # on a CPU one pass over each tensor takes a third to half of the time; a GPU keeps torch's own choice
    fused = True if next(network.parameters()).device.type == "cpu" else None
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=fused)
    return (torch.optim.Adam if name == "adam" else torch.optim.AdamW)(groups, fused=fused)


def warmup_cosine(optimizer: torch.optim.Optimizer, steps: int, warmup: float) -> LambdaLR:
    """Linear warm-up over a share of the steps, then a half cosine to zero (Loshchilov & Hutter 2017)."""
    rising = int(steps * warmup)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    return LambdaLR(optimizer, factor)


@torch.no_grad()
def outputs_of(network: Network, line: int, inputs: Rows, device: torch.device) -> Pytree:
    """Outputs [N, ...] for all examples, given as activations at the line; several processes divide them."""
    own, done = distributed.share(len(inputs)), 0
    parts = output_batches(network, line, inputs, device, own)
    outputs = first = next(parts)
    if own.stop - own.start > EVALUATION_BATCH:  # written into one: joining parts would hold all of them twice
        outputs = tree_map(lambda part: part.new_empty((own.stop - own.start, *part.shape[1:])), first)
        for part in itertools.chain([first], parts):
            for whole, some in zip(tree_leaves(outputs), tree_leaves(part), strict=True):
                whole[done : done + len(some)] = some
            done += EVALUATION_BATCH
    return tree_map_only(Tensor, Tensor.cpu, distributed.whole(outputs, len(inputs)))


@torch.no_grad()
def output_batches(network: Network, line: int, inputs: Rows, device: torch.device, own: slice) -> Iterator[Pytree]:
    """Outputs [B, ...] on the device for some of the examples, batch after batch."""
    network.eval()
    for start in range(own.start, own.stop, EVALUATION_BATCH):
        batch = inputs[start : min(start + EVALUATION_BATCH, own.stop)]
        with mixed_precision(device):
            yield tree_map_only(Tensor, Tensor.float, network.above(to_device(batch, device), line))


def fit(
    network: Network,
    line: int,
    batches: Batches,
    validation: tuple[Rows, Tensor] | None,
    loss: Callable[[Pytree, Tensor], Tensor],
    validate: Callable[[Pytree, Tensor], dict[str, float]],
    optimizer: torch.optim.Optimizer,
    schedule: LambdaLR,
    *,
    epochs: int,
    patience: int,
    clip_norm: float,
    listener: Listener = SILENT,
    states: StateFiles | None = None,
) -> list[dict[str, float]]:
    """Train what lies above the line, stop early, and leave the best epoch's weights in the network.

    Args:
        network: On its device already; only parameters that require gradients change.
        line: Stages below the thaw line; batches and validation hold the activations there.
        batches: Gives an epoch's batches, or those that are left of it.
        validation: Activations of the validation split and their targets; without, the last epoch is the best.
        loss: Of outputs and targets, a scalar mean.
        validate: Figures of the whole validation split; `loss` decides which epoch is best.
        optimizer: Over the trainable parameters.
        schedule: Stepped after every batch.
        epochs: Most epochs to run.
        patience: Epochs without a lower validation loss before stopping.
        clip_norm: Largest gradient norm; 0 switches clipping off.
        listener: Takes every epoch's figures; asked before each further epoch, with the seconds of the one before,
            whether to stop with the best so far.
        states: Where the phase goes on from if it was cut off, and what it may go on from then.

    Returns:
        Figures of every epoch: `epoch`, `train_loss`, `loss`, what `validate` gives, `learning_rate`,
        `seconds` and `best` (1.0 on the epoch whose weights were kept). An epoch that diverged ends the training
        and is not among them, so none is left of a training that diverged at once.
    """
    device = next(network.parameters()).device
    trained = nn.ModuleList([*network.stages[line:], network.head])
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda" and half_precision() == torch.float16)
    forward, kernels = distributed.parallel(network, line), fast_convolutions(trained)
    state = TrainingState(
        trained, optimizer, schedule, scaler, copied(trained), torch.zeros((), device=device), math.inf
    )
    if states:
        states.restore(state)
        for figures in state.history:  # this process's listener has not had them
            listener.epoch(figures)
    while _goes_on(state, epochs, patience, listener, device):
        begin = time.monotonic() - state.seconds
        if not state.batches:
            state.learning_rate = float(schedule.get_last_lr()[0])
        set_training(network, line)
        with states.ending_between_batches() if states else nullcontext():
            for inputs, targets in batches(state.epoch, state.batches):
                with mixed_precision(device), kernels:
                    with distributed.whole_batch(len(targets)):
                        outputs = forward(to_device(inputs, device))
                    batch_loss = loss(distributed.whole(outputs, len(targets)), to_device(targets, device))
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(batch_loss).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                _descend(optimizer, schedule, scaler, clip_norm)
                state.add(batch_loss.detach(), len(targets), time.monotonic() - begin)
                if states:
                    states.offer(state)
        figures = {"loss": state.mean_loss()}
        if validation:
            figures = validate(outputs_of(network, line, validation[0], device), validation[1])
        figures = distributed.agreed({"train_loss": state.mean_loss(), **figures}, device)
        if not (math.isfinite(figures["train_loss"]) and math.isfinite(figures["loss"])):
            break  # diverged: no later epoch can be better
        state.end_epoch(figures, time.monotonic() - begin, keep=figures["loss"] < state.best or not validation)
        text = f"{'validation' if validation else 'training'} loss {figures['loss']:.3f}"
        listener.epoch(state.history[-1])
        listener.progress(state.epoch, epochs, text)
    trained.load_state_dict(state.kept)
    return [{**figures, "best": float(figures["epoch"] == state.best_epoch)} for figures in state.history]


def _goes_on(state: TrainingState, epochs: int, patience: int, listener: Listener, device: torch.device) -> bool:
    """Return whether another epoch follows, or the rest of one that was cut off."""
    if not state.history or state.batches:
        return state.epoch < epochs
    if state.epoch - 1 - state.best_epoch >= patience or state.epoch == epochs:
        return False
    seconds = state.history[-1]["seconds"]
    # the first process's clock decides for all
    return not distributed.agreed({"stop": float(listener.should_stop(seconds))}, device)["stop"]


def _descend(
    optimizer: torch.optim.Optimizer, schedule: LambdaLR, scaler: torch.amp.GradScaler, clip_norm: float
) -> None:
    """Make one step down the gradients, whose norm is clipped unless `clip_norm` is 0."""
    if clip_norm:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip_norm)
    scaler.step(optimizer)
    scaler.update()
    schedule.step()
