"""Which loss should choose the penalty of a solved head: the plain one, or that of outputs as sure as they can be.

    python -m tests.benchmarks.quality.penalty_study FOLDER --sets fortunes stamps --divisions 6 --image-size 128

The rows of a set are divided at random, several times: 77.5% fit the head, 7.5% calibrate it, and the others test it;
groups stay whole. Prints the chosen strengths C, and the accuracy and the calibrated log loss on the test rows for both
ways, with the mean paired difference and its standard error over the divisions, which overlap.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from components.core.fitting import linear_head
from components.core.fitting.calibration import fitted_temperature
from components.core.fitting.folds import fold_of_rows, units_and_strata
from components.core.fitting.linear_head import FOLDS, Features
from components.core.targets.classification import Classification, fit_temperature
from tests.benchmarks.quality.judgment_study import everything
from tests.benchmarks.quality.probe import Array, frozen_features
from tests.benchmarks.quality.sets import DATA

FITTED, CALIBRATE = 0.775, 0.075  # shares of a run's rows
CPU = torch.device("cpu")
HEAD = "| data | rows | C | C, sharpened | accuracy | sharpened | difference | log loss | sharpened | difference |"


class Rows(NamedTuple):
    """All rows of a set."""

    features: Array  # float32[N, F]
    targets: Tensor  # long[N]
    units: list[str]
    strata: list[str]


def read(folder: Path, name: str, size: int) -> Rows:
    """Compute the frozen features of a set."""
    data = everything(folder, name, size)
    rows = data.rows["train"]
    return Rows(frozen_features(data, rows), data.targets["train"], *units_and_strata(data, rows))


def sharpening(outputs: Tensor, true: Tensor) -> float:
    """Return the temperature that suits outputs, at most 1."""
    return min(1.0, fitted_temperature(Classification(), outputs, true))


def plain(outputs: Tensor, true: Tensor) -> Tensor:
    """The loss of outputs as they are."""
    return functional.cross_entropy(outputs, true)


def sharpened(outputs: Tensor, true: Tensor) -> Tensor:
    """The loss of outputs as sure as they should be."""
    return functional.cross_entropy(outputs / sharpening(outputs, true), true)


def divided(rows: Rows, seed: int) -> list[Array]:
    """Positions of the rows that fit, calibrate and test."""
    units = sorted({*rows.units})
    place = dict(zip(units, np.random.default_rng(100 + seed).permutation(len(units)) / len(units), strict=True))
    own = np.array([place[unit] for unit in rows.units])
    return [
        np.flatnonzero(own < FITTED),
        np.flatnonzero((own >= FITTED) & (own < FITTED + CALIBRATE)),
        np.flatnonzero(own >= FITTED + CALIBRATE),
    ]


def measured(rows: Rows, seed: int, judge: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float, float]:
    """Fit a head on one division; return its strength, its accuracy and its calibrated log loss on the test rows."""
    fit, calibrate, test = divided(rows, seed)
    size, true = int(rows.targets.max()) + 1, rows.targets[fit]
    features = Features([torch.from_numpy(rows.features[fit])], CPU)
    folds = fold_of_rows([rows.units[n] for n in fit], [rows.strata[n] for n in fit], FOLDS)
    choice = linear_head.choose(features, true, size, folds, plain, judge)
    head = features.unstandardized(linear_head.solve(features.rows, true, size, plain, choice.strength))
    scale = 1.0 if judge is plain else sharpening(choice.outputs, true[choice.held])
    held, asked = (head(torch.from_numpy(rows.features[some])) / scale for some in (calibrate, test))
    asked /= fit_temperature(held, rows.targets[calibrate])
    right = float((asked.argmax(1) == rows.targets[test]).double().mean())
    return choice.strength, right, float(functional.cross_entropy(asked, rows.targets[test]))


def line(name: str, rows: Rows, divisions: int) -> str:
    """A row of the table."""
    found = np.array([[measured(rows, seed, judge) for judge in (plain, sharpened)] for seed in range(divisions)])
    strengths, (_, right, loss) = np.exp(np.log(found[:, :, 0]).mean(0)), found.mean(0).T
    gains = found[:, 1, 1:] - found[:, 0, 1:]
    mean, error = gains.mean(0), gains.std(0, ddof=1) / divisions**0.5
    told = [f"{mean[n]:+.3f} ± {error[n]:.3f}" for n in range(2)]
    figures = [f"{strengths[0]:.3f}", f"{strengths[1]:.3f}"]
    figures += [f"{right[0]:.3f}", f"{right[1]:.3f}", told[0], f"{loss[0]:.3f}", f"{loss[1]:.3f}", told[1]]
    return f"| {name} | {len(rows.targets):,} | {' | '.join(figures)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--divisions", type=int, default=6)
    parser.add_argument("--image-size", type=int, default=128)
    asked = parser.parse_args()
    sys.stdout.write(f"{HEAD}\n{'|---' * HEAD.count(' | ')}|---|\n")
    for name in asked.sets:
        sys.stdout.write(line(name, read(asked.folder, name, asked.image_size), asked.divisions) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
