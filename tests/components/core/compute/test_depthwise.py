"""The faster weight gradient of depthwise convolutions."""

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.core.compute import depthwise as kernels
from components.core.compute.depthwise import fast_convolutions
from components.core.compute.device import place
from components.core.fitting import loop
from components.core.fitting.loop import fit, make_optimizer, warmup_cosine
from components.core.networks.network import Network, set_thawed

LAYOUTS = [torch.contiguous_format, torch.channels_last]
# height and width, kernel, then stride, padding and dilation as torch takes them
GEOMETRIES = [
    ((4, 4), (5, 5), {"padding": 2}),
    ((4, 4), (3, 3), {}),
    ((5, 7), (3, 5), {"stride": (2, 1), "padding": (1, 2)}),
    ((7, 5), (3, 2), {"padding": (2, 1), "dilation": (2, 3)}),
    ((6, 9), (2, 3), {"stride": 3, "padding": 1, "dilation": 2}),
    ((2, 2), (7, 7), {"padding": 3}),  # the outermost offsets meet no input
    ((8, 8), (1, 1), {"stride": (2,)}),
]


@pytest.fixture
def gram_always(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """No choice is measured: the Gram product is used for everything it can do; gives the weights it was used for."""
    used: list[tuple[int, ...]] = []
    gram = kernels._gram

    def counted(call: Any, gradient: Tensor) -> Tensor:
        used.append(tuple(call.weight.shape))
        return gram(call, gradient)

    monkeypatch.setattr(kernels, "_gram", counted)
    monkeypatch.setattr(kernels, "_gram_is_faster", lambda _call, _gradient: True)
    return used


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Seconds to report for each way, by name; `asked` collects whose time was taken. Nothing is known beforehand."""
    costs: dict[str, Any] = {"gram": 1.0, "ordinary": 1.0, "asked": []}

    def seconds(run: Callable[[], object]) -> float:
        costs["asked"].append(run.__name__)
        return float(costs[run.__name__])

    monkeypatch.setattr(kernels, "_seconds", seconds)
    monkeypatch.setattr(kernels, "_gram_wins", {})
    return costs


def depthwise(size: tuple[int, int], kernel: tuple[int, int], layout: torch.memory_format, dtype: torch.dtype) -> Any:
    """Input [3, 4, *size], weight and bias that require gradients."""
    inputs = torch.randn(3, 4, *size, dtype=dtype).to(memory_format=layout).requires_grad_()
    return (
        inputs,
        torch.randn(4, 1, *kernel, dtype=dtype, requires_grad=True),
        torch.randn(4, dtype=dtype).requires_grad_(),
    )


def trained(weight: Tensor) -> Any:
    """The context for a convolution with this weight."""
    module = nn.Module()
    module.weight = nn.Parameter(weight.detach())
    return fast_convolutions([module])


@pytest.mark.parametrize(
    "layout", [LAYOUTS[0], *(pytest.param(other, marks=pytest.mark.slow) for other in LAYOUTS[1:])]
)
@pytest.mark.parametrize(("size", "kernel", "options"), GEOMETRIES)
def test_gradients_are_those_of_finite_differences(
    size: tuple[int, int],
    kernel: tuple[int, int],
    options: dict[str, Any],
    layout: torch.memory_format,
    gram_always: list[tuple[int, ...]],
) -> None:
    """For every geometry and layout, in double precision, the gradients of input, weight and bias are the true ones."""
    tensors = depthwise(size, kernel, layout, torch.float64)

    def convolve(*arguments: Tensor) -> Tensor:
        with trained(tensors[1]):
            return functional.conv2d(*arguments, groups=4, **options)

    assert torch.autograd.gradcheck(convolve, tensors)
    assert (4, 1, *kernel) in gram_always


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("size", "kernel", "options"), GEOMETRIES)
def test_float32_differs_by_rounding_only(
    size: tuple[int, int],
    kernel: tuple[int, int],
    options: dict[str, Any],
    layout: torch.memory_format,
    gram_always: list[tuple[int, ...]],
) -> None:
    """Outputs are the ordinary ones bit for bit, gradients within float32's rounding."""
    tensors = depthwise(size, kernel, layout, torch.float32)
    ordinary = functional.conv2d(*tensors, groups=4, **options)
    gradient = torch.randn(ordinary.shape)
    with trained(tensors[1]):
        fast = functional.conv2d(*tensors, groups=4, **options)
    assert torch.equal(fast, ordinary)
    pairs = zip(*(torch.autograd.grad(out, tensors, gradient) for out in (fast, ordinary)), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert gram_always == [(4, 1, *kernel)]


def test_second_derivatives_are_left_to_torch(gram_always: list[tuple[int, ...]]) -> None:
    """A gradient of the gradient, as in a gradient penalty, is the true one."""
    tensors = depthwise((4, 3), (3, 3), torch.channels_last, torch.float64)

    def convolve(*arguments: Tensor) -> Tensor:
        with trained(tensors[1]):
            return functional.conv2d(*arguments, padding=1, groups=4)

    assert torch.autograd.gradgradcheck(convolve, tensors)
    assert gram_always == []


def test_only_what_needs_a_gradient_gets_one(gram_always: list[tuple[int, ...]]) -> None:
    """At the thaw line the input needs no gradient, and none is computed."""
    inputs, weight, _ = depthwise((4, 4), (3, 3), torch.channels_last, torch.float32)
    with trained(weight):
        functional.conv2d(inputs.detach(), weight, groups=4).sum().backward()
    assert weight.grad is not None
    assert inputs.grad is None
    assert gram_always == [(4, 1, 3, 3)]


@pytest.mark.parametrize(
    ("weight", "options"),
    [
        ((4, 4, 3, 3), {}),
        ((8, 2, 3, 3), {"groups": 2}),
        ((8, 1, 3, 3), {"groups": 4}),
        ((4, 1, 3, 3), {"groups": 4, "padding": "same"}),
    ],
    ids=["full", "grouped", "multiplied", "named padding"],
)
def test_other_convolutions_are_left_alone(
    weight: tuple[int, ...], options: dict[str, Any], gram_always: list[tuple[int, ...]]
) -> None:
    """A convolution that is not depthwise, or that pads by name, is torch's own with its gradients bit for bit."""
    inputs, kernel = torch.randn(2, 4, 6, 6), torch.randn(weight, requires_grad=True)
    plain = functional.conv2d(inputs, kernel, **options)
    with trained(torch.empty(4, 1, 3, 3)):
        caught = functional.conv2d(inputs, kernel, **options)
    assert type(caught.grad_fn) is type(plain.grad_fn)
    assert torch.equal(*(torch.autograd.grad(out.sum(), kernel)[0] for out in (plain, caught)))
    assert gram_always == []


@pytest.mark.parametrize("case", ["frozen", "no_grad", "deterministic", "autocast", "one picture"])
def test_it_stays_out_where_it_has_no_business(case: str, gram_always: list[tuple[int, ...]]) -> None:
    """Frozen weights, no gradients, deterministic algorithms, autocast and unbatched maps keep torch's convolution."""
    inputs, weight, _ = depthwise((4, 4), (3, 3), torch.contiguous_format, torch.float32)
    context: Any = {"no_grad": torch.no_grad, "autocast": lambda: torch.autocast("cpu", torch.bfloat16)}
    if case == "deterministic":
        torch.use_deterministic_algorithms(mode=True)
    try:
        with context.get(case, nullcontext)(), trained(weight):
            argument = inputs[0] if case == "one picture" else inputs
            out = functional.conv2d(argument, weight.detach() if case == "frozen" else weight, groups=4)
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert "Depthwise" not in type(out.grad_fn).__name__
    with trained(weight):
        out = functional.conv2d(inputs, weight, groups=4)
    assert "Depthwise" in type(out.grad_fn).__name__


def test_without_a_trained_depthwise_convolution_nothing_is_caught() -> None:
    """A head alone, or depthwise convolutions that are frozen, cost no look at every operation."""
    frozen = nn.Conv2d(4, 4, 3, groups=4).requires_grad_(requires_grad=False)
    assert isinstance(fast_convolutions([nn.Linear(2, 2), nn.Conv2d(4, 4, 3), frozen]), nullcontext)
    assert not isinstance(fast_convolutions([nn.Conv2d(4, 4, 3, groups=4)]), nullcontext)


def steps(module: nn.Module, inputs: Tensor, count: int) -> None:
    context = fast_convolutions([module])
    for _ in range(count):
        with context:
            out = module(inputs)
        out.sum().backward()


@pytest.mark.parametrize("gram_wins", [True, False])
def test_the_faster_way_is_taken(*, gram_wins: bool, timed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever way took less time on the first batch computes the gradient from then on, without measuring again."""
    timed["gram"], timed["ordinary"] = (1.0, 2.0) if gram_wins else (2.0, 1.0)
    module, inputs = nn.Conv2d(4, 4, 3, groups=4), torch.randn(8, 4, 5, 5)
    steps(module, inputs, 1)
    assert sorted(timed["asked"]) == ["gram"] * kernels.TIMED_RUNS + ["ordinary"] * kernels.TIMED_RUNS
    used = []
    gram = kernels._gram
    monkeypatch.setattr(kernels, "_gram", lambda *arguments: used.append(1) or gram(*arguments))
    steps(module, inputs, 2)
    assert len(used) == (2 if gram_wins else 0)
    assert len(timed["asked"]) == 2 * kernels.TIMED_RUNS


def test_a_slow_outlier_does_not_decide(timed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest of several runs counts, so one that was interrupted changes nothing."""
    taken = iter([9.0, 2.0, 1.0, 2.0, 9.0, 2.0])  # gram and ordinary in turn
    monkeypatch.setattr(kernels, "_seconds", lambda _run: next(taken))
    steps(nn.Conv2d(4, 4, 3, groups=4), torch.randn(8, 4, 5, 5), 1)
    assert list(kernels._gram_wins.values()) == [True]


@pytest.mark.parametrize("change", ["batch", "size", "layout", "dtype", "stride", "threads"])
def test_every_signature_is_measured(change: str, timed: dict[str, Any]) -> None:
    """Another batch size, map, layout, precision, stride or number of threads is measured on its own."""
    inputs, stride, threads = torch.randn(8, 4, 5, 5), 1, torch.get_num_threads()
    steps(nn.Conv2d(4, 4, 3, groups=4), inputs, 1)
    dtype = torch.float64 if change == "dtype" else torch.float32
    changed = {
        "batch": inputs[:4],
        "size": inputs[..., :4],
        "layout": inputs.to(memory_format=torch.channels_last),
        "dtype": inputs.double(),
    }
    try:
        torch.set_num_threads(threads + (change == "threads"))
        stride += change == "stride"
        steps(nn.Conv2d(4, 4, 3, stride, groups=4, dtype=dtype), changed.get(change, inputs), 1)
    finally:
        torch.set_num_threads(threads)
    assert len(kernels._gram_wins) == 2
    assert len(timed["asked"]) == 4 * kernels.TIMED_RUNS


def test_large_maps_are_not_even_tried(timed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the Gram matrix would dwarf the maps it is neither computed nor timed."""
    monkeypatch.setattr(kernels, "_gram", lambda *_: pytest.fail("computed"))
    steps(nn.Conv2d(4, 4, 3, groups=4), torch.randn(2, 4, 32, 32), 2)
    assert timed["asked"] == []
    assert list(kernels._gram_wins.values()) == [False]


def efficientnet(layout: torch.memory_format) -> tuple[Network, Tensor, Tensor]:
    """EfficientNet-Lite0 cut into stages, with BatchNorm statistics of its own, and a batch of pictures."""
    from components.core.networks.images.image_networks import build_backbone

    backbone = build_backbone("timm/tf_efficientnet_lite0", "none", 64)
    network = Network([stage for _, stage in backbone.stages], nn.Linear(backbone.features, 5), {})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    network = place(network, "cpu") if layout is torch.channels_last else network
    return network, torch.rand(16, 3, 64, 64), torch.arange(16) % 5


def train(network: Network, pictures: Tensor, targets: Tensor, thaw: int) -> list[Tensor]:
    """Three steps; all parameters and BatchNorm statistics afterwards."""
    line = set_thawed(network, thaw)
    network.eval()
    with torch.no_grad():
        kept = network.below(pictures, line)

    def batches(_epoch: int, _first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start in (0, 8):
            yield kept[start : start + 8], targets[start : start + 8]

    losses = iter([2.0, 1.0])
    fit(
        network,
        line,
        batches,
        (kept, targets),
        functional.cross_entropy,
        lambda _outputs, _targets: {"loss": next(losses)},  # the last epoch's weights are kept
        optimizer := make_optimizer(network, line, "sgd", 0.01, 1.0, 0.0),
        warmup_cosine(optimizer, 4, 0.0),
        epochs=2,
        patience=9,
        clip_norm=1.0,
    )
    return [tensor.detach().clone() for tensor in network.state_dict().values()]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_real_network_ends_with_the_same_weights(
    layout: torch.memory_format, gram_always: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """EfficientNet-Lite0 trained three stages deep ends with the ordinary weights, within rounding."""
    network, pictures, targets = efficientnet(layout)
    fast = train(copy.deepcopy(network), pictures, targets, 3)
    caught = len(gram_always)
    assert caught == 5 * 4  # five depthwise convolutions, one of them padded by timm's own code; four steps
    monkeypatch.setattr(loop, "fast_convolutions", lambda _modules: nullcontext())
    ordinary = train(copy.deepcopy(network), pictures, targets, 3)
    assert len(gram_always) == caught
    before = list(network.state_dict().values())
    moved = max(float((a - b).abs().max()) for a, b in zip(before, ordinary, strict=True) if a.is_floating_point())
    assert moved > 1e-3
    for one, other in zip(fast, ordinary, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
