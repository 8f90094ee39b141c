"""A phase that was cut off between two batches, and goes on."""

import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.core.contract.listener import Callbacks
from components.core.fitting import training_state
from components.core.fitting.loop import fit, make_optimizer, warmup_cosine
from components.core.fitting.training_state import StateFiles, TrainingState
from components.core.networks.network import Network, set_thawed
from components.core.networks.weights import state_digest

POINTS = torch.cat([torch.randn(40, 2, generator=torch.Generator().manual_seed(1)) + shift for shift in (-1, 1)])
TARGETS = torch.arange(2).repeat_interleave(40)
EPOCHS = 6


class CutOffError(Exception):
    """Stands for a SIGKILL."""


@dataclass
class EveryBatch(StateFiles):
    """States of every batch; the process is cut off after so many."""

    folder: Path
    batches: int

    def __post_init__(self) -> None:
        super().__init__(self.folder)

    def offer(self, state: TrainingState) -> None:
        self._saved = -1e9
        super().offer(state)
        self.batches -= 1
        if not self.batches:
            raise CutOffError


def batches(_epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    for rows in torch.arange(80).view(16, 5).t()[first:]:
        yield POINTS[rows], TARGETS[rows]


def validate(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    return {"loss": float(functional.cross_entropy(outputs, targets))}


def run(states: StateFiles | None, optimizer: str = "adamw", patience: int = EPOCHS) -> tuple[str, list[dict], float]:
    """Weights, history and the next random number after a phase with dropout, on three thawed layers."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh())]
    network = Network(stages, nn.Sequential(nn.Dropout(0.3), nn.Linear(8, 2)), {})
    set_thawed(network, 1)
    torch.manual_seed(3)
    chosen = make_optimizer(network, 0, optimizer, 0.1, 0.5, 0.01)
    shown: list[dict[str, float]] = []
    fit(
        network,
        0,
        batches,
        (POINTS, TARGETS),
        lambda outputs, targets: functional.cross_entropy(outputs, targets) * (1 + 0.1 * random.random()),
        validate,
        chosen,
        warmup_cosine(chosen, 5 * EPOCHS, 0.1),
        epochs=EPOCHS,
        patience=patience,
        clip_norm=1.0,
        listener=Callbacks(epoch=shown.append),
        states=states,
    )
    history = [{name: value for name, value in figures.items() if name != "seconds"} for figures in shown]
    return state_digest(network.state_dict()), history, float(torch.rand(()) + random.random() + np.random.rand())  # noqa: NPY002


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("after", [1, 5, 13, 30])
def test_a_phase_goes_on_bit_for_bit(after: int, optimizer: str, tmp_path: Path) -> None:
    """Cut off after any batch, within an epoch or at its end, it ends as one that was not does."""
    undisturbed = run(None, optimizer)
    with pytest.raises(CutOffError):
        run(EveryBatch(tmp_path, after), optimizer)
    assert run(StateFiles(tmp_path), optimizer) == undisturbed


def test_early_stopping_goes_on(tmp_path: Path) -> None:
    """Patience that was used up in part before the cut is not given again."""
    undisturbed = run(None, patience=1)
    assert len(undisturbed[1]) < EPOCHS
    with pytest.raises(CutOffError):
        run(EveryBatch(tmp_path, 5 * len(undisturbed[1]) - 2), patience=1)
    assert run(StateFiles(tmp_path), patience=1)[:2] == undisturbed[:2]


@pytest.mark.parametrize(("length", "end"), [(-7, b""), (0, b""), (-1, b"?")])
def test_a_broken_state_is_passed_over(length: int, end: bytes, tmp_path: Path) -> None:
    """A state that was cut or changed is not read; the one before it is, and gives the same end."""
    undisturbed = run(None)
    with pytest.raises(CutOffError):
        run(EveryBatch(tmp_path, 13))
    before, last = sorted(tmp_path.iterdir())
    last.write_bytes(last.read_bytes()[:length] + end)
    assert run(StateFiles(tmp_path)) == undisturbed
    before.write_bytes(b"")
    assert training_state.read(tmp_path) is None


def test_states_of_before_are_dropped(tmp_path: Path) -> None:
    """Two whole states are kept, and nothing half-written."""
    with pytest.raises(CutOffError):
        run(EveryBatch(tmp_path, 9))
    assert [path.name.partition("-")[0] for path in sorted(tmp_path.iterdir())] == ["000000008", "000000009"]


def test_a_sigterm_waits_for_the_end_of_the_batch(tmp_path: Path) -> None:
    """A process that is asked to end writes a state after the batch at hand, which is the last one."""

    class Asked(StateFiles):
        def offer(self, state: TrainingState) -> None:
            if (state.epoch, state.batches) == (1, 2):
                os.kill(os.getpid(), signal.SIGTERM)
            super().offer(state)

    undisturbed = run(None)
    with pytest.raises(SystemExit) as end:
        run(Asked(tmp_path))
    assert end.value.code == 128 + signal.SIGTERM
    found = training_state.read(tmp_path)
    assert found is not None
    assert (found[1]["epoch"], found[1]["batches"]) == (1, 2)
    assert run(StateFiles(tmp_path)) == undisturbed


def test_a_state_that_is_not_due_is_not_written(tmp_path: Path) -> None:
    """A phase of milliseconds writes nothing; nor does a process beside the one that writes."""
    run(StateFiles(tmp_path))
    states = EveryBatch(tmp_path, 3)
    states._writes = False
    with pytest.raises(CutOffError):
        run(states)
    assert list(tmp_path.iterdir()) == []


def test_a_fold_is_computed_once(tmp_path: Path) -> None:
    """What a fold gave is read the next time, whatever its outputs are made of, with the generators as they were."""
    history = [{"loss": 1.5, "epoch": 0.0}]

    def compute() -> tuple[list[object], list[dict[str, float]]]:
        return [torch.rand(2), {"a": torch.rand(1), "b": [torch.rand(3)]}], history

    first, again = training_state.recalled(tmp_path / "fold", compute), torch.rand(1)
    torch.manual_seed(7)
    second = training_state.recalled(tmp_path / "fold", lambda: ([], []))
    assert second[1] == history
    assert torch.equal(torch.rand(1), again)
    assert torch.equal(first[0][0], second[0][0])
    assert torch.equal(first[0][1]["b"][0], second[0][1]["b"][0])
    assert training_state.recalled(None, lambda: ([], [])) == ([], [])
