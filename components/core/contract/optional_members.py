"""Defaults of the optional members of tasks and targets, and their lookup."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from components.core.contract.task_options import NoOptions
from components.core.errors import InputError
from components.core.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

    from components.core.contract.task import Target, Task
    from components.core.data.examples import Examples
    from components.core.networks.network import Network, Pytree
    from components.core.sources.raw_records import RawRecord


class Overlay:
    """An object with some members overridden; all others come from the one below.

    Args:
        below: A module or an object.
        defaults: Gives the members that `below` has not.
        members: Win over both.
    """

    def __init__(self, below: object, defaults: object = None, **members: object) -> None:
        public = [name for name in dir(defaults) if not name.startswith("_")]
        left_out = {name: getattr(defaults, name) for name in public if not hasattr(below, name)}
        self.__dict__.update(left_out | members, _below=below)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a member of any kind
        """Look up members that are not overridden."""
        if name.startswith("__"):  # copies ask for these before there is anything below
            raise AttributeError(name)
        return getattr(self.__dict__["_below"], name)


class TaskDefaults:
    """The optional members of a task."""

    backbone = ""
    Options: type[BaseModel] = NoOptions
    recipe: Mapping[str, Any] = MappingProxyType({})
    recipe_by_rows: Mapping[int, Mapping[str, Any]] = MappingProxyType({})
    split_by: Literal["hash", "time"] = "hash"
    input_name = "record"
    serving_requirements: Sequence[str] = ()

    def __init__(self, own: "Task") -> None:
        self._own = own

    @property
    def serving_code(self) -> Path:
        """The file that defines `encode`."""
        return defining_file(self._own.encode)

    def records(self, settings: Settings, source: str) -> "Iterator[RawRecord]":  # noqa: ARG002 - the contract's signature
        """A folder by class, the same on S3, or a manifest."""
        from components.core.sources import raw_records

        return raw_records.list_entries(source)

    def rebuild(self, settings: Settings, facts: Mapping[str, Any]) -> "Network":
        """Build as for training."""
        return self._own.build(settings, facts["classes"], facts["hyperparameters"]["dropout"])

    def adapt(
        self,
        network: "Network",  # noqa: ARG002 - the contract's signature
        classes: Sequence[str],  # noqa: ARG002 - as above
        weights: "Mapping[str, Tensor]",
        facts: Mapping[str, Any],
    ) -> "tuple[Mapping[str, Tensor], Sequence[str]]":
        """The weights as they are."""
        return weights, facts["classes"]

    def near_duplicates(
        self,
        fingerprints: Sequence[str],  # noqa: ARG002 - the contract's signature
        new: Sequence[bool],  # noqa: ARG002 - as above
        settings: Settings,  # noqa: ARG002 - as above
    ) -> list[tuple[int, int]]:
        """No records are near to each other."""
        return []

    def measure(self, settings: Settings, examples: "Examples") -> tuple[Mapping[str, str], str]:  # noqa: ARG002 - the contract's signature
        """The data decide nothing."""
        return {}, ""

    def augments(self, settings: Settings) -> bool:
        """With `--augment`, but not with `--views`, which are augmented once.

        Raises:
            InputError: An option asks for what the task can't do.
        """
        if settings.augment != "none" and not hasattr(self._own, "augment"):
            raise InputError(f"The task {settings.task} can't augment records.", "Leave out --augment.")
        if (settings.mixup or settings.cutmix) and not hasattr(self._own, "mix"):
            raise InputError(f"The task {settings.task} can't mix examples.", "Leave out --mixup and --cutmix.")
        return settings.augment != "none" and not settings.views

    def augment(
        self,
        contents: Sequence[bytes],
        targets: "Tensor",
        preprocessing: Mapping[str, Any],
        settings: Settings,  # noqa: ARG002 - the contract's signature
        seeds: Sequence[int],  # noqa: ARG002 - as above
    ) -> "tuple[Pytree, Tensor]":
        """Encode records as they are."""
        return self._own.encode(contents, preprocessing), targets

    def mix(
        self,
        inputs: "Pytree",
        targets: "Tensor",
        settings: Settings,  # noqa: ARG002 - the contract's signature
        classes: int,  # noqa: ARG002 - as above
        seed: int,  # noqa: ARG002 - as above
    ) -> "tuple[Pytree, Tensor]":
        """Return a batch as it is."""
        return inputs, targets

    def references(self, settings: Settings, examples: "Examples") -> "Sequence[tuple[str, pd.DataFrame]]":  # noqa: ARG002 - the contract's signature
        """There is no simple model to compare with."""
        return []

    def trivial(self, settings: Settings, examples: "Examples") -> "pd.DataFrame | None":  # noqa: ARG002 - the contract's signature
        """The target knows the trivial model."""
        return None

    def thumbnails(self, contents: Sequence[bytes]) -> "Sequence[bytes | str]":  # noqa: ARG002 - the contract's signature
        """There is nothing to see."""
        return []

    def drawn(
        self,
        contents: Sequence[bytes],
        labels: Sequence[str],  # noqa: ARG002 - the contract's signature
        answers: "pd.DataFrame",  # noqa: ARG002 - as above
    ) -> "Sequence[bytes | str]":
        """Show the records alone."""
        return self._own.thumbnails(contents) if hasattr(self._own, "thumbnails") else []


class TargetDefaults:
    """The optional members of a target."""

    convex = False

    def __init__(self, own: "Target") -> None:
        self._own = own

    @property
    def answers_code(self) -> Path:
        """The file that defines `answers`."""
        return defining_file(self._own.answers)

    def check_label(self, label: str) -> str:
        """Any text is a label."""
        return label

    def check_example(self, label: str, facts: Mapping[str, int | str]) -> str:  # noqa: ARG002 - the contract's signature
        """Any label fits any record."""
        return label

    def names(self, labels: Sequence[str]) -> Sequence[Sequence[str]]:
        """Labels hold no classes."""
        return [[] for _ in labels]

    def strata(self, labels: Sequence[str]) -> list[str]:
        """Splits are not stratified."""
        return [""] * len(labels)

    def class_names(self, labels: Sequence[str]) -> list[str]:
        """The names in the labels, sorted; a single output where labels hold none."""
        return sorted({name for names in self._names(labels) for name in names}) or ["value"]

    def _names(self, labels: Sequence[str]) -> Sequence[Sequence[str]]:
        return self._own.names(labels) if hasattr(self._own, "names") else self.names(labels)

    def class_weights(self, targets: "Tensor", size: int) -> "Tensor | None":  # noqa: ARG002 - the contract's signature
        """There is nothing to balance."""
        return None

    def validate(self, outputs: "Pytree", targets: "Tensor") -> dict[str, float]:
        """The loss alone, without smoothing or weights."""
        return {"loss": float(self._own.loss(outputs, targets, 0.0, None))}

    def calibrate(self, outputs: "Pytree", targets: "Tensor") -> dict[str, float]:  # noqa: ARG002 - the contract's signature
        """Answers need nothing beside the outputs."""
        return {}

    def scores(self, answers: "pd.DataFrame", labels: Sequence[str]) -> "np.ndarray[Any, Any]":
        """The headline metric of each row alone, less than 0 where lower is better.

        Raises:
            ValueError: It is not a function of sums over rows.
        """
        metric = self._own.metrics[0]
        if metric.features is None or metric.figure is None:
            raise ValueError(f"{metric.name} has no features, so the target has to define scores")
        found: np.ndarray[Any, Any] = metric.sign * metric.figure(metric.features(answers, labels, ()))
        return found


def defining_file(function: object) -> Path:
    """Return the source file of a function, wherever it is imported to."""
    return Path(inspect.getfile(inspect.unwrap(function)))  # type: ignore[arg-type]  # a function of any kind
