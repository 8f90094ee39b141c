"""Make results equal bit for bit: seeds, and batches of one size."""

import os
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from components.core.compute.device import rows_of
from components.core.networks.network import Pytree
from components.core.settings import Settings

BATCH = 64  # examples that frozen stages compute at a time; what they give is on disk after every batch


def seed_everything(settings: Settings) -> None:
    """Seed all generators; with `deterministic`, refuse kernels that would differ from run to run."""
    random.seed(settings.seed)
    np.random.seed(settings.seed)  # noqa: NPY002 - seeds what libraries draw from the global generator
    torch.manual_seed(settings.seed)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(mode=True)


def in_fixed_batches(run: Callable[[Pytree], list[Pytree]], batch: Pytree) -> list[Pytree]:
    """Run a batch; where bits count, in batches of one size only, since kernels differ by the size of the batch."""
    if not torch.are_deterministic_algorithms_enabled():
        return run(batch)
    count = len(tree_leaves(batch)[0])
    parts = []
    for start in range(0, count, BATCH):
        padded = torch.arange(start, start + BATCH).clamp(max=count - 1)
        used = slice(0, min(BATCH, count - start))
        parts.append([rows_of(rows, used) for rows in run(rows_of(batch, padded))])
    return [_joined(some) for some in zip(*parts, strict=True)]


def _joined(parts: Sequence[Pytree]) -> Pytree:
    leaves = [tree_leaves(part) for part in parts]
    whole = iter([torch.cat(list(some)) for some in zip(*leaves, strict=True)])
    return tree_map_only(Tensor, lambda _: next(whole), parts[0])
