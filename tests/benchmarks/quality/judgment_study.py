"""What the judgment and the calibration leave of the thawed phase's gain, by the earlier rule and by today's.

    python -m tests.benchmarks.quality.judgment_study FOLDER --sets stamps animals --folds 0 1 2 --image-size 128

Head and thawed stages train on two thirds of all rows of a set and answer the rest; the answers are kept in
FOLDER/answers. They are then divided at random, many times: into rows that judge, rows that calibrate, and rows that
test. The earlier rule takes the best epoch and the likeliest temperature, and beyond 1,000 rows judges by as many rows
as validate in a run. Today's takes the last epoch, the temperature of the rows that judge, and a prior on that of the
rows that calibrate. Prints the mean log loss and accuracy on the test rows, and how often thawing went on.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from components.core.fitting import folds
from components.core.fitting.data import Data
from components.core.networks.network import Pytree
from components.core.targets.classification import SPREAD
from components.core.training.phase import build_network, outputs, train_phase
from components.core.training.thawing import SMALLEST
from tests.benchmarks.quality.probe import Array
from tests.benchmarks.quality.sets import DATA
from tests.benchmarks.quality.thaw_study import opened, parsed

GRID = np.linspace(np.log(0.15), np.log(8), 100)  # logarithms of temperatures
DIVISIONS = 120
FITTED, CALIBRATE = 0.775, 0.075  # shares of a run's rows
RECIPES = ("thaw=2", "thaw=3 thaw_learning_rate=1e-3")


class Answers(NamedTuple):
    """Of one network for held-out rows."""

    losses: Array  # float64[N, T], at each temperature
    right: Array  # bool[N]


def everything(folder: Path, name: str, size: int) -> Data:
    """Open a set, all of whose rows may train."""
    data = opened(folder, name, size)
    rows = [row for split in ("train", "validation", "calibrate", "test") for row in data.rows[split]]
    targets = data.target.targets(data.examples.labels(rows), data.examples.classes)
    none: list[int] = []
    return replace(
        data,
        rows={"train": rows, "validation": none, "calibrate": none, "test": none},
        targets={"train": targets, "validation": targets[:0]},
    )


def answered(part: Data, recipe: str, file: Path) -> dict[str, Array]:
    """Train on a fold unless it is done; return outputs for its held-out rows, and CPU seconds of the thawed phase."""
    if not file.exists():
        chosen, _ = parsed(recipe)
        part = replace(part, settings=part.settings.model_copy(update={"patience": chosen.thaw_epochs}))
        network, found = build_network(part, chosen), list[Array]()
        train_phase(network, part, chosen, thaw=0)
        head = outputs(network, part, 0, "validation").numpy()

        def validate(given: Pytree, targets: Tensor) -> dict[str, float]:
            found.append(given.numpy().copy())
            return part.target.validate(given, targets)

        begin = time.process_time()
        train_phase(network, part, chosen, thaw=chosen.thaw, validate=validate)
        targets, seconds = part.targets["validation"].numpy(), np.array(time.process_time() - begin)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, head=head, epochs=np.stack(found), targets=targets, seconds=seconds)
    with np.load(file) as kept:
        return {name: kept[name] for name in ("head", "epochs", "targets", "seconds")}


def at_temperatures(found: Array, targets: Array) -> Answers:
    """Return the losses of outputs [N, C] at every temperature."""
    logits, numbers = torch.from_numpy(found).double(), torch.from_numpy(targets)
    losses = [functional.cross_entropy(logits / np.exp(t), numbers, reduction="none").numpy() for t in GRID]
    return Answers(np.stack(losses, axis=1), found.argmax(1) == targets)


def likeliest(answers: Answers, rows: Array, penalty: Array | float = 0.0) -> int:
    """Return the place of the temperature that suits some rows."""
    return int((answers.losses[rows].sum(0) + penalty).argmin())


def gain(head: Answers, thawed: Answers, rows: Array) -> tuple[float, bool]:
    """Return how much lower the calibrated loss of some rows is, and whether surely so."""
    lower = head.losses[rows][:, likeliest(head, rows)] - thawed.losses[rows][:, likeliest(thawed, rows)]
    mean = float(lower.mean())
    return mean, mean > max(SMALLEST, float(lower.std(ddof=1)) / np.sqrt(len(rows)))


def tested(kept: Answers, calibrate: Array, test: Array, center: float | None) -> tuple[float, float]:
    """Return log loss and accuracy on test rows; the temperature's prior lies around `center`, or there is none."""
    place = int(np.abs(GRID - (center or 0.0)).argmin())
    if not kept.right[calibrate].all():
        penalty = 0.0 if center is None else np.log1p(((GRID - center) / SPREAD) ** 2)
        place = likeliest(kept, calibrate, penalty)
    return float(kept.losses[test, place].mean()), float(kept.right[test].mean())


def divided(head: Answers, epochs: Sequence[Answers], total: int) -> Array:
    """Return log loss, accuracy and whether thawing went on, float64[4, 3], in the mean over the divisions.

    In the order: head only by the earlier rule and by today's, then thawed, likewise.

    Args:
        head: Of the head-only model.
        epochs: Of the thawed network, after each epoch.
        total: Rows of the whole set.
    """
    draw, sums = np.random.default_rng(7), np.zeros((4, 3))
    for _ in range(DIVISIONS):
        order = draw.permutation(len(head.right))
        calibrate, rest = np.split(order, [max(5, round(CALIBRATE * total))])
        judge, test = np.split(rest, [len(rest) * 2 // 3])
        fewer = judge if total * FITTED < folds.FEW else judge[: round(CALIBRATE * total)]
        gains = [gain(head, epoch, fewer) for epoch in epochs]
        best = max(range(len(gains)), key=lambda number: gains[number][0])
        earlier = epochs[best] if gains[best][1] else head
        helps = gain(head, epochs[-1], judge)[1]
        center = float(GRID[likeliest(epochs[-1], judge)]) if helps else 0.0
        sums += [
            (*tested(head, calibrate, test, None), 0.0),
            (*tested(head, calibrate, test, 0.0), 0.0),
            (*tested(earlier, calibrate, test, None), gains[best][1]),
            (*tested(epochs[-1] if helps else head, calibrate, test, center), helps),
        ]
    return sums / DIVISIONS


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=DATA, default=["stamps"])
    parser.add_argument("--folds", nargs="+", type=int, choices=range(3), default=[0])
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    options = parser.parse_args()
    names = [f"{what}, {rule}: {figure}" for what in ("head", "thawed") for rule in ("earlier", "today")
             for figure in ("log loss", "accuracy", "kept")]  # fmt: skip
    sys.stdout.write(f"| data | recipe | rows | {' | '.join(names)} | CPU s |\n{'|---' * (len(names) + 4)}|\n")
    for name in options.sets:
        data = everything(options.folder, name, options.image_size)
        parts = folds.held_out(data, 3, "recipes")
        for recipe in options.recipes:
            stem = f"{name}-{options.image_size}-{{}}-{recipe.replace(' ', '_')}.npz"
            found = [answered(parts[n], recipe, options.folder / "answers" / stem.format(n)) for n in options.folds]
            targets = np.concatenate([one["targets"] for one in found])
            heads = at_temperatures(np.concatenate([one["head"] for one in found]), targets)
            outputs_by_epoch = np.concatenate([one["epochs"] for one in found], axis=1)
            cells = divided(heads, [at_temperatures(one, targets) for one in outputs_by_epoch], len(data.rows["train"]))
            shown = " | ".join(f"{cell:.3f}" for cell in cells.flat)
            seconds = np.mean([one["seconds"] for one in found])
            sys.stdout.write(f"| {name} | {recipe} | {len(targets)} | {shown} | {seconds:.0f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
