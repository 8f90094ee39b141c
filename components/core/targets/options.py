"""The option `target` of a task: classes, a number, or several labels."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from components.core.contract.task_options import parse_options
from components.core.data.examples import Examples
from components.core.errors import InputError
from components.core.settings import Settings
from components.core.targets.classification import Classification
from components.core.targets.multilabel import MultiLabel
from components.core.targets.regression import Regression

Chosen: TypeAlias = Classification | MultiLabel | Regression


class TargetOptions(BaseModel):
    """Options of a task whose records may have one class, a number, or several labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Literal["classes", "number", "labels"] = "classes"
    regression_loss: Literal["mse", "huber"] = "mse"
    threshold: float = Field(0.5, gt=0, lt=1, description="Lowest probability at which one of several labels is given.")
    label_mean: float = Field(0.0, description="Of the training labels that are numbers; measured.")
    label_scale: float = Field(1.0, gt=0, description="Their standard deviation; measured.")


def chosen(settings: Settings, options: type[TargetOptions] = TargetOptions) -> Chosen:
    """The target that the options ask for.

    Raises:
        InputError: Other options are for classes only.
    """
    found = parse_options(settings, options)
    if found.target == "classes":
        return Classification()
    if found.target == "labels":
        return MultiLabel(found.threshold)
    if settings.class_weights != "none" or settings.label_smoothing:
        raise InputError("--class-weights and --label-smoothing are for classes, not for numbers.", "Leave them out.")
    return Regression(found.label_mean, found.label_scale, found.regression_loss)


def measure(
    settings: Settings, examples: Examples, options: type[TargetOptions] = TargetOptions
) -> tuple[Mapping[str, str], str]:
    """Mean and standard deviation of the training labels where they are numbers.

    Raises:
        InputError: All training labels are one number.
    """
    if parse_options(settings, options).target != "number":
        return {}, ""
    numbers = np.array([float(label) for label in examples.labels(examples.rows("train"))])
    mean, scale = float(numbers.mean()), float(numbers.std())
    if numbers.min() == numbers.max() or not scale:  # of equal numbers the deviation may be a rounding error
        raise InputError(
            f"All training labels are {numbers[0]:g}: there is nothing to learn.", "Check the column label."
        )
    note = f"labels are numbers from {numbers.min():.4g} to {numbers.max():.4g}, mean {mean:.4g}, deviation {scale:.4g}"
    return {"label_mean": repr(mean), "label_scale": repr(scale)}, note
