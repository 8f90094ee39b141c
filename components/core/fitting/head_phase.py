"""The head phase where the head is linear and the loss convex: the optimum is solved for, not descended to."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from components.core.activations.rows import Rows
from components.core.contract.listener import SILENT, Listener, Progress
from components.core.contract.task import Target
from components.core.digests import canonical_json
from components.core.errors import InputError
from components.core.fitting import linear_head
from components.core.fitting.calibration import fitted_temperature
from components.core.fitting.data import Data
from components.core.fitting.folds import fold_of_rows, units_and_strata
from components.core.fitting.linear_head import FOLDS, Features, LinearFit
from components.core.fitting.loop import outputs_of
from components.core.fitting.thaw_line import rows_at_line
from components.core.networks.heads import linear_of
from components.core.networks.network import Network, set_thawed
from components.core.settings import Hyperparameters

LARGE = 50_000_000  # products of a pass over the rows, beyond which threads save more than they cost


@dataclass(frozen=True)
class Solved:
    """A solved head's figures, and how its answers are calibrated."""

    figures: dict[str, float]  # as those of an epoch, see `fit`; `strength` is C, the inverse of the penalty's strength
    calibration: dict[str, float] | None  # by outputs that cross-validation held out; None leaves it to rows of its own


def is_solved(network: Network, data: Data) -> bool:
    """Return whether the head phase has an optimum that can be solved for.

    Raises:
        InputError: `--head-solver lbfgs` asks for it, and there is none.
    """
    settings = data.settings
    obstacles = {
        "the head is not linear": linear_of(network.head) is None,
        "the loss of this task is not convex": not data.target.convex,
        "the examples differ in each epoch": data.task.augments(settings) or settings.trains_afresh(),
    }
    reason = next((reason for reason, holds in obstacles.items() if holds), "")
    if reason and settings.head_solver == "lbfgs":
        raise InputError(f"--head-solver lbfgs can't solve for the head: {reason}.", "Use --head-solver sgd.")
    return not reason and settings.head_solver != "sgd"


def solve_head(
    network: Network, data: Data, hyperparameters: Hyperparameters, listener: Listener = SILENT, *, whole: bool = False
) -> Solved:
    """Put the best linear head into the network.

    The penalty's strength is chosen by cross-validation over the rows that the head is fitted on. With `--views`, all
    views are rows.

    Args:
        network: On its device; its head is changed.
        data: The prepared data.
        hyperparameters: Label smoothing of the loss, and what the thawed phase needs.
        listener: Takes notes on activations, and their progress.
        whole: Fit on the validation rows too; else they are only judged.

    Returns:
        Figures of the validation rows or, where these are fitted too, of rows that cross-validation held out. These
        calibrate the head if no rows are left for that.

    Raises:
        StepError: A feature is not finite.
    """
    begin, device = time.monotonic(), next(network.parameters()).device
    line, names = set_thawed(network, 0), ("train", "validation") if whole else ("train",)
    lines = {line: 2.0}
    if hyperparameters.thaw:  # the thawed phase follows: one pass serves both
        lines[line - hyperparameters.thaw] = float(hyperparameters.thaw_epochs)
    rows = rows_at_line(network, data, line, lines, {"validation": 0, "train": data.settings.views}, listener)
    fitted = _remembered(network, data, hyperparameters, rows, names, listener.progress)
    _put(network, fitted.head)
    if whole or not len(rows["validation"]):
        figures = data.target.validate(fitted.outputs.float().cpu(), fitted.targets)
    else:
        figures = data.target.validate(
            outputs_of(network, line, rows["validation"], device), data.targets["validation"]
        )
    known = {"epoch": 0, "train_loss": fitted.loss, **figures, "strength": fitted.strength}
    calibration = None
    if whole and not data.rows["calibrate"]:
        calibration = data.target.calibrate(fitted.outputs.float().cpu(), fitted.targets)
    return Solved({**known, "seconds": time.monotonic() - begin, "best": 1.0}, calibration)


@dataclass(frozen=True)
class _Fitted:
    head: LinearFit  # for features as the network gives them
    loss: float  # on the rows that it was fitted on
    strength: float
    outputs: Tensor  # of rows that cross-validation held out, or of those fitted where it held out none
    targets: Tensor  # of the same rows


def _remembered(
    network: Network,
    data: Data,
    hyperparameters: Hyperparameters,
    rows: Mapping[str, Rows],
    names: Sequence[str],
    progress: Progress,
) -> _Fitted:
    """Fit the head once for all trials of a process that differ in the thawed phase alone."""
    fitted_on = tuple(hash((*data.rows[name], *data.targets[name].flatten().tolist())) for name in names)
    same = (network.weights_digest, canonical_json(network.preprocessing), hyperparameters.label_smoothing, fitted_on)
    if same not in data.heads:
        device = next(network.parameters()).device
        data.heads[same] = _fitted(data, hyperparameters, rows, names, device, progress)
    found: _Fitted = data.heads[same]
    return found


def _fitted(
    data: Data,
    hyperparameters: Hyperparameters,
    rows: Mapping[str, Rows],
    names: Sequence[str],
    device: torch.device,
    progress: Progress,
) -> _Fitted:
    """Fit the head on all rows of these splits, with the strength that cross-validation over them chooses.

    A strong penalty makes a head too unsure of its answers, which one temperature corrects, so the loss itself would
    choose too weak a penalty: a strength is judged with the temperature that suits its held-out outputs, and that of
    the chosen one goes into the head. A temperature above 1 is no excuse: the head is too sure because it overfits.
    """
    names, target, size = [name for name in names if len(rows[name])], data.target, len(data.examples.classes)
    own = [row for name in names for row in data.rows[name] * (len(rows[name]) // len(data.rows[name]))]
    given = torch.cat([torch.cat([data.targets[n]] * (len(rows[n]) // len(data.rows[n]))) for n in names])
    targets = (given.double() if given.is_floating_point() else given).to(device)
    weights = data.class_weights.double().to(device) if data.class_weights is not None else None
    features = Features([rows[name] for name in names], device)
    loss = partial(target.loss, label_smoothing=hyperparameters.label_smoothing, class_weights=weights)

    def judge(outputs: Tensor, true: Tensor) -> Tensor:
        return target.loss(outputs / _sharpening(target, outputs, true), true, 0.0, weights)

    folds = fold_of_rows(*units_and_strata(data, own), FOLDS)
    with _threads(features.rows.numel() * size):
        choice = linear_head.choose(features, targets, size, folds, loss, judge, progress)
        fit = linear_head.solve(features.rows, targets, size, loss, choice.strength)
        temperature = _sharpening(target, choice.outputs, targets[choice.held]) if len(choice.held) else 1.0
    fit = LinearFit(fit.weight / temperature, fit.bias / temperature)
    found, held, outputs = fit(features.rows), choice.held, choice.outputs / temperature
    if not len(held):
        held, outputs = torch.arange(len(given)), found
    return _Fitted(features.unstandardized(fit), float(loss(found, targets)), choice.strength, outputs, given[held])


def _sharpening(target: Target, outputs: Tensor, true: Tensor) -> float:
    """The temperature that suits outputs [N, C], at most 1."""
    return min(1.0, fitted_temperature(target, outputs, true))


@contextmanager
def _threads(products: int) -> Iterator[None]:
    """One thread for small products: where cores are shared, waiting for a second one takes longer than its work."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if products > LARGE else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _put(network: Network, head: LinearFit) -> None:
    linear = linear_of(network.head)
    assert linear is not None  # noqa: S101 - solved heads are linear
    with torch.no_grad():
        linear.weight.copy_(head.weight)
        linear.bias.copy_(head.bias)
