"""Whether a thawed network is better than its head-only model, by how much, and how sure that is.

It has to be better by more than one standard error of the difference, so that what is simpler stays where the rows
can't tell (the one-standard-error rule, Breiman et al. 1984).
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from components.core import torchrun
from components.core.compute.determinism import seed_everything
from components.core.contract import Target
from components.core.listener import SILENT, Callbacks, Listener
from components.core.networks.network import Network, Pytree
from components.core.settings import Hyperparameters
from components.core.training import folds
from components.core.training.data import Data
from components.core.training.head_phase import is_solved, solve_head
from components.core.training.phase import outputs, train_phase
from components.core.training.processes import processes, train

Array: TypeAlias = np.ndarray[Any, Any]

VALIDATION = "the validation rows"
FOLDS = 3
SMALLEST = 1e-3  # gain that is worth leaving the pretrained stages for


@dataclass(frozen=True)
class Judgment:
    """How much lower the loss of the thawed network is on rows that neither was fitted on."""

    gain: float  # mean over the rows of the head-only model's loss less the thawed network's
    error: float  # standard error of it; infinite where fewer than two units were compared
    rows: int
    how: str
    history: list[dict[str, float]]  # figures of the thawed epochs, the mean over folds
    epochs: int  # the best of them

    @property
    def helps(self) -> bool:
        """Return whether the thawed network goes on."""
        return self.gain > max(self.error, SMALLEST)

    def __str__(self) -> str:
        """Say it in a line."""
        if not math.isfinite(self.gain):
            return f"Thawing was not judged: {self.how}"
        verb = "lowered" if self.gain > 0 else "raised"
        amount = f"{abs(self.gain):.3f} ± {self.error:.3f}"
        return f"Thawing {verb} the loss by {amount} ({self.rows} rows, {self.how})"


def thaw(network: Network, data: Data, hyperparameters: Hyperparameters, listener: Listener = SILENT) -> Judgment:
    """Thaw the last stages and train on; judge whether that helps.

    With a solved head and fewer than 1,000 rows, cross-validation judges, and the network is then trained on the
    training and validation rows together, for as many epochs as were best on average. Else the validation rows stop the
    training, and judge.

    Args:
        network: With the head-only model's weights, on its device; if thawing helps, it is thawed and trained.
        data: The prepared data.
        hyperparameters: Of both phases.
        listener: Takes notes and the progress, and says when to stop; stopped in cross-validation, nothing is known.
    """
    several = torchrun.launched() or processes(data.settings) > 1
    if several or not folds.few(data) or not is_solved(network, data):
        return _by_validation(network, data, hyperparameters, listener)
    judged = cross_validated(network, data, hyperparameters, listener)
    if judged.helps:
        seed_everything(data.settings)
        told = Callbacks(note=listener.note, progress=listener.progress)
        whole, epochs = folds.pooled(data), judged.epochs
        train_phase(network, whole, hyperparameters, thaw=hyperparameters.thaw, listener=told, epochs=epochs)
    return judged


def _by_validation(network: Network, data: Data, hyperparameters: Hyperparameters, listener: Listener) -> Judgment:
    thawed, targets = hyperparameters.thaw, data.targets["validation"]
    if is_solved(network, data):  # the head-only model knows the validation rows: one that does not is compared
        solve_head(network, data, hyperparameters)
    before = calibrated_losses(data.target, outputs(network, data, 0, "validation"), targets)
    history = train(network, data, hyperparameters, thaw=thawed, listener=listener)
    after = calibrated_losses(data.target, outputs(network, data, thawed, "validation"), targets)
    if not history:  # diverged at once
        return Judgment(-math.inf, math.inf, len(before), VALIDATION, [], 0)
    gain, error = paired(before - after, folds.units_and_strata(data, data.rows["validation"])[0])
    return Judgment(gain, error, len(before), VALIDATION, history, len(history))


def cross_validated(
    network: Network, data: Data, hyperparameters: Hyperparameters, listener: Listener = SILENT
) -> Judgment:
    """Train head and thawed stages on all folds but one, in turn, and compare both on that one.

    Args:
        network: With pretrained stages; left as it was.
        data: The prepared data.
        hyperparameters: Of both phases.
        listener: Takes the progress, and says when to stop: then nothing is known, and the head-only model goes on.
    """
    parts = folds.held_out(data, FOLDS, "thaw")
    kept = copy.deepcopy(network.state_dict())
    answers: list[list[Pytree]] = []  # [fold][epoch], of the held-out rows; the head's first
    histories: list[list[dict[str, float]]] = []
    for number, part in enumerate(parts):
        if listener.should_stop(0.0):
            break
        network.load_state_dict(kept)
        train_phase(network, part, hyperparameters, thaw=0)
        found = [outputs(network, part, 0, "validation")]

        def validate(
            given: Pytree, targets: Tensor, part: Data = part, found: list[Pytree] = found
        ) -> dict[str, float]:
            found.append(given)
            return part.target.validate(given, targets)

        def progress(done: int, total: int, text: str, number: int = number) -> None:
            listener.progress(number * total + done, (len(parts) + 1) * total, f"fold {number + 1}: {text}")

        patient = replace(part, settings=part.settings.model_copy(update={"patience": hyperparameters.thaw_epochs}))
        told = Callbacks(progress=progress, should_stop=listener.should_stop)
        histories.append(
            train_phase(network, patient, hyperparameters, thaw=hyperparameters.thaw, listener=told, validate=validate)
        )
        answers.append(found)
    network.load_state_dict(kept)
    if len(answers) < FOLDS or listener.should_stop(0.0):
        return Judgment(-math.inf, math.inf, 0, "time was up" if len(parts) == FOLDS else "too few groups", [], 0)
    units = [folds.units_and_strata(part, part.rows["validation"])[0] for part in parts]
    targets = torch.cat([part.targets["validation"] for part in parts])
    return _judged(data.target, answers, targets, [unit for some in units for unit in some], histories)


def _judged(
    target: Target,
    answers: Sequence[Sequence[Pytree]],
    targets: Tensor,
    units: Sequence[str],
    histories: Sequence[Sequence[dict[str, float]]],
) -> Judgment:
    how = f"{len(answers)}-fold cross-validation"
    epochs = min(map(len, histories), default=0)  # fewer where one diverged
    if not epochs:
        return Judgment(-math.inf, math.inf, len(units), how, [], 0)
    losses = [
        calibrated_losses(
            target, tree_map(lambda *parts: torch.cat(parts), *[found[epoch] for found in answers]), targets
        )
        for epoch in range(1 + epochs)
    ]
    best = int(np.argmin([epoch.mean() for epoch in losses[1:]]))
    history = [
        {name: float(np.mean([one[epoch][name] for one in histories])) for name in histories[0][epoch]}
        | {"best": float(epoch == best)}
        for epoch in range(epochs)
    ]
    gain, error = paired(losses[0] - losses[1 + best], units)
    return Judgment(gain, error, len(units), how, history, best + 1)


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


def calibrated_losses(target: Target, given: Pytree, targets: Tensor) -> Array:
    """The loss of each row alone, float[N], at the temperature that suits all: a served model is calibrated too."""
    temperature = target.calibrate(given, targets).get("temperature", 1.0)
    given = tree_map_only(Tensor, lambda tensor: tensor / temperature, given) if temperature != 1.0 else given

    def row(number: int) -> float:
        one = tree_map_only(Tensor, lambda tensor: tensor[number : number + 1], given)
        return float(target.loss(one, targets[number : number + 1], 0.0, None))

    with torch.no_grad():
        return np.array([row(number) for number in range(len(targets))])
