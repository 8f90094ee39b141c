"""Losses of calibrated outputs: a served model is calibrated, so being too sure is no fault of its training."""

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from components.core.contract.task import Target
from components.core.networks.heads import linear_of
from components.core.networks.network import Network, Pytree

Array: TypeAlias = np.ndarray[Any, Any]

ROUNDS, CLOSE = 20, 2e-4  # most rounds of calibration, and the last one's distance from 1
LEAST = 0.1  # temperature


def fitted_temperature(target: Target, outputs: Pytree, targets: Tensor) -> float:
    """The temperature that these rows alone would choose for outputs [N, ...]; 1.0 where the target has none.

    A target's `calibrate` leaves few rows near 1, so it is asked again until nothing is left: what is compared must not
    depend on how large the outputs are.
    """
    whole = 1.0
    for _ in range(ROUNDS):
        step = target.calibrate(divided(outputs, whole), targets).get("temperature", 1.0)
        whole *= step
        if abs(step - 1.0) < CLOSE or not LEAST < whole < 1 / LEAST:  # or chance does better, and none is enough
            break
    return whole


def calibrated(target: Target, outputs: Pytree, targets: Tensor) -> Pytree:
    """Outputs [N, ...] divided by the temperature that suits them; as they are where the target has none."""
    temperature = fitted_temperature(target, outputs, targets)
    return outputs if temperature == 1.0 else divided(outputs, temperature)


def temper(network: Network, temperature: float) -> None:
    """Divide the outputs of a linear head by a temperature, for good; another head stays as it is."""
    linear = linear_of(network.head)
    if linear is not None:
        with torch.no_grad():
            linear.weight.div_(temperature)
            linear.bias.div_(temperature)


def divided(outputs: Pytree, temperature: float) -> Pytree:
    """The same outputs, as sure as the temperature makes them."""
    return tree_map_only(Tensor, lambda tensor: tensor / temperature, outputs)


def calibrated_figures(target: Target, outputs: Pytree, targets: Tensor) -> dict[str, float]:
    """The target's figures of a whole split, with the loss of calibrated outputs."""
    loss = float(target.loss(calibrated(target, outputs, targets), targets, 0.0, None))
    return {**target.validate(outputs, targets), "loss": loss}


def calibrated_losses(target: Target, outputs: Pytree, targets: Tensor) -> Array:
    """The loss of each row alone, float[N], without smoothing and weights, at the temperature that suits all rows."""
    outputs = calibrated(target, outputs, targets)

    def row(number: int) -> float:
        one = tree_map_only(Tensor, lambda tensor: tensor[number : number + 1], outputs)
        return float(target.loss(one, targets[number : number + 1], 0.0, None))

    with torch.no_grad():
        return np.array([row(number) for number in range(len(targets))])
