"""Batches at the thaw line: in each epoch's order, kept or made afresh, and mixed."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from components.core.activations.rows import Rows
from components.core.compute import distributed
from components.core.compute.device import mixed_precision, rows_of, to_device
from components.core.fitting.data import Data
from components.core.fitting.loop import Batches
from components.core.fitting.thaw_line import view_seed
from components.core.networks.network import Network, Pytree
from components.core.settings import Settings


def is_fresh(data: Data, line: int) -> bool:
    """Return whether training examples differ from epoch to epoch; with all stages thawed no views are kept."""
    return data.task.augments(data.settings) or (data.settings.views > 0 and line == 0)


def kept_batches(data: Data, rows: Rows) -> Batches:
    """Batches of rows at the thaw line, in each epoch's order and view."""
    settings, targets, count = data.settings, data.targets["train"], len(data.rows["train"])

    def batches(epoch: int, first: int) -> Iterator[tuple[Pytree, Tensor]]:
        views = torch.randint(max(1, settings.views), (count,), generator=_generator(settings, epoch, "views"))
        for number, picks in islice(enumerate(_order(data, epoch)), first, None):
            needed = picks[_needed(data, len(picks))]
            batch = rows[views[needed] * count + needed]
            yield _mixed(data, batch, targets[picks], epoch, number)

    return batches


def fresh_batches(network: Network, data: Data, line: int) -> Batches:
    """Batches that differ from epoch to epoch, through the frozen stages each time."""
    settings, rows, targets = data.settings, data.rows["train"], data.targets["train"]
    ids, device = data.examples.ids(rows), next(network.parameters()).device

    def batches(epoch: int, first: int) -> Iterator[tuple[Pytree, Tensor]]:
        for number, picks in islice(enumerate(_order(data, epoch)), first, None):
            some = picks[_needed(data, len(picks))].tolist()
            contents = data.examples.contents([rows[i] for i in some])
            seeds = [view_seed(ids[i], f"{settings.seed}/epoch {epoch}") for i in some]
            inputs, moved = data.task.augment(contents, targets[some], network.preprocessing, settings, seeds)
            if len(some) < len(picks):  # the others' targets may have moved too
                moved = distributed.whole(to_device(moved, device), len(picks))
            inputs, mixed = _mixed(data, inputs, moved, epoch, number)
            with torch.no_grad(), mixed_precision(device):
                frozen = network.below(to_device(inputs, device), line)
            yield frozen, mixed  # outside: a generator that waits inside no_grad takes the caller's gradients

    return batches


def batch_count(rows: int, size: int) -> int:
    """Count the batches that `_order` gives in an epoch."""
    full, rest = divmod(rows, size)
    return full + (rest > 1 or not full)


def _order(data: Data, epoch: int) -> Iterator[Tensor]:
    picks = torch.randperm(len(data.rows["train"]), generator=_generator(data.settings, epoch))
    batches = torch.split(picks, data.settings.batch_size)
    # a last batch of one has no variance for BatchNorm
    yield from (batch for batch in batches if len(batch) > 1 or len(batches) == 1)


def _generator(settings: Settings, epoch: int, purpose: str = "") -> torch.Generator:
    seed = settings.seed * 100_003 + epoch
    return torch.Generator().manual_seed(view_seed(str(seed), purpose) if purpose else seed)


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
