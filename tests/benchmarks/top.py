"""What a step of the thawed top costs, and how near it comes to the machine's arithmetic peak.

`python -m tests.benchmarks.top` trains the last stages of two networks on a CPU, from activations at the thaw line, and
prints milliseconds a step without and with the faster weight gradient (components/core/compute/depthwise.py) and the
fused optimizer, the two alternating; the ratio of their medians and of their fastest; and the share of the peak that
the new way reaches. The operations counted are those of the convolutions' definition, so that no way of computing gains
by counting. `--compile` compares with `torch.compile` instead. On a busy machine take `--threads 1 --clock cpu`:
processor time, which does not count waiting.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from components.core.compute import device, distributed
from components.core.fitting import loop
from components.core.networks.images.image_networks import build_backbone
from components.core.networks.network import Network, set_thawed, set_training

CASES = [("timm/tf_efficientnet_lite0", (1, 2, 3)), ("torchvision/resnet18", (1, 2))]
CLASSES = 10
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Clock = Callable[[], float]


def gigaflops(run: Callable[[], object], operations: float, clock: Clock) -> float:
    """The best of several runs, in GFLOP/s."""
    run()
    times = []
    for _ in range(8):
        begin = clock()
        run()
        times.append(clock() - begin)
    return operations / min(times) / 1e9


def peaks(batch: int, clock: Clock) -> tuple[float, float]:
    """GFLOP/s of the best matrix product and of the best plain convolution, both in float32."""
    products = []
    for size in (1024, 2048):
        one, other = torch.randn(size, size), torch.randn(size, size)
        products.append(gigaflops(lambda a=one, b=other: a @ b, 2 * size**3, clock))
    convolutions = []
    for channels, side in ((128, 16), (256, 8), (512, 4)):
        maps = torch.randn(batch, channels, side, side).to(memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, 3, 3).to(memory_format=torch.channels_last)
        operations = 2 * 9 * batch * (channels * side) ** 2
        convolutions.append(gigaflops(lambda x=maps, w=weight: functional.conv2d(x, w, padding=1), operations, clock))
    return max(products), max(convolutions)


class Top:
    """The stages above a thaw line, a batch of activations there, and an optimizer for each way."""

    def __init__(self, name: str, thaw: int, batch: int, size: int) -> None:
        torch.manual_seed(0)
        backbone = build_backbone(name, "none", size)
        head = nn.Sequential(nn.Dropout(0.2), nn.Linear(backbone.features, CLASSES))
        self.network = device.place(Network([stage for _, stage in backbone.stages], head, {}), "cpu")
        self.line = set_thawed(self.network, thaw)
        pictures = device.to_device(torch.rand(batch, 3, size, size), torch.device("cpu"))
        with torch.no_grad():
            kept = self.network.eval().below(pictures, self.line)
        self.batch = (device.to_device(kept, torch.device("cpu")), torch.arange(batch) % CLASSES)
        self.optimizers = {fast: self._optimizer(fast=fast) for fast in (False, True)}
        self.forward = distributed.parallel(self.network, self.line)

    def _optimizer(self, *, fast: bool) -> torch.optim.Optimizer:
        optimizer = loop.make_optimizer(self.network, self.line, "adamw", 1e-6, 0.7, 1e-2)
        for group in optimizer.param_groups:
            group["fused"] = group["fused"] and fast
        return optimizer

    def milliseconds(self, steps: int, clock: Clock, *, fast: bool) -> float:
        """A training step, the mean of several; by the loop that training uses."""
        optimizer = self.optimizers[fast]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _step: 1.0)
        taken: list[float] = []

        def batches(_epoch: int, _first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
            begin = clock()  # what precedes and follows the steps, copies of the weights and validation, is left out
            for _ in range(steps):
                yield self.batch
            taken.append(clock() - begin)

        with nullcontext() if fast else ordinary_gradients(), self._given_forward():
            loop.fit(
                self.network,
                self.line,
                batches,
                (self.batch[0][:1], self.batch[1][:1]),
                functional.cross_entropy,
                lambda _outputs, _targets: {"loss": 0.0},
                optimizer,
                schedule,
                epochs=1,
                patience=1,
                clip_norm=1.0,
            )
        return taken[0] / steps * 1e3

    def _given_forward(self) -> AbstractContextManager[Any]:
        return mock.patch.object(distributed, "parallel", return_value=self.forward)

    def operations(self) -> int:
        """Floating-point operations of a forward and a backward pass, by PyTorch's own count."""
        set_training(self.network, self.line)
        counted = {torch.ops.aten.convolution_backward: gradient_operations}
        with FlopCounterMode(display=False, custom_mapping=counted) as counter:
            functional.cross_entropy(self.network.above(self.batch[0], self.line), self.batch[1]).backward()
        return int(counter.get_total_flops())


def gradient_operations(  # PyTorch's own formula forgets that the channels of a depthwise convolution are apart
    gradient: list[int], _inputs: list[int], weight: list[int], *rest: Any, out_shape: Any = None
) -> int:
    """Operations of a convolution's backward pass: those of its forward pass for each gradient that is asked for."""
    asked = rest[-1][:2]  # of input and weight; the bias takes next to nothing
    return 2 * math.prod(gradient) * math.prod(weight[1:]) * sum(asked)


def ordinary_gradients() -> AbstractContextManager[Any]:
    """Training without the faster kernels."""
    return mock.patch.object(loop, "fast_convolutions", return_value=nullcontext())


def report(name: str, thaw: int, options: argparse.Namespace, peak: tuple[float, float]) -> str:
    """One line of the table."""
    top = Top(name, thaw, options.batch, options.size)
    times: dict[bool, list[float]] = {False: [], True: []}
    for repetition in range(options.repetitions + 1):
        for fast, found in times.items():
            took = top.milliseconds(options.steps, CLOCKS[options.clock], fast=fast)
            found.extend([took] if repetition else [])  # the first measures the kernels and warms up
    medians = {fast: statistics.median(found) for fast, found in times.items()}
    operations = top.operations()
    speed = operations / medians[True] / 1e6
    cells = [f"{medians[fast]:8.1f} ({min(found):6.1f} - {max(found):6.1f})" for fast, found in times.items()]
    shares = "".join(f"{speed / best:10.0%}" for best in peak)
    ratios = [medians[False] / medians[True], min(times[False]) / min(times[True])]
    gains = "".join(f"{ratio:7.2f}" for ratio in ratios)
    return f"{name:<29}{thaw:>3}  {cells[0]}  {cells[1]}{gains}{operations / 1e9:9.2f}{speed:9.1f}{shares}"


def compiled(name: str, thaw: int, options: argparse.Namespace) -> str:
    """What compiling costs, what a step takes then, and after how many steps that pays."""
    top, clock = Top(name, thaw, options.batch, options.size), CLOCKS[options.clock]
    top.milliseconds(1, clock, fast=True)
    eager, plain = top.forward, []
    faster, times = torch.compile(eager), list[float]()
    top.forward = faster
    cost = top.milliseconds(1, clock, fast=False) / 1e3  # without the kernels of its own, which it can't see through
    for _ in range(options.repetitions):
        top.forward = eager
        plain.append(top.milliseconds(options.steps, clock, fast=True))
        top.forward = faster
        times.append(top.milliseconds(options.steps, clock, fast=False))
    saved = statistics.median(plain) - statistics.median(times)
    pays = f"pays after {cost * 1e3 / saved:,.0f} steps" if saved > 0 else "never pays"
    return (
        f"{name:<29}{thaw:>3}  {statistics.median(plain):8.1f} ms, compiled {statistics.median(times):8.1f} ms a step "
        f"({statistics.median(plain) / statistics.median(times):.2f} times as fast); compiling {cost:.1f} s: {pays}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="examples a step (64)")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels (128)")
    parser.add_argument("--repetitions", type=int, default=5, help="repetitions of each way, alternating (5)")
    parser.add_argument("--steps", type=int, default=3, help="steps in a repetition (3)")
    parser.add_argument("--threads", type=int, default=0, help="threads; 0: torch's own choice")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what is measured (wall)")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile of the top instead")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.compile:
        for name, depths in CASES:
            for thaw in depths:
                print(compiled(name, thaw, options), flush=True)
        return
    peak = peaks(options.batch, CLOCKS[options.clock])
    print(f"{torch.get_num_threads()} threads; float32 peaks: matrix product {peak[0]:.0f} GFLOP/s, ", end="")
    print(f"plain convolution {peak[1]:.0f} GFLOP/s; batch {options.batch}, {options.size} px")
    print(f"{'milliseconds a step: median (range)':<34}{'without':>8}{'with':>27}", end="")
    print(f"{'ratio':>25}{'fastest':>9}{'GFLOP':>7}{'GFLOP/s':>9}{'of matmul':>10}{'of conv':>10}")
    for name, depths in CASES:
        for thaw in depths:
            print(report(name, thaw, options, peak), flush=True)


if __name__ == "__main__":
    main()
