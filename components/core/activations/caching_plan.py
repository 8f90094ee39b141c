"""The caching plan: cache or recompute, measured on a few examples, within the budget, reported in one line."""

import contextlib
import logging
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils._pytree import tree_leaves

from components.core.activations import passes, rows, segments, sharing, spaces, store
from components.core.activations.passes import ComputePass
from components.core.activations.requests import CachePolicy, RowRequest
from components.core.activations.rows import Counted, Recomputed, Reuse, Rows
from components.core.compute import determinism
from components.core.compute.engines import Engine, choose, eager
from components.core.contract.listener import SILENT, Listener
from components.core.errors import InputError, StepError, UnavailableError
from components.core.networks.network import Pytree
from components.core.storage import home_folder

LOG = logging.getLogger(__name__)
SPEEDS = "engines"  # folder of the home: measured speeds of engines, of this machine's alone
SAMPLE_SIZE = 16  # examples that are measured; a pass of fewer is not worth a measurement
TIMED_ROWS = 8  # examples by which the seconds of a row are measured
GIGABYTE = 1e9
WORTH_A_WORD = 60.0  # seconds saved; below, the figure says more of a busy machine than of the cache
FORMS_HINT = "Let the task give every example one shape (padded to a fixed length), or use --activations recompute."


@dataclass(frozen=True)
class Cost:
    """Measurements for one line, and the costs derived from them."""

    examples: int
    missing: int
    row_bytes: int
    encode: float  # seconds an example, to have it where the pass starts
    engine: float  # seconds an example from there to the line, by the engine that was chosen
    again: float  # seconds an example from the record to the line by PyTorch, as in each epoch of the usual loop
    transfer: float  # seconds to write or read one row
    uses: float  # times that every example is needed

    @property
    def bytes(self) -> int:
        """Disk space of the new rows."""
        return self.missing * self.row_bytes

    @property
    def keep(self) -> float:
        """Seconds of computing what is missing once and reading all rows each time."""
        computed = self.missing * (self.encode + self.engine + self.transfer)
        return computed + self.uses * self.examples * self.transfer

    @property
    def recompute(self) -> float:
        """Seconds of computing all rows each time, as the usual loop does."""
        return self.uses * self.examples * self.again


def rows_at(request: RowRequest, listener: Listener = SILENT, reuse: Reuse | None = None) -> dict[int, Rows]:
    """Activations of these examples at each line, kept or recomputed, whichever is cheaper within the budget.

    Args:
        request: The examples, the lines and the policy.
        listener: Takes the decision, a note for each pass, and its progress.
        reuse: Is told what keeping costs here, and what every reading saves.

    Raises:
        InputError: Activations have to be kept and don't fit on the disk, or differ in their form.
        StepError: Activations have to be kept and can't be written.
    """
    network, policy = request.network, request.policy
    network.eval()
    recomputed: dict[int, Rows] = {line: Recomputed(request, line) for line in request.lines}
    kept = [line for line in sorted(request.lines, reverse=True) if line > 0]  # at the bottom there is nothing to keep
    if policy.mode == "recompute" or not kept:
        return recomputed
    begin, of_lines = time.perf_counter(), spaces.spaces(network, policy.precision)
    try:
        found = _completed(request, of_lines, kept, listener)
    except segments.FormError as error:
        if policy.mode == "keep":
            raise InputError(f"Activations can't be cached: {error}.", FORMS_HINT) from error
        if policy.mode != "stored":  # there the leader has said so
            listener.note(f"Activations recomputed: {error}. {FORMS_HINT}")
        return recomputed
    read: dict[int, Rows] = {line: kept_rows for line, kept_rows in found.items() if kept_rows is not None}
    if reuse is not None:
        costs = _row_seconds(request, of_lines, sorted(read))
        reuse.seconds -= time.perf_counter() - begin
        read = {line: Counted(rows, costs[line], reuse) for line, rows in read.items()}
    return recomputed | read


def _completed(
    request: RowRequest, of_lines: Sequence[Path], kept: Sequence[int], listener: Listener
) -> dict[int, rows.StoredRows | None]:
    """Rows from the store, once what is missing there was fetched or computed; None where they are not all there.

    Raises:
        FormError: The examples' activations have different forms.
    """
    keys, policy = request.keys, request.policy
    missing = [] if policy.mode == "stored" else passes.passes(of_lines, kept, keys, policy.precision)
    if missing and sharing.fetch(request, of_lines, missing, listener):
        missing = passes.passes(of_lines, kept, keys, policy.precision)
    try:
        for work in missing:
            _carry_out(request, of_lines, work, listener)
    except OSError as error:  # the disk is full, or may not be written
        if policy.mode == "keep":
            raise StepError(
                f"Activations can't be cached in {store.store()} ({error.strerror or error}).",
                "Free disk space, set THAWLINE_ACTIVATIONS to another folder, or use --activations auto.",
            ) from error
        listener.note(f"Activations recomputed: {store.store()} can't be written ({error.strerror or error})")
    if missing:
        sharing.send([of_lines[line] for line in kept], listener)
    return {line: rows.stored(of_lines[line], keys) for line in kept}


def _row_seconds(request: RowRequest, of_lines: Sequence[Path], lines: Sequence[int]) -> dict[int, float]:
    """Seconds per row of the usual loop, encoding and PyTorch, at each line; measured once for each space."""
    known = {line: spaces.row_seconds(of_lines[line]) for line in lines}
    unknown = [line for line in lines if not known[line]] if request.keys else []
    for line, seconds in _again(request, unknown).items() if unknown else ():
        known[line] = seconds
        with contextlib.suppress(OSError):  # a store that is read-only can be read
            spaces.describe(of_lines[line], request.network, line, request.policy.precision, seconds)
    return known


def _again(request: RowRequest, lines: Sequence[int]) -> dict[int, float]:
    """Seconds per row from the record to each of these lines, which ascend, in one pass over a few examples."""
    positions = range(min(TIMED_ROWS, len(request.keys)))
    found: dict[int, float] = {}
    for _ in range(2):  # the first pass prepares what later ones use
        begin, at = time.perf_counter(), 0
        value = request.encode(positions)
        for line in lines:
            [value] = eager(request.network, [line], at).run(value)
            found[line], at = (time.perf_counter() - begin) / len(positions), line
    return found


def _carry_out(request: RowRequest, of_lines: Sequence[Path], work: ComputePass, listener: Listener) -> None:
    network, policy = request.network, request.policy
    store.store().mkdir(parents=True, exist_ok=True)
    work, source = passes.source(request, of_lines, work)
    short = len(work.positions) <= determinism.BATCH  # one batch: not worth a measurement, nor a word
    whole = short and not torch.are_deterministic_algorithms_enabled()  # there a batch is filled up
    sample, encode = _timed_sample(source, work.positions[: len(work.positions) if whole else SAMPLE_SIZE])
    protected = [of_lines[line] for line in request.lines]

    engine, reason = eager(network, work.lines, work.start), ""
    if not short:
        exports = store.store() / store.ENGINES
        room, speeds = _room(policy, protected), home_folder.home() / SPEEDS
        engine, reason = choose(network, work.lines, sample, len(work.positions), exports, work.start, room, speeds)
    outputs, seconds = _timed(engine.run, sample)
    # in the clock's seconds, as those of the disk are: the engines' own leave out what others take of the CPUs
    by_eager = seconds if math.isnan(engine.eager_seconds) else seconds * engine.eager_seconds / engine.seconds
    costs, losses = {}, []
    for line, exact in zip(work.lines, outputs, strict=True):
        rows = passes.as_kept(exact, policy.precision)
        losses.append(_precision_loss(exact, rows))
        costs[line] = Cost(
            examples=len(request.keys),
            missing=len(work.positions),
            row_bytes=_row_bytes(rows),
            encode=encode,
            engine=seconds,
            again=_again(request, [line])[line] if work.start and policy.mode == "auto" else encode + by_eager,
            transfer=_transfer(rows),
            uses=request.lines[line],
        )
    chosen = _affordable(costs, policy, store.free_for(store.store(), policy.budget, protected))
    if not short or (chosen and max(losses)):  # what was rounded is told of a single example too
        reason = reason or f"eager: a pass over {len(work.positions)} examples is short"
        LOG.info("The activations' engine: %s", reason)
        listener.note(_sentence(len(network.stages), costs, chosen, max(losses)))
    store.make_room(store.store(), sum(costs[line].bytes for line in chosen), policy.budget, protected)
    for line in chosen:
        spaces.describe(of_lines[line], network, line, policy.precision)
    if chosen and whole:
        source, engine = _computed(work.positions, sample, outputs, source, engine)
    if chosen:
        passes.compute_and_store(request, of_lines, work, chosen, source, engine, listener)


def _computed(
    positions: Sequence[int],
    sample: Pytree,
    outputs: list[Pytree],
    source: Callable[[Sequence[int]], Pytree],
    engine: Engine,
) -> tuple[Callable[[Sequence[int]], Pytree], Engine]:
    """The source and the engine of a pass whose sample was all of it: what was measured is not computed again."""

    def encode(wanted: Sequence[int]) -> Pytree:
        return sample if list(wanted) == list(positions) else source(wanted)  # others may have computed some meanwhile

    def run(batch: Pytree) -> list[Pytree]:
        return outputs if batch is sample else engine.run(batch)

    return encode, replace(engine, run=run)


def _room(policy: CachePolicy, protected: Sequence[Path]) -> Callable[[float], bool]:
    """Return whether so many bytes fit into the budget, after removing the least recently used."""

    def room(needed: float) -> bool:
        if needed > store.free_for(store.store(), policy.budget, protected):
            return False
        store.make_room(store.store(), needed, policy.budget, protected)
        return True

    return room


def _affordable(costs: Mapping[int, Cost], policy: CachePolicy, room: float) -> list[int]:
    """The lines to keep: all that are asked to be, or those that pay off and for which there is room.

    Raises:
        InputError: Activations have to be kept and don't fit.
    """
    chosen: list[int] = []
    for line in sorted(costs, reverse=True):  # higher lines first: they are small, and asked for most
        cost = costs[line]
        fits = cost.bytes <= room
        if policy.mode == "keep" and not fits:
            raise UnavailableError(  # another machine may have more
                f"Caching takes {cost.bytes / GIGABYTE:.2g} GB, but there is room for only "
                f"{max(0.0, room) / GIGABYTE:.2g} GB.",
                "Raise --cache-budget, free disk space, or use --activations auto.",
            )
        if policy.mode == "keep" or (fits and cost.keep <= cost.recompute):
            chosen.append(line)
            room -= cost.bytes
    return sorted(chosen)


def _timed_sample(source: Callable[[Sequence[int]], Pytree], positions: Sequence[int]) -> tuple[Pytree, float]:
    """A batch of these examples where the pass starts, and the seconds that one of them took."""
    begin = time.perf_counter()
    sample = source(positions)
    return sample, (time.perf_counter() - begin) / len(positions)


def _timed(run: Callable[[Pytree], list[Pytree]], sample: Pytree) -> tuple[list[Pytree], float]:
    """The activations of a sample at each line, and the seconds that one example took."""
    begin = time.perf_counter()
    outputs = run(sample)
    return outputs, (time.perf_counter() - begin) / len(tree_leaves(sample)[0])


def _transfer(rows: Pytree) -> float:
    """Seconds to write one row; reading it takes no longer, from memory or from the same disk."""
    with tempfile.TemporaryDirectory(prefix=store.MEASUREMENT_PREFIX, dir=store.store()) as folder:
        writer, count = segments.Writer(Path(folder), ""), len(tree_leaves(rows)[0])
        writer.append([bytes(32)] * count, rows)  # makes its folder
        begin = time.perf_counter()
        writer.append([bytes(32)] * count, rows)
        return (time.perf_counter() - begin) / count


def _row_bytes(rows: Pytree) -> int:
    leaves = tree_leaves(rows)
    return int(sum(leaf.nbytes for leaf in leaves)) // len(leaves[0])


def _precision_loss(exact: Pytree, rows: Pytree) -> float:
    """The largest rounding error, relative to the largest activation; 0 where nothing is rounded."""
    pairs = [(a, b) for a, b in zip(tree_leaves(exact), tree_leaves(rows), strict=True) if a.dtype != b.dtype]
    errors = [
        float((a - b.to(a.dtype))[a.isfinite()].abs().max() / a[a.isfinite()].abs().max().clamp(min=1e-30))
        for a, b in pairs
        if bool(a.isfinite().any())
    ]
    # a sample may show half of what rounding to nearest can do, and more only where all values are tiny
    return max([*errors, *(torch.finfo(b.dtype).eps / 2 for _, b in pairs)], default=0.0)


def _sentence(stages: int, costs: Mapping[int, Cost], chosen: Sequence[int], loss: float) -> str:
    """The decision in one line: what, how large, and what it saves, where that is worth a word."""
    some = next(iter(costs.values()))
    parts = []
    if chosen:
        size = sum(costs[line].bytes for line in chosen) / 1e6
        again, once = sum(costs[line].recompute for line in chosen), sum(costs[line].keep for line in chosen)
        gain = f", {again / once:,.0f} times faster than computing them in every epoch"
        rounding = f", rounded to float16 with an error of {loss:.1e} of the largest at most" if loss else ""
        parts.append(
            f"cached below {_named(stages, chosen)}: {size:,.0f} MB for {some.missing:,} new of "
            f"{some.examples:,} examples{rounding}{gain if again - once > WORTH_A_WORD else ''}"
        )
    for line in sorted(costs.keys() - set(chosen)):
        dear = costs[line].keep > costs[line].recompute
        why = "caching them would take longer" if dear else "there is no room for them"
        parts.append(f"recomputed below {_named(stages, [line])}: {costs[line].bytes / 1e6:,.0f} MB, {why}")
    return f"Activations {'; '.join(parts)}"


def _named(stages: int, lines: Sequence[int]) -> str:
    thawed = [stages - line for line in sorted(lines, reverse=True)]
    names = ["the head"] if 0 in thawed else []
    depths = [str(depth) for depth in thawed if depth]
    return " and ".join([*names, *([f"{', '.join(depths)} thawed stage{'s' * (depths != ['1'])}"] if depths else [])])
