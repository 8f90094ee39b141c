"""Gradients in the layout of the activations: pictures channels last, as convolutions above the thaw line take them.

The average over positions, which ends most convolutional networks, hands its gradient on with channels first. Where
layouts differ, the CPU kernels of activation functions and norms take the slow way, several times as long as a copy.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def channels_last_gradients(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Give gradients of the modules' outputs the layout of these outputs, inside; their values stay the same.

    Weight gradients below may differ by rounding, since sums over positions take another order. On a GPU nothing is
    done: its kernels have not been measured.

    Args:
        modules: On their device; those of their parts that have none themselves are watched.
    """
    parts = [part for module in modules for part in module.modules()]
    on_cpu = all(one.device.type == "cpu" for part in parts for one in part.parameters(recurse=False))
    watched = [part for part in parts if on_cpu and next(part.children(), None) is None]
    hooks = [part.register_forward_hook(_watch) for part in watched]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _watch(_module: nn.Module, _inputs: object, output: object) -> None:
    if not isinstance(output, Tensor) or output.dim() != 4 or not output.requires_grad:  # noqa: PLR2004 - [B, C, H, W]
        return
    if output.is_contiguous(memory_format=torch.channels_last):
        output.register_hook(_channels_last)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _channels_last(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)
