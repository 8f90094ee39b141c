"""A batch divided between processes, without the processes: each share in turn, sums over them replaced."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.core.compute import distributed


def be(patch: pytest.MonkeyPatch, rank: int, count: int) -> None:
    patch.setattr(distributed, "rank", lambda: rank)
    patch.setattr(distributed, "count", lambda: count)


@pytest.mark.parametrize(("rows", "count"), [(7, 2), (8, 2), (5, 5), (64, 7), (9, 4)])
def test_shares_are_the_batch(rows: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares follow each other, cover every row once, and differ in size by one at most."""
    found = []
    for rank in range(count):
        be(monkeypatch, rank, count)
        found.append(list(range(rows)[distributed.share(rows)]))
    assert [row for share in found for row in share] == list(range(rows))
    assert {len(share) for share in found} <= {rows // count, -(-rows // count)}


def test_fewer_rows_than_processes_are_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of four processes has all three rows, and its outputs are the whole batch's as they are."""
    be(monkeypatch, 3, 4)
    outputs = torch.randn(3, 2)
    assert distributed.share(3) == slice(0, 3)
    assert distributed.whole(outputs, 3) is outputs


def test_one_process_changes_nothing() -> None:
    """Without other processes outputs and figures are handed on."""
    outputs, figures = torch.randn(3, 2), {"loss": 0.1}
    assert distributed.whole(outputs, 3) is outputs
    assert distributed.agreed(figures, torch.device("cpu")) == figures


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4), (6, 3, 4, 5)])
def test_batch_norm_is_pytorchs(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs, gradients and kept statistics are those of PyTorch's BatchNorm."""
    monkeypatch.setattr(distributed, "_sum", lambda values: values)
    inputs = torch.randn(shape, dtype=torch.float64) * 3 + 1
    weights = torch.randn(shape, dtype=torch.float64)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    found = []
    for mode in (distributed._WholeBatch(6, slice(0, 6)), nullcontext()):
        torch.manual_seed(0)
        layer, own = kind(3).double(), inputs.clone().requires_grad_()
        nn.init.normal_(layer.weight)
        with mode:
            outputs = layer(own)
        (outputs * weights).sum().backward()
        found.append([outputs, own.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_frozen_batch_norm_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """BatchNorm in evaluation mode sums nothing over processes."""
    monkeypatch.setattr(distributed, "_sum", lambda _values: pytest.fail("summed"))
    layer, inputs = nn.BatchNorm2d(3).eval(), torch.randn(4, 3, 2, 2)
    with distributed._WholeBatch(8, slice(0, 4)):
        outputs = layer(inputs)
    assert torch.equal(outputs, layer(inputs))


def test_dropout_draws_for_the_whole_batch() -> None:
    """The shares' masks, one below the other, are the single process's."""

    def dropped(inputs: Tensor, mode: AbstractContextManager[Any]) -> Tensor:
        torch.manual_seed(3)
        with mode:
            return functional.dropout(inputs, 0.4)

    inputs = torch.randn(7, 5)
    parts = [dropped(inputs[own], distributed._WholeBatch(7, own)) for own in (slice(0, 3), slice(3, 7))]
    assert torch.equal(torch.cat(parts), dropped(inputs, nullcontext()))
