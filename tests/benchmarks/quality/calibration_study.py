"""Should the rows that calibrate fit the head too, and held-out outputs of its folds choose the temperature?

    python -m tests.benchmarks.quality.calibration_study FOLDER --sets stamps fortunes --divisions 12 --image-size 160

The rows of a set are divided at random, several times: 77.5% fit the head, 7.5% calibrate it, and the others test it;
groups stay whole. Beside it, a head that is fitted on the 85%, whose temperature suits the outputs that its
cross-validation held out (cross-fitted). Prints the accuracy, the log loss and the calibration error (ECE, ten bins) on
the test rows for both ways, with the mean paired difference and its standard error over the divisions, which overlap.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from components.core.fitting import linear_head
from components.core.fitting.folds import fold_of_rows
from components.core.fitting.linear_head import FOLDS, Features, LinearFit
from components.core.targets.classification import fit_temperature
from tests.benchmarks.quality.penalty_study import CPU, Rows, divided, plain, read, sharpened, sharpening
from tests.benchmarks.quality.probe import Array
from tests.benchmarks.quality.sets import DATA

HEAD = (
    "| data | rows | accuracy | cross-fitted | difference | log loss | cross-fitted | difference | ECE | cross-fitted |"
)
BINS = 10


def fitted(rows: Rows, own: Array) -> tuple[LinearFit, Tensor, Tensor]:
    """Fit a head on some rows; return it with the outputs that its folds held out, and their targets."""
    size, true = int(rows.targets.max()) + 1, rows.targets[own]
    features = Features([torch.from_numpy(rows.features[own])], CPU)
    folds = fold_of_rows([rows.units[n] for n in own], [rows.strata[n] for n in own], FOLDS)
    choice = linear_head.choose(features, true, size, folds, plain, sharpened)
    head = features.unstandardized(linear_head.solve(features.rows, true, size, plain, choice.strength))
    scale = sharpening(choice.outputs, true[choice.held])
    return LinearFit(head.weight / scale, head.bias / scale), choice.outputs / scale, true[choice.held]


def calibration_error(outputs: Tensor, true: Tensor) -> float:
    """Mean distance between certainty and share of right answers, in bins of equal width (Guo et al. 2017)."""
    sure, answer = outputs.softmax(1).max(1)
    place = (sure * BINS).long().clamp(max=BINS - 1)
    off = torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, sure.double() - (answer == true).double())
    return float(off.abs().sum() / len(true))


def figures(outputs: Tensor, true: Tensor) -> tuple[float, float, float]:
    """Accuracy, log loss and calibration error."""
    right = float((outputs.argmax(1) == true).double().mean())
    return right, float(functional.cross_entropy(outputs, true)), calibration_error(outputs, true)


def measured(rows: Rows, seed: int) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Figures of both ways on one division."""
    fit, calibrate, test = divided(rows, seed)
    head, _, _ = fitted(rows, fit)
    temperature = fit_temperature(head(torch.from_numpy(rows.features[calibrate])), rows.targets[calibrate])
    apart = head(torch.from_numpy(rows.features[test])) / temperature
    head, held, true = fitted(rows, np.concatenate([fit, calibrate]))
    crossed = head(torch.from_numpy(rows.features[test])) / fit_temperature(held, true)
    return figures(apart, rows.targets[test]), figures(crossed, rows.targets[test])


def line(name: str, rows: Rows, divisions: int) -> str:
    """A row of the table."""
    found = np.array([measured(rows, seed) for seed in range(divisions)])
    (right, loss, error), gains = found.mean(0).T, found[:, 1] - found[:, 0]
    mean, spread = gains.mean(0), gains.std(0, ddof=1) / divisions**0.5
    change = [f"{mean[n]:+.3f} ± {spread[n]:.3f}" for n in range(2)]
    cells = [f"{right[0]:.3f}", f"{right[1]:.3f}", change[0], f"{loss[0]:.3f}", f"{loss[1]:.3f}", change[1]]
    return f"| {name} | {len(rows.targets):,} | {' | '.join(cells)} | {error[0]:.3f} | {error[1]:.3f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--divisions", type=int, default=12)
    parser.add_argument("--image-size", type=int, default=160)
    asked = parser.parse_args()
    sys.stdout.write(f"{HEAD}\n{'|---' * HEAD.count(' | ')}|---|\n")
    for name in asked.sets:
        sys.stdout.write(line(name, read(asked.folder, name, asked.image_size), asked.divisions) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
