"""The prepared data as training sees them."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from components.core.activations.rows import Reuse
from components.core.contract.task import Target, Task, load_task
from components.core.contract.task_options import with_measured
from components.core.data.examples import Examples
from components.core.settings import Settings


@dataclass(frozen=True)
class Data:
    """The prepared data as training sees it: rows of the train and validation splits, and their targets."""

    task: Task
    target: Target
    settings: Settings
    examples: Examples
    rows: dict[str, list[int]]
    targets: dict[str, Tensor]
    class_weights: Tensor | None
    reuse: Reuse = field(default_factory=Reuse)  # what reading kept activations saved so far
    heads: dict[Hashable, Any] = field(default_factory=dict)  # solved so far: trials that differ above ask for the same


def open_data(dataset: Path, settings: Settings) -> Data:
    """Open a prepared dataset; nothing is decoded yet."""
    task, examples = load_task(settings.task), Examples(dataset)
    settings = with_measured(settings, examples.info.options)
    target = task.target(settings)
    rows = {split: examples.rows(split) for split in ("train", "validation", "calibrate", "test")}
    targets = {
        split: target.targets(examples.labels(rows[split]), examples.classes) for split in ("train", "validation")
    }
    weights = None
    if settings.class_weights == "balanced":
        weights = target.class_weights(targets["train"], len(examples.classes))
    return Data(task, target, settings, examples, rows, targets, weights)
