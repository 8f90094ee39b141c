"""Activations at the thaw line: computed once, kept in THAWLINE_HOME/activations, shared by trials and steps.

A set of activations is one folder of memory-mapped arrays, addressed by what it depends on: the examples in
their order, the stages below the line, the preprocessing, the kind of device, and the versions of the libraries.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten, treespec_dumps, treespec_loads

from components.core.network import Network, Pytree
from components.core.revision import libraries
from components.core.settings import digest
from components.core.training import mixed_precision, rows_of, to_device
from components.core.weights import state_digest

BATCH = 64


def activations_at(
    network: Network,
    line: int,
    ids: Sequence[str],
    encode: Callable[[int, int], Pytree],
    store: Path,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Pytree:
    """Activations [N, ...] at the line for these examples, as tensors over memory-mapped arrays.

    Args:
        network: In any mode; what lies below the line runs as when the network serves.
        line: Stages below the thaw line.
        ids: Content ids of the examples, in the order wanted.
        encode: Gives the first stage's input for examples `start` to `stop`.
        store: Folder of all activations.
        progress: Called with examples done and in total.

    A set at a higher line is filled from one at a lower line where there is one. At line 0 the set holds the
    encoded input: it need not fit in memory either.
    """
    keys = _keys(network, line, ids)
    folders = {below: store / keys[below] for below in range(line, -1, -1)}
    store.mkdir(parents=True, exist_ok=True)
    with FileLock(store / f"{folders[line].name}.lock"):
        if not (folders[line] / "tree.json").exists():
            lower = next((below for below, folder in folders.items() if (folder / "tree.json").exists()), None)
            source = encode if lower is None else _slices(_open(folders[lower]))
            _fill(folders[line], network, lower or 0, line, len(ids), source, progress)
    return _open(folders[line])


def _keys(network: Network, line: int, ids: Sequence[str]) -> list[str]:
    """The key of every line up to this one; a stage's weights are hashed once."""
    stages = [[str(stage), state_digest(stage.state_dict())] for stage in network.stages[:line]]
    device = next(network.parameters()).device.type  # a GPU computes in half precision
    common = [list(ids), network.preprocessing, device, libraries(), version("pillow")]
    return [digest([*common, stages[:below]])[:32] for below in range(line + 1)]


@torch.no_grad()
def _fill(
    folder: Path,
    network: Network,
    start_line: int,
    line: int,
    count: int,
    source: Callable[[int, int], Pytree],
    progress: Callable[[int, int], None],
) -> None:
    device = next(network.parameters()).device
    part = folder.with_suffix(".part")  # under the lock: what a kill left behind is ours to remove
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    network.eval()
    arrays: list[np.memmap[tuple[int, ...], np.dtype[np.float32]]] = []
    spec: TreeSpec | None = None
    for start in range(0, count, BATCH):
        stop = min(count, start + BATCH)
        with mixed_precision(device):
            batch = network.below(to_device(source(start, stop), device), line, start_line)
        leaves, spec = tree_flatten(tree_map_only(Tensor, lambda t: t.cpu().contiguous().numpy(), batch))
        if not arrays:
            arrays = [
                np.lib.format.open_memmap(part / f"{i}.npy", "w+", leaf.dtype, (count, *leaf.shape[1:]))
                for i, leaf in enumerate(leaves)
            ]
        for array, leaf in zip(arrays, leaves, strict=True):
            array[start:stop] = leaf
        progress(stop, count)
    for array in arrays:
        array.flush()
    if spec is not None:
        (part / "tree.json").write_text(json.dumps(treespec_dumps(spec)))
        part.replace(folder)


def _open(folder: Path) -> Pytree:
    spec = treespec_loads(json.loads((folder / "tree.json").read_text()))
    # mode "c" is copy on write: torch wants writable memory, and a stray write never reaches the file
    return tree_unflatten(
        [torch.from_numpy(np.load(folder / f"{i}.npy", mmap_mode="c")) for i in range(spec.num_leaves)], spec
    )


def _slices(whole: Pytree) -> Callable[[int, int], Pytree]:
    return lambda start, stop: rows_of(whole, slice(start, stop))
