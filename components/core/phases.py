"""A phase of fine-tuning: freeze below the thaw line, train what lies above. Both training steps and every trial."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.core import runs
from components.core.activations import activations_at
from components.core.examples import Examples
from components.core.network import Network, Pytree, set_thawed
from components.core.settings import Hyperparameters, Settings
from components.core.training import (
    Batches,
    fit,
    make_optimizer,
    place,
    rows_of,
    to_device,
    warmup_cosine,
)
from components.tasks import Task, load_task

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Data:
    """The prepared data as training sees it: rows of the train and validation splits, and their targets."""

    task: Task
    settings: Settings
    examples: Examples
    rows: dict[str, list[int]]
    targets: dict[str, Tensor]
    class_weights: Tensor | None


def open_data(dataset: Path, settings: Settings) -> Data:
    """Open a prepared dataset; nothing is decoded yet."""
    task, examples = load_task(settings.task), Examples(dataset)
    rows = {split: examples.rows(split) for split in ("train", "validation", "calibrate", "test")}
    targets = {split: task.targets(examples.labels(rows[split]), examples.classes) for split in ("train", "validation")}
    weights = None
    if settings.class_weights == "balanced":
        weights = task.class_weights(targets["train"], len(examples.classes))
    return Data(task, settings, examples, rows, targets, weights)


def seed_everything(settings: Settings) -> None:
    """Seed all generators; with `deterministic`, refuse kernels that would differ from run to run."""
    random.seed(settings.seed)
    np.random.seed(settings.seed)  # noqa: NPY002 - seeds what libraries draw from the global generator
    torch.manual_seed(settings.seed)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(mode=True)


def build_network(data: Data, hyperparameters: Hyperparameters) -> Network:
    """The pretrained network with a new head, seeded, on its device."""
    seed_everything(data.settings)
    network = data.task.build(data.settings, data.examples.classes, hyperparameters.dropout)
    return place(network, data.settings.device)


def activations(network: Network, data: Data, line: int, split: str, progress: Progress) -> Pytree:
    """Activations of a split at the line, from the store or into it."""
    rows = data.rows[split]

    def encode(start: int, stop: int) -> Pytree:
        return data.task.encode(data.examples.contents(rows[start:stop]), network.preprocessing)

    ids = data.examples.ids(rows)
    return activations_at(network, line, ids, encode, runs.home() / "activations", progress)


def train_phase(
    network: Network,
    data: Data,
    hyperparameters: Hyperparameters,
    *,
    thaw: int,
    report: Callable[[dict[str, float]], None],
    progress: Progress = lambda _done, _total: None,
) -> list[dict[str, float]]:
    """Train the head and the last `thaw` stages; `thaw=0` is the head phase.

    Args:
        network: On its device; keeps the best epoch's weights.
        data: The prepared data.
        hyperparameters: Rates, decays and epochs of both phases.
        thaw: Stages to thaw.
        report: Called with each epoch's figures.
        progress: Called with examples done and in total while activations are computed.

    Returns:
        Every epoch's figures, see `fit`.
    """
    settings, task = data.settings, data.task
    line = set_thawed(network, thaw)
    rate, decay, epochs = hyperparameters.head_learning_rate, 1.0, settings.head_epochs
    if thaw:
        rate, decay = hyperparameters.thaw_learning_rate, hyperparameters.layer_decay
        epochs = hyperparameters.thaw_epochs
    steps = -(-len(data.rows["train"]) // settings.batch_size) * epochs
    optimizer = make_optimizer(network, line, settings.optimizer, rate, decay, hyperparameters.weight_decay)
    weights = data.class_weights.to(next(network.parameters()).device) if data.class_weights is not None else None
    validation = activations(network, data, line, "validation", progress)
    return fit(
        network,
        line,
        _batches(network, data, line, progress),
        (validation, data.targets["validation"]),
        lambda outputs, targets: task.loss(outputs, targets, hyperparameters.label_smoothing, weights),
        task.validate,
        optimizer,
        warmup_cosine(optimizer, steps, settings.warmup),
        epochs=epochs,
        patience=settings.patience,
        clip_norm=settings.clip_norm,
        report=report,
    )


def _batches(network: Network, data: Data, line: int, progress: Progress) -> Batches:
    settings, targets, rows = data.settings, data.targets["train"], data.rows["train"]
    augments = data.task.augments(settings)
    # with everything thawed there is nothing to compute once: pictures are small, their tensors are not
    recompute = augments or settings.activations == "recompute" or line == 0
    kept = None if recompute else activations(network, data, line, "train", progress)

    def order(epoch: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(settings.seed * 100_003 + epoch)
        picks = torch.randperm(len(rows), generator=generator)
        batches = torch.split(picks, settings.batch_size)
        # a last batch of one has no variance for BatchNorm
        yield from (batch for batch in batches if len(batch) > 1 or len(batches) == 1)

    def from_store(epoch: int) -> Iterator[tuple[Pytree, Tensor]]:
        for picks in order(epoch):
            yield rows_of(kept, picks), targets[picks]

    def encoded(picks: Tensor, seed: int) -> tuple[Pytree, Tensor]:
        contents = data.examples.contents([rows[i] for i in picks.tolist()])
        if augments:
            return data.task.training_batch(contents, targets[picks], network, settings, seed)
        return data.task.encode(contents, network.preprocessing), targets[picks]

    def afresh(epoch: int) -> Iterator[tuple[Pytree, Tensor]]:
        device = next(network.parameters()).device
        for number, picks in enumerate(order(epoch)):
            inputs, mixed = encoded(picks, (settings.seed * 100_003 + epoch) * 100_003 + number)
            with torch.no_grad():
                frozen = network.below(to_device(inputs, device), line)
            yield frozen, mixed  # outside: a generator that waits inside no_grad takes the caller's gradients

    return afresh if recompute else from_store
