"""Activations at the thaw line: computed once per example, kept, and shared by all epochs, trials, steps and weeks.

What frozen stages give for an example is addressed by all that it depends on. The space, a folder, stands for the
stages below the line with their weights, the preprocessing, the precision, the kind of device and the versions of the
libraries; the key of a row for the example and its view; the segment that holds the row names the engine. So new
examples are added to a space, and those that are there are never computed again.
"""

import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from components.core import run_folder
from components.core.activations import segments
from components.core.activations import store as cache
from components.core.activations.requests import RowRequest
from components.core.compute.device import computed_in, rows_of
from components.core.compute.engines import Engine
from components.core.errors import StepError
from components.core.listener import SILENT, Listener
from components.core.networks.network import Network, Pytree
from components.core.networks.weights import state_digest
from components.core.settings import digest

FIXED = "eager in fixed batches"  # the engine of rows whose bits count
LIBRARIES = ("thawline", "torch", "torchvision", "timm", "pillow")  # that any row may depend on
BATCH = 64  # examples of one pass at a time; results are on disk after every batch


@dataclass(frozen=True)
class ComputePass:
    """Positions whose rows are missing at the same lines, and where to start from."""

    start: int  # a lower line that holds them all; 0: from the encoded examples
    lines: tuple[int, ...]
    positions: list[int]


def store() -> Path:
    """The folder of all activations, see `cache.store`."""
    return cache.store()


def spaces(network: Network, precision: str) -> list[Path]:
    """The space of every line, the network's own folder in the store; index 0 is the input, which is never kept."""
    stages = [state_digest(stage.state_dict()) for stage in network.stages]
    texts = [str(stage) for stage in network.stages]
    first = next(network.parameters())
    common = {
        "preprocessing": network.preprocessing,
        "precision": precision,
        "computed": str(computed_in(first.device, first.dtype)),
        "device": first.device.type,
        "libraries": _libraries(network),
        **({"config": network.config} if network.config else {}),
    }
    keys = [digest([common, texts[:line], stages[:line]])[:32] for line in range(len(stages) + 1)]
    return [store() / key for key in keys]


def describe(space: Path, network: Network, line: int, precision: str, row_seconds: float = 0.0) -> None:
    """Note what a space holds, and the seconds that computing a row of it takes, where they were measured."""
    space.mkdir(parents=True, exist_ok=True)
    facts = {
        "weights_digest": network.weights_digest,
        "line": line,
        "stages": len(network.stages),
        "preprocessing": network.preprocessing,
        "precision": precision,
        **({"row_seconds": row_seconds} if row_seconds else {}),
    }
    if row_seconds or not (space / "space.json").exists():
        run_folder.write_text(space / "space.json", json.dumps(facts, indent=1))


def row_seconds(space: Path) -> float:
    """What computing a row of a space takes; 0 where nobody has measured it."""
    try:
        return float(json.loads((space / "space.json").read_text()).get("row_seconds", 0.0))
    except (OSError, ValueError, TypeError, AttributeError):  # gone, or damaged
        return 0.0


def accepts(engine: str) -> bool:
    """Whether rows of that engine may be used: all engines are equal within rounding, `deterministic` asks for bits."""
    return engine == FIXED or not torch.are_deterministic_algorithms_enabled()


def stored(space: Path, keys: Sequence[bytes]) -> segments.Rows | None:
    """All these rows from the store; None if one of them is missing."""
    for _attempt in range(3):
        opened = segments.segments(space, accepts)
        part, row = segments.find(opened, keys)
        if len(part) == 0 or bool((part < 0).any()):
            return None
        try:
            return segments.open_rows(opened, part, row)
        except (OSError, RuntimeError):  # another process evicted a segment between the two calls
            continue
    return None


def passes(
    of_lines: Sequence[Path], lines: Sequence[int], keys: Sequence[bytes], precision: str = "float32"
) -> list[ComputePass]:
    """What has to be computed so that every line holds all rows; empty if nothing is missing."""
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
        name = FIXED if torch.are_deterministic_algorithms_enabled() else engine.name
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
    some = [list(positions[i : i + BATCH]) for i in range(0, len(positions), BATCH)]
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(encode, some[0])
        for i, batch in enumerate(some):
            ready = following.result()
            if i + 1 < len(some):
                following = pool.submit(encode, some[i + 1])
            yield batch, ready


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


def _libraries(network: Network) -> dict[str, str]:
    """Versions of the libraries that compute, and of those that the stages' modules come from."""
    found = {name: version(name) for name in LIBRARIES}
    for name in sorted({type(module).__module__.partition(".")[0] for module in network.stages.modules()}):
        with contextlib.suppress(PackageNotFoundError):  # a user's own module
            found[name] = version(name)
    return found


def _missing(space: Path, keys: Sequence[bytes]) -> list[int]:
    part, _ = segments.find(segments.segments(space, accepts), keys)
    missing: list[int] = (part < 0).nonzero().squeeze(1).tolist()
    return missing


def _joined(parts: Sequence[Pytree]) -> Pytree:
    leaves = [tree_leaves(part) for part in parts]
    whole = iter([torch.cat(list(some)) for some in zip(*leaves, strict=True)])
    return tree_map_only(Tensor, lambda _: next(whole), parts[0])
