"""Activations at the thaw line: computed once per example, kept, and shared by all epochs, trials, steps and weeks.

What frozen stages give for an example is addressed by all that it depends on. The space, a folder, stands for the
stages below the line with their weights, the preprocessing, the precision, the kind of device and the versions of the
libraries; the key of a row for the example and its view; the segment that holds the row names the engine. So new
examples are added to a space, and those that are there are never computed again.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor
from torch.utils._pytree import tree_map_only

from components.core.activations import segments
from components.core.activations.requests import RowRequest
from components.core.activations.rows import stored
from components.core.activations.spaces import FIXED_BATCHES_ENGINE, accepts
from components.core.compute import determinism
from components.core.compute.determinism import in_fixed_batches
from components.core.compute.engines import Engine
from components.core.contract.listener import SILENT, Listener
from components.core.errors import StepError
from components.core.networks.network import Pytree


@dataclass(frozen=True)
class ComputePass:
    """Positions whose rows are missing at the same lines, and where to start from."""

    start: int  # a lower line that holds them all; 0: from the encoded examples
    lines: tuple[int, ...]
    positions: list[int]


def passes(
    of_lines: Sequence[Path], lines: Sequence[int], keys: Sequence[bytes], precision: str = "float32"
) -> list[ComputePass]:
    """Return the passes that fill in missing rows at every line; empty if nothing is missing."""
    absent: dict[int, list[int]] = defaultdict(list)
    for line in sorted(lines):
        for position in _missing(of_lines[line], keys):
            absent[position].append(line)
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for position in sorted(absent):
        groups[tuple(absent[position])].append(position)
    found = []
    for missing_at, positions in groups.items():
        # a pass that starts from rounded rows would round twice, and its results depend on what was there
        lower = range(missing_at[0] - 1, 0, -1) if precision == "float32" else ()
        for start in (line for line in lower if positions and of_lines[line].exists()):
            lacking = {positions[i] for i in _missing(of_lines[start], [keys[position] for position in positions])}
            if held := [position for position in positions if position not in lacking]:
                found.append(ComputePass(start, missing_at, held))
            positions = sorted(lacking)  # noqa: PLW2901 - what is left for lines further down
        if positions:
            found.append(ComputePass(0, missing_at, positions))
    return found


def compute_and_store(
    request: RowRequest,
    of_lines: Sequence[Path],
    work: ComputePass,
    chosen: Collection[int],
    encode: Callable[[Sequence[int]], Pytree],
    engine: Engine,
    listener: Listener = SILENT,
) -> None:
    """Compute the rows of a pass and add them to the spaces of the chosen lines; a kill keeps what was computed.

    Args:
        request: All rows asked for.
        of_lines: The space of every line.
        work: Rows that are missing; `engine` gives the activations at all its lines.
        chosen: Those of its lines that are kept.
        encode: Gives batches at the line where the pass starts, see `source`.
        engine: Runs the frozen stages.
        listener: Takes the progress.

    Raises:
        StepError: The activations don't fit the precision.
    """
    keys = request.keys
    lock = of_lines[min(chosen)].with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        absent = set().union(*(_missing(of_lines[line], [keys[i] for i in work.positions]) for line in chosen))
        left = [position for i, position in enumerate(work.positions) if i in absent]  # while this process waited
        if not left:
            return
        name = FIXED_BATCHES_ENGINE if torch.are_deterministic_algorithms_enabled() else engine.name
        writers = {line: segments.Writer(of_lines[line], name) for line in chosen}
        done = 0
        for positions, batch in batches(encode, left):
            some = [keys[position] for position in positions]
            for line, rows in zip(work.lines, in_fixed_batches(engine.run, batch), strict=True):
                if line in writers:
                    writers[line].append(some, as_kept(rows, request.policy.precision))
            done += len(positions)
            listener.progress(done, len(left), f"activations by {engine.name}")


def source(
    request: RowRequest, of_lines: Sequence[Path], work: ComputePass
) -> tuple[ComputePass, Callable[[Sequence[int]], Pytree]]:
    """The pass and what gives batches where it starts: from the examples, if the rows of the lower line are gone.

    Room for an earlier pass, or another process, may have evicted them. Once opened they stay readable.
    """
    if not work.start:
        return work, request.encode
    lower = stored(of_lines[work.start], [request.keys[position] for position in work.positions])
    if lower is None:
        return replace(work, start=0), request.encode
    place = {position: i for i, position in enumerate(work.positions)}
    return work, lambda positions: lower[torch.tensor([place[position] for position in positions])]


def batches(encode: Callable[[Sequence[int]], Pytree], positions: Sequence[int]) -> Iterator[tuple[list[int], Pytree]]:
    """Batches of these positions; the next one is made while one is used."""
    some = [list(positions[i : i + determinism.BATCH]) for i in range(0, len(positions), determinism.BATCH)]
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(encode, some[0])
        for i, batch in enumerate(some):
            ready = following.result()
            if i + 1 < len(some):
                following = pool.submit(encode, some[i + 1])
            yield batch, ready


def as_kept(rows: Pytree, precision: str) -> Pytree:
    """Tensors as they are kept: pictures channels last, as convolutions take them; floating point maybe as float16.

    Raises:
        StepError: A value is too large for float16.
    """

    def kept(tensor: Tensor) -> Tensor:
        if tensor.dim() == 4:  # noqa: PLR2004 - [B, C, H, W]
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        if precision != "float16" or tensor.dtype != torch.float32:
            return tensor
        half = tensor.half()
        if bool((half.isinf() & tensor.isfinite()).any()):  # a mask may hold infinity itself
            raise StepError(
                "An activation is too large for float16 (beyond 65,504).", "Use --activation-precision float32."
            )
        return half

    return tree_map_only(Tensor, kept, rows)


def _missing(space: Path, keys: Sequence[bytes]) -> list[int]:
    part, _ = segments.find(segments.segments(space, accepts), keys)
    missing: list[int] = (part < 0).nonzero().squeeze(1).tolist()
    return missing
