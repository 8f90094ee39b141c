"""Devices, and in what precision they compute."""

import pytest
import torch

from components.core.compute.device import computed_in, pick_device
from components.core.errors import InputError


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_a_gpu_computes_in_its_half_precision(half: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds of GPU have different ones, whose activations differ by more than rounding; a CPU keeps the type."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: half == torch.bfloat16)
    assert computed_in(torch.device("cuda"), torch.float32) == half
    assert computed_in(torch.device("cpu"), torch.float64) == torch.float64


def test_auto_takes_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is chosen when the program runs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("auto").type == "cuda"


@pytest.mark.parametrize("name", ["banana", "cuda:7"])
def test_a_device_that_is_not_there_is_an_input_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong device is told by its name."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=name):
        pick_device(name)


def test_each_process_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several processes on a machine, each takes the GPU of its number; a named one stays."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert pick_device("auto") == torch.device("cuda", 2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
