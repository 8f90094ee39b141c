"""Depthwise convolutions whose weight gradient is a matrix product, used where it measures faster.

The weight gradient of a depthwise convolution takes few operations, but the libraries' CPU kernels are slow at it: with
large kernels on small maps it can be most of a training step. Here all positions of the output's gradient times all
positions of the input, summed over the batch, are one batched matrix product (for each channel the Gram matrix of two
sets of vectors along the batch), and the gradient at a kernel offset is a sum over entries of it. That computes more
than is needed, at many times the speed.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]  # vertical, horizontal

TIMED_RUNS = 3  # timed runs of each way, alternating; the fastest counts
MAX_GRAM_RATIO = 2  # times the elements of input and output: beyond that it was slower wherever it was measured

_gram_wins: dict[tuple[object, ...], bool] = {}  # signature of a convolution -> what was measured in this process


def fast_convolutions(modules: Iterable[nn.Module]) -> AbstractContextManager[Any]:
    """Run a forward pass of these modules inside, and its backward pass may use the faster weight gradient.

    Outputs stay the same bit for bit, gradients within rounding. It does nothing where no depthwise convolution is
    trained on a CPU, nor with deterministic algorithms: the choice is made by timing and may change between runs.
    It can be entered once for each batch: looking for such convolutions costs more than entering.
    """
    parameters = (parameter for module in modules for parameter in module.parameters())
    trained = any(p.requires_grad and p.dim() == 4 and p.shape[1] == 1 and p.device.type == "cpu" for p in parameters)  # noqa: PLR2004 - [C, 1, h, w]
    return _Catch() if trained and not torch.are_deterministic_algorithms_enabled() else nullcontext()


class _Call(NamedTuple):
    """A depthwise convolution."""

    inputs: Tensor  # [B, C, H, W]
    weight: Tensor  # [C, 1, h, w]
    bias: Tensor | None  # [C]
    stride: Pair
    padding: Pair
    dilation: Pair

    def signature(self) -> tuple[object, ...]:
        """All that decides how fast its gradients are computed."""
        inputs = (self.inputs.shape, self.inputs.stride(), self.inputs.dtype)
        return (*inputs, self.weight.shape, self.stride, self.padding, self.dilation, torch.get_num_threads())


class _Catch(TorchFunctionMode):
    """Catches convolutions however a module calls them: timm's with padding "same" have a forward pass of their own."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        del types
        kwargs = kwargs or {}
        if func is torch.conv2d and torch.is_grad_enabled():  # nn.functional.conv2d is the same object
            call = _depthwise(*args, **kwargs)
            if call and _gram_wins.get(call.signature(), True):
                return _DepthwiseConvolution.apply(*call)
        return func(*args, **kwargs)


def _depthwise(
    input: Tensor,  # noqa: A002 - torch's name for it, which callers may use
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> _Call | None:
    """The call, if it is a depthwise one in full precision on a CPU whose weight is trained."""
    if isinstance(padding, str) or type(input) is not Tensor or input.dim() != 4:  # noqa: PLR2004 - a batch
        return None
    plain = input.device.type == "cpu" and input.dtype in {torch.float32, torch.float64}
    channelwise = groups == input.shape[1] == weight.shape[0] and groups > 1
    if not (plain and channelwise and weight.requires_grad) or torch.is_autocast_enabled("cpu"):
        return None
    return _Call(input, weight, bias, _pair(stride), _pair(padding), _pair(dilation))


def _pair(value: int | Sequence[int]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


class _DepthwiseConvolution(torch.autograd.Function):
    """The ordinary convolution and input gradient, with the faster of two weight gradients."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # noqa: ANN401 - what torch passes: its context, a _Call's fields
        call = _Call(*arguments)
        ctx.save_for_backward(call.inputs, call.weight, call.bias)
        ctx.geometry = call[3:]
        return torch.conv2d(*call, groups=len(call.weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's context
        call = _Call(*ctx.saved_tensors, *ctx.geometry)
        to_input, to_weight, to_bias = ctx.needs_input_grad[:3]
        # a gradient of the gradient is asked for: only the ordinary way can be differentiated again
        if torch.is_grad_enabled() or not to_weight or not _gram_is_faster(call, gradient):
            return (*_ordinary(call, gradient, to_input, to_weight, to_bias), None, None, None)
        into_input, _, into_bias = _ordinary(call, gradient, to_input, False, to_bias)
        return into_input, _gram(call, gradient), into_bias, None, None, None


def _ordinary(call: _Call, gradient: Tensor, *wanted: bool) -> tuple[Tensor | None, ...]:
    """PyTorch's own gradients of input, weight and bias, each where wanted."""
    if not any(wanted):
        return None, None, None
    sizes = None if call.bias is None else list(call.bias.shape)
    fixed = (sizes, call.stride, call.padding, call.dilation, False, (0, 0), len(call.weight))
    gradients: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        gradient, call.inputs, call.weight, *fixed, wanted
    )
    return gradients


def _gram(call: _Call, gradient: Tensor) -> Tensor:
    """The weight's gradient [C, 1, h, w], given the output's [B, C, H', W']."""
    # one copy each for the layout: in channels last a channel's values lie C apart, which the product is slow at
    there = gradient.contiguous().flatten(2).permute(1, 2, 0)  # [C, H'W', B]
    here = call.inputs.contiguous().flatten(2).permute(1, 0, 2)  # [C, B, HW]
    products = torch.bmm(there, here).flatten(1)
    sizes = (tuple(call.inputs.shape[2:]), tuple(gradient.shape[2:]), tuple(call.weight.shape[2:]))
    entries, counts = _entries(*sizes, call.stride, call.padding, call.dilation)
    offsets = torch.split(products.index_select(1, entries), counts, 1)
    return torch.stack([offset.sum(1) for offset in offsets], 1).view(call.weight.shape)


@lru_cache(maxsize=256)
def _entries(
    inputs: Pair, outputs: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Tensor, list[int]]:
    """Find each kernel offset's terms in a Gram matrix, flattened from [H'W', HW]; offset by offset, with counts."""
    first = torch.arange(outputs[0] * outputs[1]).view(outputs) * (inputs[0] * inputs[1])
    found = []
    for offset in product(range(kernel[0]), range(kernel[1])):
        y, x = (torch.arange(outputs[i]) * stride[i] + offset[i] * dilation[i] - padding[i] for i in (0, 1))
        inside = ((y >= 0) & (y < inputs[0]))[:, None] & ((x >= 0) & (x < inputs[1]))
        found.append((first + y[:, None] * inputs[1] + x)[inside])
    return torch.cat(found), [len(entries) for entries in found]


def _gram_is_faster(call: _Call, gradient: Tensor) -> bool:
    """Measured on the first tensors of each signature; never tried where the Gram matrix is out of proportion."""
    signature = call.signature()
    if signature not in _gram_wins:
        here, there = call.inputs[0, 0].numel(), gradient[0, 0].numel()
        fits = here * there <= MAX_GRAM_RATIO * len(gradient) * (here + there)
        _gram_wins[signature] = fits and _measure(call, gradient)
    return _gram_wins[signature]


def _measure(call: _Call, gradient: Tensor) -> bool:
    def ordinary() -> object:
        return _ordinary(call, gradient, False, True, False)

    def gram() -> object:
        return _gram(call, gradient)

    ordinary(), gram()  # the first run of each sets up what later ones reuse
    pairs = [(_seconds(gram), _seconds(ordinary)) for _ in range(TIMED_RUNS)]
    return min(pair[0] for pair in pairs) < min(pair[1] for pair in pairs)


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
