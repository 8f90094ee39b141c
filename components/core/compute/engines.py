"""Engines for the frozen pass: what lies below the thaw line is inference, so it runs where inference is fastest.

Eager PyTorch is the reference and the fallback. The same stages with their norms folded cost nothing to make; exports
cost seconds. Each is taken where a short measurement finds it faster, and equal to eager. Measurements are remembered.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only, tree_structure, tree_unflatten

from components.core.compute import engine_speeds
from components.core.compute.batchnorm_folding import folded
from components.core.compute.device import half_precision, mixed_precision, rows_of, to_device
from components.core.compute.onnx_exports import (
    Prefix,
    export_bytes,
    exported,
    first_line,
    place_of,
    seconds_to_prepare,
)
from components.core.networks.network import Network, Pytree

SAMPLE_SIZE = 16  # examples of the short measurement
SIZES = (1, 3, SAMPLE_SIZE)  # of the batches that an export is checked with
MIN_GAIN = 1 / 3  # of eager's time, what another engine is expected to save before it is measured
OVERHEAD_SECONDS = 0.7  # seconds to import, load, check and measure an engine
LOADING_SECONDS = 0.3  # of these, to import and load it
FOLDING_SECONDS = 0.2  # seconds to fold, beside the runs that check and measure
MEASURING_RUNS = 2  # runs of the sample by eager that checking and measuring take as long as: one of eager, two folded
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}  # of the largest activation

EAGER = "eager"
_Flat: TypeAlias = Callable[[list[Tensor]], Sequence[Tensor]]  # leaves of a batch -> leaves of the activations


@dataclass(frozen=True)
class Engine:
    """Runs the frozen stages, with the weights that they had when it was made."""

    name: str  # with its version, as stored activations are labelled
    # A batch at line `start` -> the activations at each of `lines`: plain tensors on the CPU, in float32 where a GPU
    # computed them in half precision. Strides are the engine's own: eager gives pictures channels last.
    run: Callable[[Pytree], list[Pytree]]
    seconds: float = math.nan  # per example, where it was measured
    eager_seconds: float = math.nan  # the same by eager, which it was compared with


def eager(network: Network, lines: Sequence[int], start: int = 0) -> Engine:
    """PyTorch as it is.

    Args:
        network: On its device. What lies between `start` and the last line runs in eval mode; the rest is left alone.
        lines: Thaw lines, ascending: stages below each. One pass gives the activations at all of them.
        start: The line that the batches lie at, 0 for the network's input; at most the first of `lines`.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))

    @torch.no_grad()
    def run(batch: Pytree) -> list[Pytree]:
        network.stages[start : lines[-1]].eval()
        value, at, found = to_device(batch, device), start, []
        for line in lines:
            with mixed_precision(device):
                value, at = network.below(value, line, at), line
            kept = tree_map_only(Tensor, _plain, value)
            # a copy, since the next stage may begin in place
            found.append(kept if line == lines[-1] else tree_map_only(Tensor, Tensor.clone, kept))
        return found

    return Engine(EAGER, run)


def choose(
    network: Network,
    lines: Sequence[int],
    sample: Pytree,
    count: int,
    folder: Path,
    start: int = 0,
    room: Callable[[float], bool] = lambda _bytes: True,
    speeds: Path | None = None,
) -> tuple[Engine, str]:
    """The engine that measures fastest here, and why in one line. Never fails: what can't be had is eager.

    Args:
        network: See `eager`.
        lines: See `eager`.
        sample: A batch at line `start`; its first 16 examples are measured.
        count: Examples of the whole pass: a short one does not pay for an export.
        folder: Where exports are kept by what they depend on; several processes may share it.
        start: See `eager`.
        room: Whether an export of so many bytes may be kept; makes place for it.
        speeds: Where measured speeds are kept, so that they are measured once.
    """
    plain = eager(network, lines, start)
    if torch.are_deterministic_algorithms_enabled():
        return plain, "eager: results must be identical bit for bit"
    if lines[-1] == start:
        return plain, "eager: there are no stages to run"
    try:
        prefix = Prefix(network, lines, start, rows_of(sample, slice(0, SAMPLE_SIZE)))
        return _fastest(plain, prefix, count, folder, room, speeds)
    except Exception as error:  # noqa: BLE001 - the pass itself will show what is wrong with the stages or the sample
        return plain, f"eager: {first_line(error)}"


def _fastest(
    plain: Engine,
    prefix: Prefix,
    count: int,
    folder: Path,
    room: Callable[[float], bool],
    speeds: Path | None,
) -> tuple[Engine, str]:
    first, expected = _timed(plain, prefix.sample)
    known: dict[str, float] = {}
    if first / len(prefix.leaves[0]) * count * MIN_GAIN > FOLDING_SECONDS + MEASURING_RUNS * first:
        known = engine_speeds.recall(engine_speeds.place_of(prefix, speeds)) if speeds else {}
        plain = replace(plain, seconds=known.get(EAGER) or _seconds(plain, prefix.sample))
    if not plain.seconds * count * MIN_GAIN > FOLDING_SECONDS:
        return plain, f"eager: a pass over {count} examples is short"
    trial = _Trial(plain, prefix, expected, known)
    if not trial.lost("folded"):
        trial.run("folded", lambda: _folded(prefix), sizes=(SAMPLE_SIZE,))
    for way in ("torchscript", "dynamo") if prefix.device.type == "cpu" else ("torchscript", "compile"):
        if trial.lost(way) and prefix.device.type == "cpu":
            break
        place = place_of(prefix, way, folder)
        cost = seconds_to_prepare(prefix, way, place)
        if not trial.pays(way, cost, count):
            trial.reasons.append(f"{way} (about {cost:.1f} s) would not pay off for {count} examples")
            continue
        if cost and way != "compile" and not room(size := export_bytes(prefix)):
            trial.reasons.append(f"{way}: there is no room for an export of {size / 1e6:,.0f} MB")
            continue
        make = partial(_compiled, prefix) if way == "compile" else partial(_onnxruntime, prefix, way, place)
        if trial.run(way, make) and prefix.device.type == "cpu":
            break  # another export of the same stages runs as fast
    if speeds and (trial.measured or not known):
        engine_speeds.remember(
            engine_speeds.place_of(prefix, speeds), {EAGER: plain.seconds, **known, **trial.measured}
        )
    best = replace(trial.best, eager_seconds=plain.seconds)
    return best, f"{best.name}: eager {1 / plain.seconds:.0f}/s; {'; '.join(trial.reasons)}"


class _Trial:
    """The fastest engine so far that is equal to eager, and a word on each that was tried."""

    def __init__(
        self, plain: Engine, prefix: Prefix, expected: list[Pytree], known: Mapping[str, float] | None = None
    ) -> None:
        self.best, self.reasons = plain, list[str]()
        self.measured: dict[str, float] = {}
        self._plain, self._prefix, self._expected, self._known = plain, prefix, expected, known or {}

    def lost(self, way: str) -> bool:
        """Return whether an engine was measured earlier, and is no faster than the fastest so far."""
        slower = self._known.get(way, 0.0) >= self.best.seconds
        if slower:
            self.reasons.append(f"{way} {1 / self._known[way]:.0f}/s, as measured earlier")
        return slower

    def pays(self, way: str, cost: float, count: int) -> bool:
        """Return whether an engine saves more than its preparation costs: as measured earlier, else as expected."""
        if way in self._known:
            return cost + LOADING_SECONDS < count * (self.best.seconds - self._known[way])
        return cost + OVERHEAD_SECONDS <= count * self.best.seconds * MIN_GAIN

    def run(self, way: str, make: Callable[[], tuple[str, _Flat, str]], sizes: Sequence[int] = SIZES) -> bool:
        """Make an engine, check it at these sizes and measure it unless that was done earlier; whether that worked."""
        try:
            name, flat, note = make()
            engine = _engine(name, flat, self._prefix, self._expected)
            if way in self._known:
                engine, note = replace(engine, seconds=self._known[way]), f"{note}, measured earlier"
            else:
                _check_equal(engine, self._plain, self._prefix, self._expected, sizes)
                engine = replace(engine, seconds=_seconds(engine, self._prefix.sample))
                self.measured[way] = engine.seconds
        except _NothingToDoError:  # such an engine would be the plain one
            return False
        except Exception as error:  # noqa: BLE001 - exporters and engines raise almost anything; eager remains
            self.reasons.append(f"{way}: {first_line(error)}")
            return False
        self.reasons.append(f"{name} {1 / engine.seconds:.0f}/s, {note}")
        self.best = min(self.best, engine, key=lambda candidate: candidate.seconds)
        return True


class _NothingToDoError(Exception):
    """A way to compute that would change nothing here: no news for a reader."""


def _folded(prefix: Prefix) -> tuple[str, _Flat, str]:
    twin, count = folded(prefix)
    if not count:
        raise _NothingToDoError
    return f"folded {torch.__version__}", _in_pytorch(twin, prefix.device), f"{count} norms"


def _onnxruntime(prefix: Prefix, way: str, place: Path) -> tuple[str, _Flat, str]:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # a machine without a GPU is no news
    providers: list[Any] = ["CPUExecutionProvider"]
    if prefix.device.type == "cuda":
        offered = onnxruntime.get_available_providers()
        gpu = [name for name in ("TensorrtExecutionProvider", "CUDAExecutionProvider") if name in offered]
        if not gpu:
            raise RuntimeError("this ONNX Runtime has no GPU support")
        providers = [*((name, {"device_id": prefix.device.index or 0}) for name in gpu), *providers]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # search workers share the cores
    # waiting threads sleep: the next batch is decoded meanwhile, and other work may have the cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model, note = exported(prefix, way, place)
    session = onnxruntime.InferenceSession(model, options, providers=providers)
    wanted = {put.name: int(put.name.removeprefix("input")) for put in session.get_inputs()}  # not those left unused

    def flat(leaves: list[Tensor]) -> list[Tensor]:
        feed = {name: leaves[number].detach().cpu().contiguous().numpy() for name, number in wanted.items()}
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    return f"onnxruntime {onnxruntime.__version__}", flat, note


def _compiled(prefix: Prefix) -> tuple[str, _Flat, str]:
    return f"torch.compile {torch.__version__}", _in_pytorch(torch.compile(prefix), prefix.device), "compiled"


def _in_pytorch(step: Callable[..., tuple[Tensor, ...]], device: torch.device) -> _Flat:
    @torch.no_grad()
    def flat(leaves: list[Tensor]) -> list[Tensor]:
        with mixed_precision(device):
            return [_plain(leaf) for leaf in step(*to_device(leaves, device))]

    return flat


def _engine(name: str, flat: _Flat, prefix: Prefix, expected: list[Pytree]) -> Engine:
    specs = [tree_structure(value) for value in expected]

    def run(batch: Pytree) -> list[Pytree]:
        leaves = iter(flat(tree_leaves(batch)))
        return [
            tree_map_only(Tensor, _plain, batch)
            if line == prefix.start
            else tree_unflatten(list(islice(leaves, spec.num_leaves)), spec)
            for line, spec in zip(prefix.lines, specs, strict=True)
        ]

    return Engine(name, run)


def _check_equal(
    engine: Engine, plain: Engine, prefix: Prefix, expected: list[Pytree], sizes: Sequence[int] = SIZES
) -> None:
    """Compare with eager, at several sizes: an exporter may take the size of its own batch for a constant.

    Raises:
        RuntimeError: They differ by more than rounding.
    """
    for size in sizes:
        batch = rows_of(prefix.sample, slice(0, size))
        wanted = expected if size == SAMPLE_SIZE else plain.run(batch)
        for line, found, value in zip(prefix.lines, engine.run(batch), wanted, strict=True):
            for leaf, reference in zip(tree_leaves(found), tree_leaves(value), strict=True):
                if leaf.shape != reference.shape or leaf.dtype != reference.dtype:
                    raise RuntimeError(f"shapes or types differ from eager's at line {line}")
                error = _error(leaf, reference)
                if not error <= _tolerance(reference.dtype, prefix.device):
                    raise RuntimeError(f"activations at line {line} differ from eager's by {error:.1e} of the largest")


def _error(leaf: Tensor, reference: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    if torch.equal(leaf, reference):
        return 0.0
    return float((leaf.double() - reference.double()).abs().max() / reference.double().abs().max())


def _tolerance(dtype: torch.dtype, device: torch.device) -> float:
    if device.type == "cuda" and dtype == torch.float32:  # eager itself computes in half precision there
        return 4 * torch.finfo(half_precision()).eps
    return TOLERANCE.get(dtype, 0.0)


def _seconds(engine: Engine, sample: Pytree) -> float:
    """Per example, the best of a few runs; it has run before."""
    taken: list[float] = []
    while not taken or (len(taken) < 5 and sum(taken) < 0.1):  # noqa: PLR2004 - a slow run is long enough alone
        taken.append(_timed(engine, sample)[0])
    return min(taken) / len(tree_leaves(sample)[0])


def _timed(engine: Engine, sample: Pytree) -> tuple[float, list[Pytree]]:
    """Seconds of a run, on CPUs without those in which other processes had them, and its activations."""
    passed, used = time.monotonic(), time.process_time()
    found = engine.run(sample)
    passed, used = time.monotonic() - passed, time.process_time() - used
    # on a busy machine exports take longer as well, by as much
    return passed if torch.cuda.is_available() else min(passed, used), found


def _plain(tensor: Tensor) -> Tensor:
    """On the CPU, in a type that NumPy has."""
    half = tensor.is_cuda and tensor.dtype in {torch.bfloat16, torch.float16}
    return (tensor.float() if half else tensor).cpu()
