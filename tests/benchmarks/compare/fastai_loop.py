"""fastai: its Learner with the same recipe, and its own `fine_tune` with its own defaults.

Its settings, and what they are worth against the plain loop (head only, then 3 stages thawed; 128 px, 2 cores):
- `train_bn=False` and `BnFreeze`: fastai trains the frozen stages' BatchNorm by default, so their statistics move and
  the backward pass goes through the whole network: 3.5 and 3.0 times the plain loop's time, 1.0 and 1.0 without;
- PyTorch's AdamW through `OptimWrapper`: the same optimizer as everybody's; fastai's own takes 1.0 and 1.03 times;
- batches out of memory, channels last, in the recipe's order; fastai's DataLoader over the same tensors is as fast;
- no progress bar, no logging.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import ParamScheduler
from fastai.callback.training import BnFreeze
from fastai.data.core import DataLoaders
from fastai.learner import Learner, Recorder
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import OptimWrapper
from fastai.vision.learner import vision_learner
from torch import Tensor, nn

from components.core.networks.network import Network
from components.core.networks.weights import load_state
from components.core.settings import Hyperparameters, Settings
from components.core.weight_sources import LITE0
from tests.benchmarks.compare.recipe import BATCH, Best, Phase, Pictures, factors, order, steps_of


class Batches:
    """The recipe's batches as fastai iterates over them, one epoch after the other."""

    def __init__(self, inputs: Tensor, targets: Tensor, settings: Settings, *, shuffled: bool) -> None:
        self.inputs, self.targets, self.settings, self.shuffled = inputs, targets, settings, shuffled
        self.epoch, self.dataset, self.bs, self.n = 0, range(len(targets)), settings.batch_size, len(targets)
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return steps_of(self.settings, self.n) if self.shuffled else -(-self.n // BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        picks = order(self.settings, self.epoch, self.n) if self.shuffled else torch.arange(self.n).split(BATCH)
        self.epoch += 1
        for some in picks:
            yield self.inputs[some], self.targets[some]


class EveryEpoch(Callback):
    """Calls a function with the epoch and the validation loss."""

    order = Recorder.order + 1  # the losses are there

    def __init__(self, function: Callable[[int, float], None]) -> None:
        super().__init__()
        self.function = function

    def after_epoch(self) -> None:
        self.function(self.learn.epoch, float(self.learn.recorder.values[-1][1]))


def loaders(pictures: Pictures, settings: Settings, classes: int) -> DataLoaders:
    """Both splits as fastai's DataLoaders."""
    train = Batches(*pictures.train, settings, shuffled=True)
    found = DataLoaders(train, Batches(*pictures.validation, settings, shuffled=False))
    found.c = classes
    return found


def parts(network: Network) -> list[list[nn.Parameter]]:
    """Parameters of each stage and of the head: the weights, then norms and biases, which don't decay."""
    modules = [*network.stages, network.head]
    return [[p for p in m.parameters() if (p.dim() > 1) == decays] for m in modules for decays in (True, False)]


def train_phase(network: Network, pictures: Pictures, settings: Settings, chosen: Hyperparameters, thaw: int) -> None:
    """The recipe through `Learner.freeze_to` and `fit`; the best epoch's weights stay in the network."""
    phase = Phase.of(settings, chosen, thaw)
    dls = loaders(pictures, settings, classes=0)
    steps = len(dls.train) * phase.epochs
    factor, best = factors(settings, steps), Best(network)
    learner = Learner(
        dls,
        network,
        CrossEntropyLossFlat(),
        opt_func=partial(OptimWrapper, opt=partial(torch.optim.AdamW, fused=True)),
        splitter=parts,
        train_bn=False,
        cbs=[
            BnFreeze(),
            ParamScheduler({"lr": lambda share: phase.rate * factor(round(share * steps))}),
            EveryEpoch(best.look),
        ],
    )
    learner.create_opt()
    learner.freeze_to(-2 * (thaw + 1))
    decays = [chosen.weight_decay, 0.0] * (len(network.stages) + 1)
    with learner.no_bar(), learner.no_logging():
        learner.fit(phase.epochs, lr=phase.rate, wd=decays)
    best.restore()


def own_defaults(pictures: Pictures, settings: Settings, classes: int, report: Callable[[nn.Module], None]) -> None:
    """`vision_learner(...).fine_tune(epochs)` with fastai's own head, optimizer, rates, schedule and BatchNorm.

    Its `fine_tune` asks for epochs: the recipe's number of thawed ones; one frozen epoch comes before by default.
    Kept beside the defaults: in-memory batches, and no progress bar; both only make it faster.
    """
    learner: Any = None
    dls = loaders(pictures, settings, classes)
    learner = vision_learner(
        dls,
        "tf_efficientnet_lite0",
        normalize=False,  # the pictures are normalised already
        n_out=classes,
        loss_func=CrossEntropyLossFlat(),
        pretrained=False,  # the weights come from the package below, not from a hub
        cbs=[EveryEpoch(lambda _epoch, _loss: report(learner.model))],
    )
    state = {name: tensor for name, tensor in load_state(LITE0).items() if not name.startswith("classifier")}
    learner.model[0].model.load_state_dict(state)
    learner.model.to(memory_format=torch.channels_last)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(settings.defaults().thaw_epochs)
