"""Which recipe of the thawed phase helps: each against the head-only model, on folds that neither was fitted on.

    python -m tests.benchmarks.quality.thaw_study DIR --sets stamps --folds 0 --recipes thaw=2 "augment=basic views=4"

A recipe sets fields of `Hyperparameters` and `Settings`; the rest are the defaults. Prints how much lower than the
head's the calibrated loss of the last epoch is, and how much higher the accuracy, with paired standard errors over all
held-out rows; then the same for the mean of these weights and those that the phase started from; then CPU seconds.
"""

import argparse
import copy
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.core.fitting import folds
from components.core.fitting.calibration import calibrated_figures, calibrated_losses
from components.core.fitting.data import Data, open_data
from components.core.networks.network import Pytree
from components.core.settings import Hyperparameters, Settings
from components.core.training.phase import build_network, outputs, train_phase
from tests.benchmarks.quality.probe import Array
from tests.benchmarks.quality.run import Job, Options, prepared
from tests.benchmarks.quality.sets import DATA

FOLDS = 5


def opened(folder: Path, name: str, size: int) -> Data:
    """Open a set's training and validation rows, split with the salt 0."""
    options, job = Options((name,), 1, ("defaults",), 0, size, folder), Job(name, 0, "defaults")
    dataset = prepared(job, DATA[name].write(folder), options)
    return open_data(dataset, Settings.model_validate(job.settings(options)))


def parsed(recipe: str) -> tuple[Hyperparameters, dict[str, Any]]:
    """Return the hyperparameters of a recipe, and what it changes of the settings."""
    pairs = dict(pair.split("=") for pair in recipe.split())
    own = {name: value for name, value in pairs.items() if name in Hyperparameters.model_fields}
    rest = {name: value for name, value in pairs.items() if name not in own}
    changed = Settings.model_validate(rest)
    return Hyperparameters.model_validate(own), {name: getattr(changed, name) for name in rest}


def compared(part: Data, recipe: str) -> tuple[Array, float]:
    """Train on a fold; return gains float64[2, 2, N] and CPU seconds.

    The first axis is the last epoch's network and the one halfway to it, the second loss and accuracy.
    """
    chosen, changes = parsed(recipe)
    # every epoch is trained; a head of plain rows is the start of all recipes
    plain = replace(part, settings=part.settings.model_copy(update={"patience": chosen.thaw_epochs}))
    network, targets = build_network(plain, chosen), plain.targets["validation"]
    train_phase(network, plain, chosen, thaw=0)
    start = copy.deepcopy(network.state_dict())
    before = scores(plain, outputs(network, plain, 0, "validation"), targets)
    end: dict[str, Tensor] = {}

    def validate(found: Pytree, given: Tensor) -> dict[str, float]:
        end.update(copy.deepcopy(network.state_dict()))
        return calibrated_figures(plain.target, found, given)

    begin = time.process_time()
    thawed = replace(plain, settings=plain.settings.model_copy(update=changes))
    train_phase(network, thawed, chosen, thaw=chosen.thaw, validate=validate)
    seconds, gains = time.process_time() - begin, []
    for share in (1.0, 0.5):
        network.load_state_dict(between(start, end, share))
        gains.append(scores(plain, outputs(network, plain, chosen.thaw, "validation"), targets) - before)
    return np.array(gains) * [[[-1.0], [1.0]]], seconds


def between(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return weights that lie a share of the way from one network to another; counters are the other's."""
    return {
        name: torch.lerp(start[name], tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in end.items()
    }


def scores(data: Data, found: Tensor, targets: Tensor) -> Array:
    """Return calibrated loss and correctness of each row, float64[2, N]."""
    correct = (found.argmax(1) == targets).double().numpy()
    return np.stack([calibrated_losses(data.target, found, targets), correct])


def line(name: str, recipe: str, gains: Array, seconds: Sequence[float]) -> str:
    """Return a line of the table."""
    errors = gains.std(axis=-1, ddof=1) / np.sqrt(gains.shape[-1])
    cells = [f"{mean:+.3f} ± {error:.3f}" for mean, error in zip(gains.mean(axis=-1).flat, errors.flat, strict=True)]
    return f"| {' | '.join([name, recipe, str(gains.shape[-1]), *cells, f'{np.mean(seconds):.0f}'])} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=DATA, default=["stamps", "clipart", "fashion"])
    parser.add_argument("--folds", nargs="+", type=int, choices=range(FOLDS), default=[0, 1])
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--recipes", nargs="+", default=["thaw=2", "thaw=3 thaw_learning_rate=1e-3"])
    options = parser.parse_args()
    sys.stdout.write("| data | recipe | rows | loss | accuracy | halfway: loss | accuracy | CPU seconds |\n")
    sys.stdout.write(f"{'|---' * 8}|\n")
    for name in options.sets:
        parts = folds.held_out(opened(options.folder, name, options.image_size), FOLDS, "experiment")
        for recipe in options.recipes:
            gains, seconds = zip(*(compared(parts[number], recipe) for number in options.folds), strict=True)
            sys.stdout.write(f"{line(name, recipe, np.concatenate(gains, axis=-1), seconds)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
