"""The limit: one pass below the line on the fastest engine, plus the top's arithmetic at the machine's own speed.

Nothing that fine-tunes by this recipe can be faster than: each picture once through the frozen stages, and the
arithmetic of the trained part (forward counted by torch, backward from it) as fast as the machine computes its best
convolution. Depthwise convolutions and norms reach a fraction of that speed, so the limit can't be met, only neared.
"""

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from components.core.fitting.data import open_data
from components.core.networks.network import Network
from components.core.settings import Settings
from tests.benchmarks.compare.recipe import peer_network

DEPTHS = (0, 1, 2, 3)
TURNS, SPAN = 5, 0.5  # measurements of which the fastest counts, and seconds of each
CONVOLUTIONS = ((64, 64, 3, 32), (256, 256, 3, 16), (128, 128, 1, 32), (512, 512, 1, 16))  # in, out, kernel, side


def fastest(function: Callable[[], object]) -> float:
    """Seconds of one call: the least of several averages, which other work on the machine disturbs least."""
    function()
    found = []
    for _ in range(TURNS):
        begin, calls = time.perf_counter(), 0
        while calls == 0 or time.perf_counter() - begin < SPAN:
            function()
            calls += 1
        found.append((time.perf_counter() - begin) / calls)
    return min(found)


def floating(function: Callable[[], object]) -> int:
    """Floating-point operations of one call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


@torch.no_grad()
def convolution_speed(batch: int) -> float:
    """The fastest of a few dense convolutions, in operations per second."""
    found = []
    for inputs, outputs, kernel, side in CONVOLUTIONS:
        layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        layer.to(memory_format=torch.channels_last)
        rows = torch.randn(batch, inputs, side, side).contiguous(memory_format=torch.channels_last)
        run = lambda layer=layer, rows=rows: layer(rows)  # noqa: E731 - bound to this turn
        found.append(floating(run) / fastest(run))
    return max(found)


@torch.no_grad()
def engines(stages: nn.Sequential, rows: Tensor) -> dict[str, float]:
    """Seconds of one batch through the frozen stages, by engine."""
    stages.eval()
    last = rows.contiguous(memory_format=torch.channels_last)
    found = {"channels_last": fastest(lambda: stages(last))}
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - the exporter needs it
    except ModuleNotFoundError:
        return found
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = str(Path(folder) / "stages.onnx")
        torch.onnx.export(stages, (rows.contiguous(),), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        given = {session.get_inputs()[0].name: rows.contiguous().numpy()}
        found["onnxruntime"] = fastest(lambda: session.run(None, given))
    return found


@torch.no_grad()
def top(network: Network, frozen: Tensor, thaw: int) -> tuple[int, int]:
    """Operations of one forward pass and of one training step above the line.

    The gradients for the weights and for the input each take what the forward pass takes; the lowest trained layer
    needs none for its input. torch's own count of the backward pass takes depthwise convolutions for dense ones.
    """
    line = len(network.stages) - thaw
    network.eval()
    layers = [m for stage in (*network.stages[line:], network.head) for m in stage.modules()]
    lowest = next(layer for layer in layers if isinstance(layer, (nn.Conv2d, nn.Linear)))
    given: list[Tensor] = []
    handle = lowest.register_forward_pre_hook(lambda _layer, inputs: given.append(inputs[0]))
    forward = floating(lambda: network.above(frozen, line))
    handle.remove()
    return forward, 3 * forward - floating(lambda: lowest(given[0]))


def limit(dataset: Path, settings: Settings) -> dict[str, Any]:
    """The limit of each depth of `DEPTHS`, in seconds for the head phase and the thawed phase together."""
    data, chosen = open_data(dataset, settings), settings.defaults()
    network = peer_network(data, chosen)
    size, batch = network.preprocessing["size"], settings.batch_size
    rows = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    train, validation = (len(data.rows[split]) for split in ("train", "validation"))
    speed = convolution_speed(batch)
    passes = engines(nn.Sequential(*network.stages), rows)
    once = min(passes.values()) / batch * (train + validation)
    seconds, steps = {}, train / batch
    for thaw in DEPTHS:
        with torch.no_grad():
            network.eval()
            frozen = network.below(rows, len(network.stages) - thaw).clone()
        forward, step = top(network, frozen, thaw)
        epochs = chosen.thaw_epochs if thaw else settings.head_epochs
        work = epochs * (step * steps + forward * validation / batch)
        seconds[thaw] = work / speed
    return {
        "speed": speed,
        "engines": {name: batch / value for name, value in passes.items()},  # pictures a second
        "pass": once,
        "limits": {str(thaw): once + seconds[0] + (seconds[thaw] if thaw else 0.0) for thaw in DEPTHS},
        "seconds": once,
    }
