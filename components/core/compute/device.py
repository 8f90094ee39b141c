"""Devices, and in what precision they compute."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from components.core.compute.allocator import keep_freed_memory
from components.core.errors import InputError, UnavailableError
from components.core.networks.network import Network, Pytree


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is the GPU where there is one.

    Raises:
        InputError: There is no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"There is no device {name!r}.", "Use auto, cpu, cuda or cuda:N.") from None
    if name == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # of several processes one has each
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UnavailableError(f"This machine has no device {name!r}.", "Use --device auto, or cpu.")
    return device


def place(network: Network, device: str) -> Network:
    """Move a network to its device, channels last: the layout that convolutions are fastest in."""
    keep_freed_memory()
    network.to(pick_device(device)).to(memory_format=torch.channels_last)
    return network


def to_device(batch: Pytree, device: torch.device) -> Pytree:
    """Move a batch; pictures go channels last, the layout that convolutions are fastest in."""

    def move(tensor: Tensor) -> Tensor:
        layout = torch.channels_last if tensor.dim() == 4 else torch.preserve_format  # noqa: PLR2004 - [B,C,H,W]
        if device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()  # only from there the copy goes on while the GPU computes
        return tensor.to(device, non_blocking=True, memory_format=layout)

    return tree_map_only(Tensor, move, batch)


def rows_of(batch: Pytree, rows: slice | Tensor) -> Pytree:
    """Some rows of every tensor."""
    return tree_map_only(Tensor, lambda tensor: tensor[rows], batch)


def mixed_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Half precision on a GPU only: a CPU without bf16 units is 10 to 40 times slower with it."""
    if device.type != "cuda":
        return nullcontext()
    return torch.autocast("cuda", half_precision())


def half_precision() -> torch.dtype:
    """The GPU's half precision: bfloat16 where it has units for it; emulated it would be slower than float32."""
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def computed_in(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The type that frozen stages of that type compute in: on a GPU its half precision, which differs by its kind."""
    return half_precision() if device.type == "cuda" else dtype
