"""The state of a training phase between two batches, on disk: a phase that was killed goes on from it, bit for bit.

It holds all that the next batch depends on: weights, those of the best epoch, the optimizer, the schedule, the scaler,
the states of all random generators, the place in the epoch, the history and with it early stopping. Which examples are
in a batch, and how they are augmented, follows from the seed, the epoch and the batch's number. A state is one file of
safetensors with JSON in its header; nothing in it is run when it is read.

A state is written beside the earlier ones and gets its name, which holds its checksum, when it is complete. One whose
content has another checksum is passed over for the one before. Writing takes at most 2% of the time: a state is due
when the phase has run for fifty times as long as it takes to write it.
"""

import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Never

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._pytree import tree_flatten, tree_unflatten, treespec_dumps, treespec_loads

from components.core import digests, run_folder
from components.core.fitting import shared_states
from components.core.machine import torchrun
from components.core.networks.network import Pytree
from components.core.tracking import provenance

if TYPE_CHECKING:
    from components.core.tracking.runs import StepRun

SHARE = 50.0  # seconds of training for each second of writing
LEAST_SECONDS = 1.0  # between two states
SPEED = 2e8  # bytes in a second that a disk takes, until the first state has shown it
KEPT = 2  # states of a phase
GRACE_SECONDS = 8.0  # that a batch may still take after a SIGTERM; Kubernetes waits for 30
PLACE = ("epoch", "batches", "examples", "seconds", "learning_rate", "best", "best_epoch", "history")
Facts = dict[str, Any]


@dataclass
class TrainingState:
    """A phase between two batches."""

    trained: nn.Module  # the thawed stages and the head
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    scaler: torch.amp.GradScaler
    kept: dict[str, Tensor]  # weights of the best epoch
    loss_sum: Tensor  # over the epoch's examples so far, on the device
    best: float
    epoch: int = 0
    batches: int = 0  # of the epoch that are done
    examples: int = 0  # in these
    seconds: float = 0.0  # that the epoch took until now
    learning_rate: float = 0.0  # at its begin
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def add(self, loss: Tensor, examples: int, seconds: float) -> None:
        """Count a batch that is done: its mean loss, on the device, and the epoch's seconds until now."""
        self.loss_sum += loss * examples  # stays on the device: .item() here would wait for the GPU
        self.examples += examples
        self.batches += 1
        self.seconds = seconds

    def mean_loss(self) -> float:
        """The mean loss of the epoch's examples so far."""
        return float(self.loss_sum) / max(1, self.examples)

    def end_epoch(self, figures: Mapping[str, float], seconds: float, *, keep: bool) -> None:
        """Take the figures of an epoch that is over, and its weights as the best if they are to be kept."""
        if keep:
            self.best, self.best_epoch, self.kept = figures["loss"], self.epoch, copied(self.trained)
        known = {"epoch": self.epoch, **figures, "learning_rate": self.learning_rate, "seconds": seconds}
        self.history.append(known)
        self.loss_sum = torch.zeros_like(self.loss_sum)
        self.epoch, self.batches, self.examples, self.seconds = self.epoch + 1, 0, 0, 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name."""
        found = {f"trained.{name}": tensor for name, tensor in self.trained.state_dict().items()}
        found |= {f"kept.{name}": tensor for name, tensor in self.kept.items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{number}.{n}": value for n, value in values.items() if isinstance(value, Tensor)}
        return {**found, "loss_sum": self.loss_sum}

    def facts(self) -> Facts:
        """Everything else, as JSON can hold it."""
        groups = [{name: group[name] for name in ("lr", "initial_lr")} for group in self.optimizer.param_groups]
        schedule = {name: value for name, value in self.schedule.state_dict().items() if name != "lr_lambdas"}
        place = {name: getattr(self, name) for name in PLACE}
        return {**place, "groups": groups, "schedule": schedule, "scaler": self.scaler.state_dict()}

    def load(self, tensors: Mapping[str, Tensor], facts: Facts) -> None:
        """Become the state that gave these tensors and facts."""
        device = self.loss_sum.device
        self.trained.load_state_dict(_below(tensors, "trained."))
        self.kept = {name: tensor.to(device) for name, tensor in _below(tensors, "kept.").items()}
        self.loss_sum = tensors["loss_sum"].to(device)
        found = self.optimizer.state_dict()
        for name, tensor in _below(tensors, "optimizer.").items():
            number, _, value = name.partition(".")
            found["state"].setdefault(int(number), {})[value] = tensor
        for group, rates in zip(found["param_groups"], facts["groups"], strict=True):
            group.update(rates)
        self.optimizer.load_state_dict(found)
        lambdas = self.schedule.state_dict()["lr_lambdas"]
        self.schedule.load_state_dict({**facts["schedule"], "lr_lambdas": lambdas})
        if facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        for name in PLACE:
            setattr(self, name, facts[name])


def folder(run: "StepRun", *start: object) -> Path | None:
    """The folder of a step's states; none for processes that torchrun started, which may not see the same one.

    Args:
        run: The step.
        start: What its training starts from beside the settings and the code, as JSON values: states of a step that
            started from something else are not found.
    """
    if torchrun.launched():
        return None
    name = digests.digest([run.settings.to_json(), provenance.program(run.settings.task), *start])[:16]
    return run_folder.run_folder(run.run_key) / run_folder.STATES / run.name / name


class StateFiles:
    """The states of one phase in a folder of its own."""

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        """Look into a folder, which is made on demand.

        Args:
            folder: Of the phase.
            writes: Whether this process writes; of several that train together one does.
        """
        self._folder = folder
        self._writes = writes
        self._asked = False  # to end
        self._saved = time.monotonic()
        self._cost = 0.0  # seconds that a state takes: as the last one did, at first as its size suggests

    def restore(self, state: TrainingState) -> None:
        """Bring a phase and all random generators to the newest whole state, if there is one."""
        found = read(self._folder)
        if found is not None:
            state.load(*found)
            set_random_states(*found)

    def offer(self, state: TrainingState) -> None:
        """Write the state if that is due, or if this process was asked to end, which it does then.

        Raises:
            SystemExit: It was asked to end.
        """
        if not self._writes:
            return
        if not self._cost:  # once: collecting the tensors after every batch would cost more than writing them
            self._cost = sum(tensor.numel() * tensor.element_size() for tensor in state.tensors().values()) / SPEED
        begin = time.monotonic()
        if self._asked or begin - self._saved > max(LEAST_SECONDS, SHARE * self._cost):
            write(self._folder, {**state.tensors(), **random_tensors()}, {**state.facts(), **random_facts()})
            self._saved = time.monotonic()
            self._cost = self._saved - begin
        if self._asked:
            _end()

    @contextmanager
    def ending_between_batches(self) -> Iterator[None]:
        """Let a SIGTERM end this process after the batch at hand, with a state, or after `GRACE_SECONDS` without."""
        if threading.current_thread() is not threading.main_thread() or not self._writes:
            yield
            return
        before = signal.signal(signal.SIGTERM, self._ask), signal.signal(signal.SIGALRM, _end)
        try:
            yield
            if self._asked:
                _end()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGTERM, before[0])
            signal.signal(signal.SIGALRM, before[1])

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        self._asked = True
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)


def recalled(
    folder: Path | None, compute: Callable[[], tuple[list[Pytree], list[dict[str, float]]]]
) -> tuple[list[Pytree], list[dict[str, float]]]:
    """Compute a part of the training once; read its result afterward.

    Args:
        folder: Of the part; without one it is computed each time.
        compute: Gives outputs and figures. The random generators are left as if it had been called.
    """
    found = read(folder) if folder else None
    if found is not None:
        tensors, facts = found
        outputs = [
            tree_unflatten([tensors[f"{i}.{k}"] for k in range(count)], treespec_loads(spec))
            for i, (count, spec) in enumerate(facts["outputs"])
        ]
        set_random_states(tensors, facts)
        return outputs, facts["history"]
    outputs, history = compute()
    leaves = [tree_flatten(one) for one in outputs]
    if folder and all(isinstance(leaf, Tensor) for some, _ in leaves for leaf in some):
        tensors = {f"{i}.{k}": leaf for i, (some, _) in enumerate(leaves) for k, leaf in enumerate(some)}
        facts = {"outputs": [(len(some), treespec_dumps(spec)) for some, spec in leaves], "history": history}
        write(folder, {**tensors, **random_tensors()}, {**facts, **random_facts()})
    return outputs, history


def write(folder: Path, tensors: Mapping[str, Tensor], facts: Facts) -> None:
    """Add a state to a folder, whole or not at all, and drop all but the last ones."""
    folder.mkdir(parents=True, exist_ok=True)
    before = sorted(folder.glob("*.safetensors"))
    number = 1 + (int(before[-1].name.partition("-")[0]) if before else 0)
    part = folder / "state.part"
    save_file(_separate(tensors), part, {"facts": json.dumps(facts)})
    path = part.replace(folder / f"{number:09}-{digests.of_file(part)}.safetensors")
    for old in before[: 1 - KEPT]:
        old.unlink()
    shared_states.send(path, KEPT)


def read(folder: Path) -> tuple[dict[str, Tensor], Facts] | None:
    """The newest state of a folder whose content has its checksum; None without one, here or in S3."""
    shared_states.fetch(folder)
    for path in sorted(folder.glob("*.safetensors"), reverse=True):
        if digests.of_file(path) != path.stem.partition("-")[2]:
            continue
        try:
            with safe_open(path, "pt") as file:
                names = file.keys()  # it is no mapping
                return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["facts"])
        except (SafetensorError, ValueError):
            continue
    return None


def random_tensors() -> dict[str, Tensor]:
    """The states of the random generators of PyTorch and NumPy."""
    numbers = torch.from_numpy(_numpy_state()[1].astype(np.int64))
    found = {"random.torch": torch.get_rng_state(), "random.numpy": numbers}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        found["random.cuda"] = torch.cuda.get_rng_state()
    return found


def random_facts() -> Facts:
    """The rest of NumPy's state, and that of Python's own generator."""
    _, _, *rest = _numpy_state()
    return {"random": [rest, random.getstate()]}


def set_random_states(tensors: Mapping[str, Tensor], facts: Facts) -> None:
    """Bring all random generators to the states that `random_tensors` and `random_facts` gave."""
    rest, (version, numbers, gauss) = facts["random"]
    random.setstate((version, tuple(numbers), gauss))
    words = tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", words, *rest))  # noqa: NPY002 - libraries draw from it
    torch.set_rng_state(tensors["random.torch"])
    if "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])


def copied(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's tensors."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _numpy_state() -> Sequence[Any]:
    return np.random.get_state()  # type: ignore[return-value]  # noqa: NPY002 - as above; a tuple, unless asked otherwise


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU; of those that share memory, as tied weights do, copies, for the format has no such."""
    found, seen = {}, set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in seen else own
        seen.add(place)
    return found


def _end(_signal: int = 0, _frame: FrameType | None = None) -> Never:
    raise SystemExit(128 + signal.SIGTERM)
