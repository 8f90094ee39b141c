"""The judgment whether a thawed network is better than its head-only model, by how much, and how sure that is.

It has to be better by more than one standard error of the difference, so that what is simpler stays where the rows
can't tell (the one-standard-error rule, Breiman et al. 1984). Thawed networks are too sure of their answers: above a
solved head, the temperature that the held-out rows ask for goes into the head, so the few rows that calibrate the
served model have little left to tell.
"""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from components.core.compute import distributed
from components.core.compute.determinism import seed_everything
from components.core.contract.listener import SILENT, Callbacks, Listener
from components.core.contract.task import Target
from components.core.fitting import folds
from components.core.fitting.calibration import (
    calibrated_figures,
    calibrated_losses,
    divided,
    fitted_temperature,
    temper,
)
from components.core.fitting.data import Data
from components.core.fitting.head_phase import is_solved, solve_head
from components.core.fitting.training_state import recalled
from components.core.networks.network import Network, Pytree
from components.core.settings import Hyperparameters
from components.core.training.phase import outputs, train_phase
from components.core.training.processes import process_count, together

Array: TypeAlias = np.ndarray[Any, Any]

VALIDATION, HELD_OUT = "the validation rows", "a third of the rows held out"
OUT_OF_TIME, DIVERGED = "time ran out", "it diverged"
FOLDS = 3
SMALLEST = 1e-3  # gain that is worth leaving the pretrained stages for


@dataclass(frozen=True)
class Judgment:
    """The gain of the thawed network: how much lower its loss is on rows that neither model was fitted on."""

    gain: float  # mean over the rows of the head-only model's loss less the thawed network's
    error: float  # standard error of it; infinite where fewer than two units were compared
    rows: int
    how: str
    history: list[dict[str, float]]  # figures of the thawed epochs, the mean over folds
    epochs: int  # that were judged
    temperature: float = 1.0  # that suits its outputs for the held-out rows
    calibration: dict[str, float] | None = None  # by the same rows, behind the temperature; None: by rows of its own

    @property
    def helps(self) -> bool:
        """Return whether the thawed network goes on."""
        return self.gain > max(self.error, SMALLEST)

    @property
    def undecided(self) -> bool:
        """Return whether time ran out before the comparison, or before its result could be applied."""
        return self.how == OUT_OF_TIME

    def __str__(self) -> str:
        """Return the sentence for people, without its full stop."""
        if not math.isfinite(self.gain):
            return f"Thawing was not judged: {self.how}"
        verb = "lowered" if self.gain > 0 else "raised"
        amount = f"{abs(self.gain):.3f} ± {self.error:.3f}"
        return f"Thawing {verb} the calibrated loss by {amount} ({self.rows} rows, {self.how})"


def thaw(
    network: Network,
    data: Data,
    hyperparameters: Hyperparameters,
    listener: Listener = SILENT,
    states: Path | None = None,
) -> Judgment:
    """Thaw the last stages and train on; judge whether that helps.

    With a solved head, held-out rows judge: with fewer than 1,000 rows all of them in turn, beyond a third of them. The
    network is then trained on all rows that don't test, for all epochs, as it was judged. With more than 5,000 rows or
    another head the validation rows stop the training, and judge.

    Args:
        network: With the head-only model's weights, on its device; if thawing helps, it is thawed and trained.
        data: The prepared data.
        hyperparameters: Of both phases.
        listener: Takes every epoch's figures, notes and the progress, and says when to stop; if it does so before the
            cross-validation is over and its result is applied, the head-only model stays.
        states: Folder of the step's states, from which it goes on where it was cut off.
    """
    thawed, count = hyperparameters.thaw, process_count(data.settings)
    by_validation = folds.enough(data) or not is_solved(network, data)
    data = data if by_validation else folds.joined(data)
    phase = partial(train_phase, network, data, hyperparameters, thaw=thawed, states=states, processes=count)
    with together(network):
        if by_validation:
            before = _head_only_losses(network, data, hyperparameters)
            return _by_validation(network, data, thawed, before, phase(listener=listener))
        begin = time.monotonic()
        judged = cross_validated(network, data, hyperparameters, listener, states)
        for figures in judged.history:
            listener.epoch(figures)
        if not judged.helps:
            return judged
        # a fold trains on two thirds of the rows
        if _out_of_time(network, listener, (time.monotonic() - begin) * FOLDS / (FOLDS - 1) / _folds(data)):
            return Judgment(-math.inf, math.inf, judged.rows, OUT_OF_TIME, judged.history, 0)
        seed_everything(data.settings)
        told = Callbacks(note=listener.note, progress=listener.progress)
        if len(phase(listener=told, whole_epochs=judged.epochs)) < judged.epochs:
            return Judgment(-math.inf, math.inf, judged.rows, DIVERGED, judged.history, 0)
        temper(network, judged.temperature)
        return judged


def _head_only_losses(network: Network, data: Data, hyperparameters: Hyperparameters) -> Array:
    """The head-only model's loss on each validation row."""
    if is_solved(network, data):  # the head-only model knows the validation rows: one that does not is compared
        solve_head(network, data, hyperparameters)
    return calibrated_losses(data.target, outputs(network, data, 0, "validation"), data.targets["validation"])


def _by_validation(
    network: Network, data: Data, thawed: int, before: Array, history: list[dict[str, float]]
) -> Judgment:
    """Compare the network, which was thawed and trained, with the head-only model by their losses on these rows."""
    if not history:
        return Judgment(-math.inf, math.inf, len(before), DIVERGED, [], 0)
    found, targets = outputs(network, data, thawed, "validation"), data.targets["validation"]
    gain, error = paired(
        before - calibrated_losses(data.target, found, targets),
        folds.units_and_strata(data, data.rows["validation"])[0],
    )
    if is_solved(network, data):
        temper(network, fitted_temperature(data.target, found, targets))
    return Judgment(gain, error, len(before), VALIDATION, history, len(history))


def _out_of_time(network: Network, listener: Listener, seconds: float = 0.0) -> bool:
    """Ask whether to stop; the first process's clock decides for all."""
    device = next(network.parameters()).device
    return bool(distributed.agreed({"stop": float(listener.should_stop(seconds))}, device)["stop"])


def _folds(data: Data) -> int:
    """Count the folds that are held out in turn."""
    return FOLDS if folds.few(data) else 1


def cross_validated(
    network: Network,
    data: Data,
    hyperparameters: Hyperparameters,
    listener: Listener = SILENT,
    states: Path | None = None,
) -> Judgment:
    """Train head and thawed stages on all folds but one, in turn where rows are few, and compare both on that one.

    Args:
        network: With pretrained stages; left as it was.
        data: The prepared data.
        hyperparameters: Of both phases.
        listener: Takes the progress, and says when to stop: then nothing is known, and the head-only model goes on.
        states: Folder where each fold's result is kept, or none.
    """
    parts = folds.held_out(data, FOLDS, "thaw")
    if len(parts) < FOLDS:
        return Judgment(-math.inf, math.inf, 0, "there are too few groups", [], 0)
    parts = parts[: _folds(data)]
    kept = copy.deepcopy(network.state_dict())
    answers: list[list[Pytree]] = []  # [fold][epoch], of the held-out rows; the head's first
    histories: list[list[dict[str, float]]] = []
    try:
        for number, part in enumerate(parts):
            if _out_of_time(network, listener):
                return Judgment(-math.inf, math.inf, 0, OUT_OF_TIME, [], 0)
            network.load_state_dict(kept)
            fold = partial(_fold, network, part, hyperparameters, _of_fold(listener, (number, len(parts))))
            found, history = recalled(states / f"fold-{number}" if states else None, fold)
            answers.append(found)
            histories.append(history)
    finally:
        network.load_state_dict(kept)
    if _out_of_time(network, listener):
        return Judgment(-math.inf, math.inf, 0, OUT_OF_TIME, [], 0)
    units = [folds.units_and_strata(part, part.rows["validation"])[0] for part in parts]
    targets = torch.cat([part.targets["validation"] for part in parts])
    planned = hyperparameters.thaw_epochs
    judged = _judged(data.target, answers, targets, [unit for some in units for unit in some], histories, planned)
    return replace(judged, calibration=None) if data.rows["calibrate"] else judged


def _fold(
    network: Network, part: Data, hyperparameters: Hyperparameters, listener: Listener
) -> tuple[list[Pytree], list[dict[str, float]]]:
    """Outputs for the held-out rows, of the head-only model and after every epoch, and the epochs' figures."""
    train_phase(network, part, hyperparameters, thaw=0)
    found = [outputs(network, part, 0, "validation")]

    def validate(given: Pytree, targets: Tensor) -> dict[str, float]:
        found.append(given)
        return calibrated_figures(part.target, given, targets)

    patient = replace(part, settings=part.settings.model_copy(update={"patience": hyperparameters.thaw_epochs}))
    thawed = hyperparameters.thaw
    return found, train_phase(network, patient, hyperparameters, thaw=thawed, listener=listener, validate=validate)


def _of_fold(listener: Listener, place: tuple[int, int]) -> Listener:
    """Take the progress of one of the folds, which the final training follows, and ask when to stop."""
    number, count = place

    def progress(done: int, total: int, text: str) -> None:
        listener.progress(number * total + done, (count + 1) * total, f"fold {number + 1} of {count}: {text}")

    return Callbacks(progress=progress, should_stop=listener.should_stop)


def _judged(
    target: Target,
    answers: Sequence[Sequence[Pytree]],
    targets: Tensor,
    units: Sequence[str],
    histories: Sequence[Sequence[dict[str, float]]],
    epochs: int,  # the last one is judged: choosing the best would flatter it
) -> Judgment:
    if min(map(len, histories)) < epochs:
        return Judgment(-math.inf, math.inf, len(units), DIVERGED, [], 0)
    pooled = [
        tree_map(lambda *parts: torch.cat(parts), *[found[epoch] for found in answers]) for epoch in range(1 + epochs)
    ]
    losses = [calibrated_losses(target, found, targets) for found in pooled]
    history = [
        {name: float(np.mean([one[epoch][name] for one in histories])) for name in histories[0][epoch]}
        | {"loss": float(losses[1 + epoch].mean()), "best": float(epoch == epochs - 1)}
        for epoch in range(epochs)
    ]
    gain, error = paired(losses[0] - losses[-1], units)
    temperature = fitted_temperature(target, pooled[-1], targets)
    calibration = target.calibrate(divided(pooled[-1], temperature), targets)
    how = f"{FOLDS}-fold cross-validation" if len(answers) > 1 else HELD_OUT
    return Judgment(gain, error, len(units), how, history, epochs, temperature, calibration)


def paired(differences: Array, units: Sequence[str]) -> tuple[float, float]:
    """Mean difference float[N] of the rows, and its standard error, for which rows of one unit count as one."""
    mean = float(differences.mean())
    sums: dict[str, float] = {}
    for unit, difference in zip(units, differences, strict=True):
        sums[unit] = sums.get(unit, 0.0) + float(difference) - mean
    if len(sums) < 2:  # noqa: PLR2004 - one has no spread
        return mean, math.inf
    spread = math.sqrt(sum(value**2 for value in sums.values()) * len(sums) / (len(sums) - 1))
    return mean, spread / len(differences)
