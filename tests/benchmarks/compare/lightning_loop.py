"""Lightning: its Trainer and `BaseFinetuning` with the same recipe, and its own `BackboneFinetuning` with its defaults.

Its settings, and what they are worth against the plain loop (head only, then 3 stages thawed; 128 px, 2 cores):
- no logger, checkpoints, progress bar, model summary or sanity check: with them 1.15 and 1.26 times the plain loop's
  time over one short epoch, without 1.0 and 1.03;
- frozen stages in eval mode: `BaseFinetuning.freeze` only stops BatchNorm's statistics, and a frozen BatchNorm in
  training mode still normalises by the batch, which gives another network and takes up to 1.1 times as long;
- batches out of memory, channels last (see the plain loop), in the recipe's order; without workers, which would copy
  each batch between processes. A DataLoader that collates single items is as fast.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Sampler, TensorDataset

from components.core.networks.network import Network, set_thawed, set_training
from components.core.settings import Hyperparameters, Settings
from tests.benchmarks.compare.recipe import BATCH, Best, Phase, Pictures, factors, groups, order, steps_of

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class Ordered(Sampler[list[int]]):
    """The recipe's batches, one epoch after the other."""

    def __init__(self, settings: Settings, count: int) -> None:
        self.settings, self.count, self.epoch = settings, count, 0

    def __len__(self) -> int:
        return steps_of(self.settings, self.count)

    def __iter__(self) -> Any:
        self.epoch += 1
        yield from order(self.settings, self.epoch - 1, self.count)


def loader(tensors: tuple[Tensor, Tensor], batches: Any) -> DataLoader[Any]:
    """Whole batches by one index operation."""
    return DataLoader(TensorDataset(*tensors), sampler=batches, batch_size=None)


class Recipe(lightning.LightningModule):
    """The recipe's loss, optimizer and schedule for one phase."""

    def __init__(self, network: Network, phase: Phase, settings: Settings, chosen: Hyperparameters, steps: int) -> None:
        super().__init__()
        self.network, self.phase, self.settings, self.chosen = network, phase, settings, chosen
        self.steps = steps
        self.best, self.total, self.count = Best(network), 0.0, 0

    def on_train_epoch_start(self) -> None:
        set_training(self.network, len(self.network.stages) - self.phase.thaw)

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        self.total += float(functional.cross_entropy(self.network(batch[0]), batch[1], reduction="sum"))
        self.count += len(batch[1])

    def on_validation_epoch_end(self) -> None:
        self.best.look(self.current_epoch, self.total / self.count)
        self.total, self.count = 0.0, 0

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(groups(self.network, self.phase, self.chosen.weight_decay), fused=True)
        schedule = LambdaLR(optimizer, factors(self.settings, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Below(BaseFinetuning):
    """Freezes what lies below the thaw line for the whole phase."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line

    def freeze_before_training(self, pl_module: lightning.LightningModule) -> None:
        self.make_trainable(pl_module.network)
        if self.line:
            self.freeze(pl_module.network.stages[: self.line], train_bn=False)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        """The next phase is a fit of its own."""


def silence() -> None:
    """Lightning tells of its devices and advises workers at every fit."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning.*")


def train_phase(network: Network, pictures: Pictures, settings: Settings, chosen: Hyperparameters, thaw: int) -> None:
    """The recipe through `Trainer.fit`; the best epoch's weights stay in the network."""
    silence()
    phase, count = Phase.of(settings, chosen, thaw), len(pictures.train[1])
    line = set_thawed(network, thaw)
    module = Recipe(network, phase, settings, chosen, steps_of(settings, count) * phase.epochs)
    trainer = lightning.Trainer(max_epochs=phase.epochs, accelerator="cpu", callbacks=[Below(line)], **QUIET)
    validation = torch.arange(len(pictures.validation[1])).split(BATCH)
    trainer.fit(module, loader(pictures.train, Ordered(settings, count)), loader(pictures.validation, validation))
    module.best.restore()


class Own(lightning.LightningModule):
    """What a user writes: a backbone, a head, Adam at its default rate."""

    def __init__(self, network: Network, report: Callable[[nn.Module], None]) -> None:
        super().__init__()
        self.backbone, self.head, self.report = nn.Sequential(*network.stages), network.head, report

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs))

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        self.log("loss", functional.cross_entropy(self(batch[0]), batch[1]))

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.report(self)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=1e-3)


def own_defaults(network: Network, pictures: Pictures, settings: Settings, report: Callable[[nn.Module], None]) -> None:
    """`BackboneFinetuning` with its own defaults: the backbone thaws whole at epoch 10, at a tenth of the head's rate.

    Logger, checkpoints, progress bar and sanity check stay as they come, and so does the DataLoader; the memory layout
    is channels last, as everywhere here.
    """
    silence()
    train, validation = (TensorDataset(*some) for some in (pictures.train, pictures.validation))
    callback = BackboneFinetuning()
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=callback.unfreeze_backbone_at_epoch + settings.defaults().thaw_epochs,
            accelerator="cpu",
            callbacks=[callback],
            default_root_dir=folder,
        )
        shuffled = DataLoader(train, batch_size=settings.batch_size, shuffle=True)
        trainer.fit(Own(network, report), shuffled, DataLoader(validation, batch_size=settings.batch_size))
