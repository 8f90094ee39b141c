"""Several processes that train one network: the single process's batches, divided, and its gradients, summed.

A process computes its share of a batch's rows. The outputs of all rows then come together, so that each process has the
loss of the whole batch, whatever it is normalised by; its gradient through the process's own rows, summed over
processes, is the single process's. With one process nothing here does anything.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous as torch_rendezvous
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from components.core.machine import torchrun
from components.core.networks.network import Network, Pytree

PEER_TIMEOUT = timedelta(minutes=10)  # without a step of the others: one of them has stopped
_meetings = itertools.count()  # of this process with the others: of both training steps, say
PASS_TIMEOUT = timedelta(days=2)  # that the others wait for, below the thaw line


def count() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them; 0 records and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_local_leader() -> bool:
    """Return whether this process fills the store of activations for its machine."""
    return count() == 1 or os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def joined(device: torch.device, address: str = "env://", stuck: timedelta = PEER_TIMEOUT) -> Iterator[None]:
    """Be one of the processes that the environment describes: RANK and WORLD_SIZE, as torchrun sets them.

    Args:
        device: Of this process; NCCL carries what lies on a GPU, Gloo what lies on a CPU.
        address: Where the processes meet.
        stuck: How long one waits for another that does nothing.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, number, total = _meeting_point(address)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(f"{next(_meetings)}", store),  # torchrun's store outlives a group, with its addresses
        rank=number,
        world_size=total,
        timeout=stuck,
    )
    yield
    dist.destroy_process_group()  # not after a failure: peers would fail of it before it was told


@cache
def _meeting_point(address: str) -> tuple[Store, int, int]:
    number, total = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    found: tuple[Store, int, int] = next(torch_rendezvous(address, number, total))
    return found


def rendezvous() -> None:
    """Wait until all processes that torchrun started have come here."""
    if torchrun.launched():
        store, _, total = _meeting_point("env://")
        place = f"meeting {next(_meetings)}"
        if store.add(place, 1) == total:
            store.set(f"{place}: all", "")
        store.wait([f"{place}: all"], PEER_TIMEOUT)


@contextmanager
def leader_first() -> Iterator[None]:
    """Let one process of each machine do what is inside before the others, with the threads of all of them."""
    if count() == 1:
        yield
        return
    patient: Any = dist.new_group(backend="gloo", timeout=PASS_TIMEOUT)
    if not is_local_leader():
        dist.barrier(patient)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads * (int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_local_leader() else 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
    if is_local_leader():
        dist.barrier(patient)
    dist.barrier(patient)  # checking the rows that are stored takes long where they are many
    dist.destroy_process_group(patient)


def share(rows: int) -> slice:
    """This process's rows of a batch: as many as the others', up to one; all where there are fewer than processes."""
    if rows < count():
        return slice(0, rows)
    return slice(rows * rank() // count(), rows * (rank() + 1) // count())


def parallel(network: Network, line: int) -> Callable[[Pytree], Pytree]:
    """Return the network above the line as a function of activations; its gradients are the mean over processes."""
    if count() == 1:
        return lambda inputs: network.above(inputs, line)
    device = next(network.parameters()).device
    # a stage may have parameters that its forward pass leaves out; statistics that move are equal, see `whole_batch`
    return DistributedDataParallel(
        _Above(network, line),
        device_ids=[device] if device.type == "cuda" else None,
        forward_sync_buffers=False,
        find_unused_parameters=True,
    )


class _Above(nn.Module):
    """A network from the thaw line on, as a module's forward pass."""

    def __init__(self, network: Network, line: int) -> None:
        super().__init__()
        self._network, self._line = network, line

    def forward(self, inputs: Pytree) -> Pytree:
        return self._network.above(inputs, self._line)


def whole(outputs: Pytree, rows: int) -> Pytree:
    """Outputs [rows, ...] of all processes from those of this one's share, through which alone gradients flow."""
    own = share(rows)
    if own == slice(0, rows):
        return outputs

    def gathered(tensor: Tensor) -> Tensor:
        everything = tensor.new_zeros(rows, *tensor.shape[1:])
        everything[own] = tensor.detach()
        dist.all_reduce(everything)  # x + 0 is x: no bit changes
        if tensor.requires_grad:
            # each process has the gradient of its own rows only, so the sum is wanted, and a mean will be taken
            tensor.register_hook(lambda gradient: gradient * count())  # type: ignore[no-untyped-call]  # torch leaves it untyped
            everything[own] = tensor
        return everything

    return tree_map_only(Tensor, gathered, outputs)


def agreed(figures: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """The first process's figures: all stop at the same epoch, and keep the same one."""
    if count() == 1:
        return dict(figures)
    values = torch.tensor(list(figures.values()), dtype=torch.float64, device=device)
    dist.broadcast(values, 0)
    return dict(zip(figures, values.tolist(), strict=True))


def whole_batch(rows: int) -> AbstractContextManager[Any]:
    """Inside, dropout and BatchNorm act as if the batch of `rows` had not been divided.

    In training BatchNorm goes by statistics that it keeps, see `set_training`, unless it keeps none.
    """
    own = share(rows)
    return nullcontext() if own == slice(0, rows) else _WholeBatch(rows, own)


class _WholeBatch(TorchFunctionMode):
    """Catches both however a module calls them.

    PyTorch's SyncBatchNorm has no CPU kernel, and converting to it drops the activation of timm's BatchNormAct2d.
    """

    def __init__(self, rows: int, own: slice) -> None:
        super().__init__()
        self._rows, self._own = rows, own

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        if func is functional.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        if func is functional.dropout:
            return self._dropout(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,  # noqa: A002 - torch's name for it
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,  # noqa: FBT001, FBT002 - torch's signature
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return functional.batch_norm(
                input, running_mean, running_var, weight, bias, training=False, momentum=momentum, eps=eps
            )
        others = [dim for dim in range(input.dim()) if dim != 1]
        wide = [-1 if dim == 1 else 1 for dim in range(input.dim())]
        values = input.float() if input.dtype in {torch.float16, torch.bfloat16} else input
        number = self._rows * values[:1].numel() // values.shape[1]  # of values in a channel, all processes' together
        mean = _sum(values.sum(others)) / number
        centred = values - mean.view(wide)
        variance = _sum(centred.square().sum(others)) / number
        with torch.no_grad():
            if running_mean is not None and running_var is not None:
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((variance * number / (number - 1)).to(running_var.dtype), momentum)
        result = centred * (variance + eps).rsqrt().view(wide)
        if weight is not None:
            result = result * weight.view(wide)
        return (result if bias is None else result + bias.view(wide)).to(input.dtype)

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002, FBT001, FBT002 - torch's signature
        if not training or len(input) != len(range(self._rows)[self._own]):  # not batch first
            return functional.dropout(input, p, training, inplace)
        # all processes draw for all rows, from generators in one state, and use what falls on their own
        mask = functional.dropout(input.new_ones(self._rows, *input.shape[1:]), p, training=True)
        return input * mask[self._own]


class _Sum(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ANN401, ARG004 - torch's context
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401, ARG004 - torch's context
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total
