"""What every system of the comparison is given alike: pictures, order of batches, schedule, choice of the best epoch.

The network of the peers is timm's own module tree, not Thawline's traced stages; it has the same weights, the same
stages and the same first head, so that equal arithmetic gives equal figures. Pictures are decoded once, outside every
epoch, and held channels last: a peer is never given the slower of two ways.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.core.fitting.data import Data
from components.core.fitting.loop import warmup_cosine
from components.core.networks.network import Network
from components.core.networks.weights import load_state
from components.core.settings import Hyperparameters, Settings
from components.core.training.phase import build_network
from components.core.weight_sources import LITE0

BATCH = 64  # of every evaluation
HEAD_RATE, THAW_RATE, WEIGHT_DECAY = 3e-3, 2e-4, 1e-2


def settings_of(image_size: int, head_epochs: int, thaw_epochs: int, **more: Any) -> Settings:
    """The recipe in Thawline's terms: one rate for all thawed layers and the head, no dropout, nothing augmented.

    Everybody warms up over 10% of a phase's steps, then follows half a cosine; nobody stops early.
    """
    recipe = {
        "image_size": image_size,
        "head_solver": "sgd",  # as everybody else: the epochs are what is compared
        "batch_size": 64,
        "head_epochs": head_epochs,
        "thaw_epochs": thaw_epochs,
        "head_learning_rate": HEAD_RATE,
        "thaw_learning_rate": THAW_RATE,
        "layer_decay": 1.0,
        "weight_decay": WEIGHT_DECAY,
        "dropout": 0.0,
        "label_smoothing": 0.0,
        "thaw": 2,
        "patience": 1000,
        "clip_norm": 0.0,
        "augment": "none",
    }
    return Settings.model_validate({**recipe, **more})


def searched(settings: Settings, trials: int) -> Settings:
    """The recipe with everything searched that Thawline searches, and its own patience."""
    free = dict.fromkeys(Settings.SEARCHED)
    return settings.model_copy(update={**free, "trials": trials, "patience": Settings.model_fields["patience"].default})


@dataclass(frozen=True)
class Phase:
    """One of the two phases of a recipe."""

    thaw: int
    epochs: int
    rate: float
    decay: float  # on the rate for each stage below the head

    @classmethod
    def of(cls, settings: Settings, chosen: Hyperparameters, thaw: int) -> "Phase":
        """As `train_phase` reads the settings."""
        if thaw:
            return cls(thaw, chosen.thaw_epochs, chosen.thaw_learning_rate, chosen.layer_decay)
        return cls(0, settings.head_epochs, chosen.head_learning_rate, 1.0)


@dataclass
class Clock:
    """Seconds since it began, without what it was paused for."""

    began: float = field(default_factory=time.perf_counter)
    paused: float = 0.0

    def now(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.began - self.paused

    @contextmanager
    def pause(self) -> Iterator[float]:
        """Keep what happens inside off the clock; gives the seconds so far."""
        begin = time.perf_counter()
        yield begin - self.began - self.paused
        self.paused += time.perf_counter() - begin


@dataclass(frozen=True)
class Pictures:
    """Encoded pictures [N, 3, size, size], channels last, with their class numbers [N]."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]


def batch_of(data: Data, rows: Sequence[int], preprocessing: dict[str, Any]) -> Tensor:
    """Pictures by Thawline's own decoding, [B, 3, size, size] channels last: the same pixels for everybody."""
    batch: Tensor = data.task.encode(data.examples.contents(rows), preprocessing)
    return batch.contiguous(memory_format=torch.channels_last)


def encoded(data: Data, split: str, preprocessing: dict[str, Any]) -> Tensor:
    """All pictures of a split in one tensor, filled batch by batch: concatenating would hold everything twice."""
    rows, size = data.rows[split], preprocessing["size"]
    whole = torch.empty(len(rows), 3, size, size, memory_format=torch.channels_last)
    for i in range(0, len(rows), BATCH):
        whole[i : i + BATCH] = batch_of(data, rows[i : i + BATCH], preprocessing)
    return whole


def pictures_of(data: Data, preprocessing: dict[str, Any]) -> Pictures:
    """Both splits that training sees, in memory: faster for every peer than decoding in each epoch."""
    train, validation = (
        (encoded(data, split, preprocessing), data.targets[split]) for split in ("train", "validation")
    )
    return Pictures(train, validation)


def order(settings: Settings, epoch: int, count: int) -> Iterator[Tensor]:
    """The batches of an epoch as positions: the very batches that Thawline draws."""
    generator = torch.Generator().manual_seed(settings.seed * 100_003 + epoch)
    batches = torch.split(torch.randperm(count, generator=generator), settings.batch_size)
    yield from (batch for batch in batches if len(batch) > 1 or len(batches) == 1)


def steps_of(settings: Settings, count: int) -> int:
    """Batches of an epoch."""
    return sum(1 for _ in order(settings, 0, count))


def factors(settings: Settings, steps: int) -> Callable[[int], float]:
    """Factor on the rate at each step of a phase: Thawline's own schedule."""
    idle = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule: Callable[[int], float] = warmup_cosine(idle, steps, settings.warmup).lr_lambdas[0]
    return schedule


def peer_network(data: Data, chosen: Hyperparameters) -> Network:
    """EfficientNet-Lite0 of timm with the packaged weights, in the same nine stages, with Thawline's first head."""
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    state = load_state(LITE0)
    network.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("classifier")})
    stages = [
        nn.Sequential(network.conv_stem, network.bn1),
        *network.blocks,
        nn.Sequential(network.conv_head, network.bn2, network.global_pool),
    ]
    like = build_network(data, chosen)
    whole = Network(stages, like.head, like.preprocessing)
    return whole.to(memory_format=torch.channels_last)


def groups(network: Network, phase: Phase, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of a phase: lower rates for deeper stages, no weight decay on norms and biases."""
    line = len(network.stages) - phase.thaw
    found: list[dict[str, Any]] = []
    for depth, module in enumerate([network.head, *reversed(network.stages[line:])]):
        rate = phase.rate * phase.decay**depth
        for decays in (True, False):
            some = [p for p in module.parameters() if (p.dim() > 1) == decays]
            if some:
                found.append({"params": some, "lr": rate, "weight_decay": weight_decay if decays else 0.0})
    return found


class Best:
    """Keeps the weights of the epoch with the lowest validation loss in memory, as Thawline does."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.loss, self.epoch = module, math.inf, -1
        self.kept: dict[str, Tensor] = {}

    def look(self, epoch: int, loss: float) -> None:
        """Keep the present weights if they are the best so far."""
        if loss < self.loss:
            self.loss, self.epoch = loss, epoch
            self.kept = {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}

    def restore(self) -> None:
        """Put the best weights back."""
        if self.kept:
            self.module.load_state_dict(self.kept)


@torch.no_grad()
def validation_loss(network: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Mean cross-entropy of a split in eval mode."""
    network.eval()
    total = 0.0
    for i in range(0, len(targets), BATCH):
        outputs = network(inputs[i : i + BATCH])
        total += float(functional.cross_entropy(outputs, targets[i : i + BATCH], reduction="sum"))
    return total / len(targets)


class Tester:
    """Accuracy on the test split, measured off the clock.

    Args:
        data: The prepared data.
        preprocessing: Of the network.
        keep: Hold the pictures, or what lies below the line, in memory: for a test after each epoch. Otherwise
            pictures are decoded again for each call, so that they weigh on no measurement of memory.
    """

    def __init__(self, data: Data, preprocessing: dict[str, Any], *, keep: bool) -> None:
        self.data, self.preprocessing, self.keep = data, preprocessing, keep
        self.targets = data.target.targets(data.examples.labels(data.rows["test"]), data.examples.classes)
        self._kept: tuple[int, list[Tensor]] | None = None

    @torch.no_grad()
    def accuracy(self, network: nn.Module, line: int = 0) -> float:
        """Share of right answers; the `line` stages below did not change since the last call."""
        modes = {module: module.training for module in network.modules()}
        network.eval()
        run = (lambda rows: network.above(rows, line)) if isinstance(network, Network) else network
        right = 0
        for rows, targets in zip(self._at(network, line), self.targets.split(BATCH), strict=True):
            right += int((run(rows).argmax(1) == targets).sum())
        for module, mode in modes.items():
            module.training = mode
        return right / len(self.targets)

    def _at(self, network: nn.Module, line: int) -> Iterable[Tensor]:
        if self._kept is None or self._kept[0] != line:
            rows = self.data.rows["test"]
            found = (
                below(network, batch_of(self.data, rows[i : i + BATCH], self.preprocessing), line)
                for i in range(0, len(rows), BATCH)
            )
            if not self.keep:
                return found
            self._kept = (line, list(found))
        return self._kept[1]


def below(network: nn.Module, inputs: Tensor, line: int) -> Tensor:
    """The activations at a line; at 0, and of a network that can't be cut, the pictures."""
    return network.below(inputs, line) if isinstance(network, Network) else inputs
