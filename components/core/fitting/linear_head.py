"""The optimum of a linear head on frozen features: solved, so it needs neither epochs nor a learning rate.

Linear probing as in the evaluation of pretrained networks (Kornblith et al. 2019): features standardized, a ridge
penalty on the weights, L-BFGS (Liu & Nocedal 1989). The penalty's strength comes from a path from strong to weak, each
fit started from the one before, judged by cross-validation (Friedman et al. 2010).
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from components.core.activations.rows import Rows
from components.core.contract.listener import SILENT, Progress
from components.core.fitting.thaw_line import not_finite

Array: TypeAlias = np.ndarray[Any, Any]
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # of outputs [N, C] and targets, a scalar mean, convex in outputs

# C, the inverse strength as scikit-learn counts it: loss summed over N rows, plus |weights|^2 / (2 C)
STRENGTHS = tuple(float(c) for c in np.logspace(-5, 2, 15))
PATIENCE = 2  # weaker penalties without a lower loss before the path ends
FOLDS = 5
FEW = 2_000  # rows up to which all folds are held out in turn; beyond, one of them tells enough
MOST_ON_PATH = 20_000  # rows that choose the penalty
ITERATIONS = 500
CHUNK = 8_192  # rows that are multiplied at once
READ = 64  # rows that are read at once: where nothing is kept, so many are encoded together
IN_MEMORY = 2 << 30  # bytes of features; more lie in a temporary file


@dataclass(frozen=True)
class LinearFit:
    """A linear head for standardized features, [C, F] and [C]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Outputs float64[N, C]."""
        return _outputs(features, self.weight, self.bias)


@dataclass(frozen=True)
class Choice:
    """The strength that cross-validation chose, and the outputs of models of it that did not see the rows."""

    strength: float  # C
    held: Tensor  # positions of the rows that were held out, long[M]
    outputs: Tensor  # of these, float64[M, C]


class Features:
    """Features [N, F], standardized; constant ones become 0, so that their weights do too.

    Args:
        parts: Activations [B, F] below the head, concatenated.
        device: Where they are multiplied.

    Raises:
        StepError: A feature is not finite.
    """

    def __init__(self, parts: Sequence[Rows], device: torch.device) -> None:
        self.rows = _gathered(parts, device)
        count, width = self.rows.shape
        total, square = torch.zeros(2, width, dtype=torch.float64, device=device)
        for part in self._parts():
            exact = part.double()
            total += exact.sum(0)
            square += exact.square().sum(0)
        self.mean = total / count
        variance = (square / count - self.mean.square()).clamp(min=0)
        if not bool(torch.isfinite(variance).all()):
            raise not_finite()
        # rounding leaves a little of a constant's variance
        constant = variance <= 1e-10 * (self.mean.square() + variance)
        self.scale = torch.where(constant, torch.ones_like(variance), variance.sqrt())
        for part in self._parts():
            part.sub_(self.mean.float()).div_(self.scale.float())
            part[:, constant] = 0.0
        self._basis: Tensor | None = None
        if 2 * count < width:
            self.rows, self._basis = _rotated(self.rows)

    def _parts(self) -> Iterator[Tensor]:
        yield from torch.split(self.rows, CHUNK)

    def unstandardized(self, fit: LinearFit) -> LinearFit:
        """The same head for features as the network gives them."""
        weight = (fit.weight if self._basis is None else fit.weight @ self._basis.T) / self.scale
        return LinearFit(weight, fit.bias - weight @ self.mean)


def choose(
    features: Features,
    targets: Tensor,
    size: int,
    folds: Array,
    loss: Loss,
    judge: Loss,
    progress: Progress = SILENT.progress,
) -> Choice:
    """Choose the penalty whose models have the lowest loss on rows that they did not see.

    Up to 2,000 rows every fold is held out in turn; of more, one fold is, of 20,000 rows at most. Where nothing can be
    held out, the middle of the path is taken.

    Args:
        features: Standardized.
        targets: [N, ...]; on the features' device.
        size: Number of outputs.
        folds: Of the rows, int[N], 0 to 4, or -1 for those that are never held out.
        loss: The training loss.
        judge: The loss without smoothing.
        progress: Takes how far the path is; it ends early where weaker penalties do no better.
    """
    folds = folds[:MOST_ON_PATH]
    rows, targets = features.rows[: len(folds)], targets[: len(folds)]
    held = [number for number in range(FOLDS) if 0 < (folds == number).sum() < len(folds)]
    held = held if len(folds) <= FEW else held[:1]
    if not held:
        return Choice(STRENGTHS[len(STRENGTHS) // 2], torch.arange(0), torch.zeros(0, size))
    places = [torch.from_numpy(np.flatnonzero(folds == number)) for number in held]
    rest = [torch.from_numpy(np.flatnonzero(folds != number)) for number in held]
    order = torch.cat(places)
    starts: list[LinearFit | None] = [None] * len(held)
    best, lowest, since = Choice(STRENGTHS[0], order, torch.zeros(0, size)), math.inf, 0
    for number, strength in enumerate(STRENGTHS):
        fits = [
            solve(rows[own], targets[own], size, loss, strength, start) for own, start in zip(rest, starts, strict=True)
        ]
        starts = [*fits]
        outputs = torch.cat([fit(rows[place]) for fit, place in zip(fits, places, strict=True)])
        lost = float(judge(outputs, targets[order]))
        progress(number + 1, len(STRENGTHS), f"penalties of the head: held-out loss {min(lost, lowest):.3f}")
        if lost < lowest:
            best, lowest, since = Choice(strength, order, outputs), lost, 0
        elif (since := since + 1) >= PATIENCE:
            break
    return best


def solve(
    rows: Tensor, targets: Tensor, size: int, loss: Loss, strength: float, start: LinearFit | None = None
) -> LinearFit:
    """Return the head with the lowest loss and penalty; deterministic, and independent of `start` but for rounding.

    Args:
        rows: Standardized features [N, F].
        targets: [N, ...]; on the rows' device.
        size: Number of outputs.
        loss: Of outputs [N, C] and targets.
        strength: C, the inverse of the penalty's strength.
        start: Where the descent begins: a head of a near penalty saves most of it.
    """
    count, width = rows.shape
    penalty = 1.0 / (strength * max(1, count))

    def value(flat: Array) -> tuple[float, Array]:
        parameters = torch.from_numpy(flat).to(rows.device)
        weight, bias = parameters[: size * width].view(size, width), parameters[size * width :]
        outputs = _outputs(rows, weight, bias).requires_grad_()
        lost = loss(outputs, targets)
        (slope,) = torch.autograd.grad(lost, outputs)
        total = lost.detach() + penalty / 2 * weight.square().sum()
        gradient = _transposed(slope, rows) + penalty * weight
        return float(total), torch.cat([gradient.reshape(-1), slope.sum(0)]).cpu().numpy()

    begin = np.zeros(size * (width + 1))
    if start is not None:
        begin = torch.cat([start.weight.reshape(-1), start.bias]).cpu().numpy()
    found = optimize.minimize(
        value, begin, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS, "ftol": 1e-8, "gtol": 1e-5}
    )
    solution = torch.from_numpy(found.x).to(rows.device)
    return LinearFit(solution[: size * width].view(size, width), solution[size * width :])


def _outputs(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiplied in the rows' precision, added up in float64."""
    narrow = weight.T.to(rows.dtype)
    return torch.cat([(part @ narrow).double() for part in torch.split(rows, CHUNK)]) + bias


def _transposed(slope: Tensor, rows: Tensor) -> Tensor:
    """The gradient [C, F] of the weights, from that of the outputs [N, C]."""
    parts = zip(torch.split(slope, CHUNK), torch.split(rows, CHUNK), strict=True)
    found = slope.new_zeros((slope.shape[1], rows.shape[1]))
    for some, part in parts:
        found += (some.T.to(part.dtype) @ part).double()
    return found


def _rotated(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows in the space that they span, float64[N, R], and its orthonormal basis [F, R].

    The best weights lie in that space and are as long there, so far fewer of them are to be found.
    """
    exact = rows.double()
    values, vectors = torch.linalg.eigh(exact @ exact.T)
    there = values > values.max() * 1e-12
    scale = values[there].sqrt()
    return vectors[:, there] * scale, exact.T @ (vectors[:, there] / scale)


def _gathered(parts: Sequence[Rows], device: torch.device) -> Tensor:
    """All rows as float32 of their own, in memory or in a file that goes with them."""
    width = next(rows[torch.arange(1)].shape[1] for rows in parts if len(rows))
    shape = (sum(map(len, parts)), width)
    if device.type == "cpu" and shape[0] * shape[1] * 4 > IN_MEMORY:
        with tempfile.NamedTemporaryFile() as file:  # the mapping keeps it until it is no longer used
            found = torch.from_numpy(np.memmap(file.name, np.float32, "w+", shape=shape))
    else:
        found = torch.empty(shape, dtype=torch.float32, device=device)
    done = 0
    for rows in parts:
        for start in range(0, len(rows), READ):
            some = rows[start : start + READ]
            found[done : done + len(some)] = some
            done += len(some)
    return found
