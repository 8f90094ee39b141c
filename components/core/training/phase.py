"""A phase of fine-tuning: freeze below the thaw line, train what lies above. Both training steps and every trial."""

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.core.activations import caching_plan
from components.core.activations.caching_plan import GIGABYTE, Policy
from components.core.activations.passes import Progress, Wanted, row_key
from components.core.activations.rows import Reuse, Rows
from components.core.compute import distributed
from components.core.compute.device import mixed_precision, place, rows_of, to_device
from components.core.contract import Target, Task, load_task
from components.core.data.examples import START, Examples
from components.core.errors import InputError
from components.core.networks.network import Network, Pytree, set_thawed
from components.core.settings import Hyperparameters, Settings, digest
from components.core.task_options import with_measured
from components.core.tracking.provenance import encoding_digest
from components.core.training.loop import Batches, fit, make_optimizer, outputs_of, warmup_cosine
from components.core.training.warm_start import start_from

Say = Callable[[str], None]


@dataclass(frozen=True)
class Data:
    """The prepared data as training sees it: rows of the train and validation splits, and their targets."""

    task: Task
    target: Target
    settings: Settings
    examples: Examples
    rows: dict[str, list[int]]
    targets: dict[str, Tensor]
    class_weights: Tensor | None
    reuse: Reuse = field(default_factory=Reuse)  # what reading kept activations saved so far


def open_data(dataset: Path, settings: Settings) -> Data:
    """Open a prepared dataset; nothing is decoded yet."""
    task, examples = load_task(settings.task), Examples(dataset)
    settings = with_measured(settings, examples.info)
    target = task.target(settings)
    rows = {split: examples.rows(split) for split in ("train", "validation", "calibrate", "test")}
    targets = {
        split: target.targets(examples.labels(rows[split]), examples.classes) for split in ("train", "validation")
    }
    weights = None
    if settings.class_weights == "balanced":
        weights = target.class_weights(targets["train"], len(examples.classes))
    return Data(task, target, settings, examples, rows, targets, weights)


def seed_everything(settings: Settings) -> None:
    """Seed all generators; with `deterministic`, refuse kernels that would differ from run to run."""
    random.seed(settings.seed)
    np.random.seed(settings.seed)  # noqa: NPY002 - seeds what libraries draw from the global generator
    torch.manual_seed(settings.seed)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(mode=True)


def base_network(data: Data, hyperparameters: Hyperparameters) -> Network:
    """The pretrained network with a new head, seeded, on its device."""
    seed_everything(data.settings)
    network = data.task.build(data.settings, data.examples.classes, hyperparameters.dropout)
    return place(network, data.settings.device)


def build_network(data: Data, hyperparameters: Hyperparameters, say: Say = lambda _text: None) -> Network:
    """The network that training starts from: pretrained with a new head, or with a warm start the champion's."""
    network = base_network(data, hyperparameters)
    if (data.examples.folder / START).exists():
        say(f"The champion lends {start_from(network, data.examples.folder / START, data.examples.classes)}")
    return network


def rows_at(
    network: Network,
    data: Data,
    lines: Mapping[int, float],
    split: str,
    say: Say = lambda _text: None,
    progress: Progress = lambda _done, _total, _text: None,
    views: int = 0,
) -> dict[int, Rows]:
    """Activations of one split at each thaw line, see `rows_of_splits`."""
    return rows_of_splits(network, data, lines, {split: views}, say, progress)[split]


def rows_of_splits(
    network: Network,
    data: Data,
    lines: Mapping[int, float],
    splits: Mapping[str, int],
    say: Say = lambda _text: None,
    progress: Progress = lambda _done, _total, _text: None,
) -> dict[str, dict[int, Rows]]:
    """Activations of splits at each thaw line; with V views, view v of example i is row `v * examples + i`.

    Splits without views share a plan and a pass: measuring engines costs as much for a few examples as for many.

    Args:
        network: On its device.
        data: The prepared data.
        lines: Thaw lines, and how often every example will be asked for there.
        splits: Names of splits, and how many augmented views of each example; 0: the examples as they are.
        say: Takes one line for each decision to keep or recompute.
        progress: Called with examples done, in total, and what is done.
    """
    found = {
        name: _rows_at(network, data, lines, [name], views, say, progress) for name, views in splits.items() if views
    }
    plain = [name for name, views in splits.items() if not views]
    whole, begin = _rows_at(network, data, lines, plain, 0, say, progress) if plain else {}, 0
    for name in plain:
        count = len(data.rows[name])
        found[name] = {line: Part(rows, begin, count) for line, rows in whole.items()}
        begin += count
    return found


@dataclass(frozen=True)
class Part:
    """Consecutive rows of others."""

    rows: Rows
    begin: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: slice | Tensor) -> Pytree:
        """These rows of every tensor, [B, ...]."""
        if isinstance(rows, slice):
            picked = range(self.begin, self.begin + self.count)[rows]
            return self.rows[picked.start : picked.stop : picked.step]
        return self.rows[rows + self.begin]


def _rows_at(
    network: Network,
    data: Data,
    lines: Mapping[int, float],
    splits: Sequence[str],
    views: int,
    say: Say,
    progress: Progress,
) -> dict[int, Rows]:
    settings, rows = data.settings, [row for split in splits for row in data.rows[split]]
    ids = data.examples.ids(rows)

    def encode(positions: Sequence[int]) -> Pytree:
        places = [position % len(rows) for position in positions]
        contents = data.examples.contents([rows[place] for place in places])
        if not views:
            return data.task.encode(contents, network.preprocessing)
        names = [_view(data, position // len(rows)) for position in positions]
        seeds = [_seed(ids[place], name) for place, name in zip(places, names, strict=True)]
        given = data.targets[splits[0]][places]
        inputs, moved = data.task.augment(contents, given, network.preprocessing, settings, seeds)
        _refuse_moved(given, moved)
        return inputs

    names, encoding = [_view(data, view) for view in range(views)] or [""], _encoding(data, views)
    wanted = Wanted([row_key(example, name, encoding) for name in names for example in ids], encode)
    uses = {line: count / max(1, views) for line, count in lines.items()}  # an epoch draws one view of each example
    policy = policy_of(settings)
    if settings.activations != "recompute" and not distributed.leads():
        policy = replace(policy, mode="stored")  # what the leader left; its decision holds for all
    return caching_plan.rows_at(network, uses, wanted, policy, say, progress, data.reuse)


def _refuse_moved(given: Tensor, moved: Tensor) -> None:
    """Views are kept without targets, so these must not move with them."""
    if moved is not given and not torch.equal(moved, given):
        raise InputError("--augment moves the labels of this task, and --views keeps none.", "Leave out --views.")


def policy_of(settings: Settings) -> Policy:
    """What the user decided about activations."""
    return Policy(settings.activations, settings.activation_precision, settings.cache_budget * GIGABYTE)


def _encoding(data: Data, views: int) -> str:
    """What the network's input depends on beside example, view and preprocessing; views also on the task's options.

    Options that the data decide are left out: they change every week, and what they mean for the input is part of the
    preprocessing.
    """
    task, settings = data.task, data.settings
    found = encoding_digest(settings.task, task.serving_code, task.serving_requirements)
    if not views:
        return found
    measured = data.examples.info.get("options", {})
    return digest([found, settings.task, {k: v for k, v in settings.option.items() if measured.get(k) != v}])


def _view(data: Data, number: int) -> str:
    """Which view of its example it is; its augmentation is seeded by it."""
    return f"{data.settings.augment}/{data.settings.seed}/{number}"


def _seed(example: str, view: str) -> int:
    return int.from_bytes(row_key(example, view)[:7])


def outputs(network: Network, data: Data, thawed: int, split: str, say: Say, progress: Progress) -> Pytree:
    """Outputs [N, ...] of a trained network for a split; networks with the same frozen stages share these."""
    place(network, data.settings.device)
    line = len(network.stages) - thawed
    uses = 2.0  # by this run and by the next one, whose champion or challenger shares the frozen stages
    rows = rows_at(network, data, {line: uses}, split, say, progress)[line]
    return outputs_of(network, line, rows, next(network.parameters()).device)


def train_phase(
    network: Network,
    data: Data,
    hyperparameters: Hyperparameters,
    *,
    thaw: int,
    report: Callable[[dict[str, float]], None],
    say: Say = lambda _text: None,
    progress: Progress = lambda _done, _total, _text: None,
    stop: Callable[[float], bool] = lambda _seconds: False,
) -> list[dict[str, float]]:
    """Train the head and the last `thaw` stages; `thaw=0` is the head phase.

    Args:
        network: On its device; keeps the best epoch's weights.
        data: The prepared data.
        hyperparameters: Rates, decays and epochs of both phases.
        thaw: Stages to thaw.
        report: Called with each epoch's figures.
        say: Takes one line for each decision to keep or recompute activations.
        progress: Called with examples done, in total, and what is done while activations are computed.
        stop: Asked before each further epoch, see `fit`.

    Returns:
        Every epoch's figures, see `fit`.
    """
    settings, target = data.settings, data.target
    line = set_thawed(network, thaw)
    rate, decay, epochs = hyperparameters.head_learning_rate, 1.0, settings.head_epochs
    if thaw:
        rate, decay = hyperparameters.thaw_learning_rate, hyperparameters.layer_decay
        epochs = hyperparameters.thaw_epochs
    steps = _batches_of(len(data.rows["train"]), settings.batch_size) * epochs
    optimizer = make_optimizer(network, line, settings.optimizer, rate, decay, hyperparameters.weight_decay)
    weights = data.class_weights.to(next(network.parameters()).device) if data.class_weights is not None else None
    lines = {line: float(epochs)}
    if not thaw and hyperparameters.thaw:  # the thawed phase follows: one pass serves both
        lines[line - hyperparameters.thaw] = float(hyperparameters.thaw_epochs)
    with distributed.leader_first():
        splits = {"validation": 0} if _is_fresh(data, line) else {"validation": 0, "train": settings.views}
        rows = {
            name: found[line] for name, found in rows_of_splits(network, data, lines, splits, say, progress).items()
        }
    batches = _kept_batches(data, rows["train"]) if "train" in rows else _fresh_batches(network, data, line)
    return fit(
        network,
        line,
        batches,
        (rows["validation"], data.targets["validation"]),
        lambda outputs, targets: target.loss(outputs, targets, hyperparameters.label_smoothing, weights),
        target.validate,
        optimizer,
        warmup_cosine(optimizer, steps, settings.warmup),
        epochs=epochs,
        patience=settings.patience,
        clip_norm=settings.clip_norm,
        report=report,
        stop=stop,
    )


def _is_fresh(data: Data, line: int) -> bool:
    """Whether training examples differ from epoch to epoch; with all thawed there is nothing to keep views of."""
    return data.task.augments(data.settings) or (data.settings.views > 0 and line == 0)


def _kept_batches(data: Data, rows: Rows) -> Batches:
    """Batches of rows at the thaw line, in each epoch's order and view."""
    settings, targets, count = data.settings, data.targets["train"], len(data.rows["train"])

    def batches(epoch: int) -> Iterator[tuple[Pytree, Tensor]]:
        views = torch.randint(max(1, settings.views), (count,), generator=_generator(settings, epoch, "views"))
        for number, picks in enumerate(_order(data, epoch)):
            needed = picks[_needed(data, len(picks))]
            batch = rows[views[needed] * count + needed]
            yield _mixed(data, batch, targets[picks], epoch, number)

    return batches


def _fresh_batches(network: Network, data: Data, line: int) -> Batches:
    """Batches that differ from epoch to epoch, through the frozen stages each time."""
    settings, rows, targets = data.settings, data.rows["train"], data.targets["train"]
    ids, device = data.examples.ids(rows), next(network.parameters()).device

    def batches(epoch: int) -> Iterator[tuple[Pytree, Tensor]]:
        for number, picks in enumerate(_order(data, epoch)):
            some = picks[_needed(data, len(picks))].tolist()
            contents = data.examples.contents([rows[i] for i in some])
            seeds = [_seed(ids[i], f"{settings.seed}/epoch {epoch}") for i in some]
            inputs, moved = data.task.augment(contents, targets[some], network.preprocessing, settings, seeds)
            if len(some) < len(picks):  # the others' targets may have moved too
                moved = distributed.whole(to_device(moved, device), len(picks))
            inputs, mixed = _mixed(data, inputs, moved, epoch, number)
            with torch.no_grad(), mixed_precision(device):
                frozen = network.below(to_device(inputs, device), line)
            yield frozen, mixed  # outside: a generator that waits inside no_grad takes the caller's gradients

    return batches


def _batches_of(rows: int, size: int) -> int:
    """How many batches `_order` gives in an epoch."""
    full, rest = divmod(rows, size)
    return full + (rest > 1 or not full)


def _order(data: Data, epoch: int) -> Iterator[Tensor]:
    picks = torch.randperm(len(data.rows["train"]), generator=_generator(data.settings, epoch))
    batches = torch.split(picks, data.settings.batch_size)
    # a last batch of one has no variance for BatchNorm
    yield from (batch for batch in batches if len(batch) > 1 or len(batches) == 1)


def _generator(settings: Settings, epoch: int, purpose: str = "") -> torch.Generator:
    seed = settings.seed * 100_003 + epoch
    return torch.Generator().manual_seed(_seed(str(seed), purpose) if purpose else seed)


def _needed(data: Data, rows: int) -> slice:
    """Rows of a batch that this process has to have: its share, or all, where they are mixed with each other."""
    mixes = data.settings.mixup or data.settings.cutmix
    return slice(0, rows) if mixes else distributed.share(rows)


def _mixed(data: Data, inputs: Pytree, targets: Tensor, epoch: int, number: int) -> tuple[Pytree, Tensor]:
    """This process's share of a batch whose rows `_needed` names, mixed, and the targets of all rows."""
    seed = (data.settings.seed * 100_003 + epoch) * 100_003 + number
    inputs, mixed = data.task.mix(inputs, targets, data.settings, len(data.examples.classes), seed)
    if _needed(data, len(targets)) == distributed.share(len(targets)):
        return inputs, mixed
    return rows_of(inputs, distributed.share(len(targets))), mixed
