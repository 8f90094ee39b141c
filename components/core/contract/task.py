"""The contract of a task: small Protocols, one for each caller; a task is a module that satisfies them.

A task writes `target`, `check`, `build` and `encode`. A target of its own writes `targets`, `loss`, `answer`,
`answers`, `metrics` and `evaluate`. All else is optional: `optional_members.py` holds what it is where it is left
out.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from pydantic import BaseModel

from components.core.contract.checks import check_members, check_shipped
from components.core.contract.optional_members import Overlay, TargetDefaults, TaskDefaults
from components.core.errors import InputError
from components.core.settings import Settings
from components.core.weight_sources import group_hint

TASKS_FOLDER = "THAWLINE_TASKS_FOLDER"  # where tasks of the user's are looked for, after everything installed

if TYPE_CHECKING:  # torch costs seconds; checking raw records needs none of it
    import numpy as np
    import pandas as pd
    from torch import Tensor

    from components.core.data.examples import Examples
    from components.core.networks.network import Network, Pytree
    from components.core.sources.raw_records import RawRecord
    from components.core.targets.evaluation import Evaluation


@dataclass(frozen=True)
class Metric:
    """A metric of a model's answers to the test rows, with its direction.

    With `features` and `figure` it may decide between two models. The tests draw sums of the features again and again,
    so such a metric has to be a function of sums over rows; another one may stand in the report.
    """

    name: str
    higher_is_better: bool = True
    # answers, labels, and the classes that the models know -> float[N, k]
    features: "Callable[[pd.DataFrame, Sequence[str], Sequence[str]], np.ndarray[Any, Any]] | None" = None
    figure: "Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] | None" = None  # sums float[R, k] -> float[R]
    right_or_wrong: bool = False  # the mean of scores that are 1 or 0: exact tests of shares decide
    title: str = ""  # in the report; empty: the name in words
    explanation: str = ""  # in the report

    @property
    def may_decide(self) -> bool:
        """Return whether `--gate-metric` accepts it."""
        return self.features is not None and self.figure is not None

    @property
    def sign(self) -> int:
        """Return 1 if higher is better, else -1."""
        return 1 if self.higher_is_better else -1


class Labels(Protocol):
    """The members of a target that data preparation uses. Labels are text."""

    def check_label(self, label: str) -> str:
        """Return a label in the form in which equal ones are equal; optional: any text names a class.

        Raises:
            RejectedRecord: It can't be learned.
        """

    def check_example(self, label: str, facts: Mapping[str, int | str]) -> str:
        """Return a checked label, completed by what `Task.check` found in its record; optional: as it is.

        Raises:
            RejectedRecord: The two don't fit, as a box outside its picture.
        """

    def names(self, labels: Sequence[str]) -> Sequence[Sequence[str]]:
        """Return the classes in each label: one of a class, any number of several labels or of boxes; optional: none.

        The gate compares only rows whose names both models know, and watches the shares of the names.
        """

    def strata(self, labels: Sequence[str]) -> list[str]:
        """Return the class of each label, by which splits are stratified and rows counted; optional: all empty."""

    def class_names(self, labels: Sequence[str]) -> list[str]:
        """Return the meaning of each output, in order, from all labels of a dataset.

        Optional: the names in the labels, sorted, or a single output where labels hold none.
        """

    def targets(self, labels: Sequence[str], classes: Sequence[str]) -> "Tensor":
        """Return labels as the tensor that `loss` compares outputs with, a row each; shorter ones are padded."""


class Objective(Protocol):
    """The members of a target that training uses."""

    convex: bool  # whether `loss` is convex in the outputs, so that a linear head has an optimum; optional: no

    def loss(
        self, outputs: "Pytree", targets: "Tensor", label_smoothing: float, class_weights: "Tensor | None"
    ) -> "Tensor":
        """Return the training loss, a scalar mean over the batch."""

    def class_weights(self, targets: "Tensor", size: int) -> "Tensor | None":
        """Return weights of the loss that balance `size` classes, from the training targets; optional: none."""

    def validate(self, outputs: "Pytree", targets: "Tensor") -> dict[str, float]:
        """Return figures of a whole split; `loss` (lower is better) steers early stopping and search.

        Those named like a metric are shown beside it. Optional: the loss alone, without smoothing or weights.
        """


class Answers(Protocol):
    """The members of a target that inference uses."""

    answer: type  # a TypedDict: the columns of an answer, MLflow's signature, and what `thawline predict` prints
    answers_code: (
        Path  # shipped with the model, so without imports from here; optional: the file that defines `answers`
    )

    def answers(self, outputs: "Pytree", serving: Mapping[str, Any]) -> Sequence[Mapping[str, object]]:
        """Return an answer for each row, exactly as the served model gives it.

        `serving` is its serving.json: `classes`, `preprocessing`, and what `calibrate` returned.
        """

    def calibrate(self, outputs: "Pytree", targets: "Tensor") -> dict[str, float]:
        """Fit what `answers` needs beside the outputs, which are of rows that their model has not seen; optional."""


class Scoring(Protocol):
    """The members of a target that the evaluation and the gate use."""

    metrics: Sequence[Metric]  # all that `evaluate` may return; the first is the headline, and may decide

    def evaluate(
        self, answers: "pd.DataFrame", labels: Sequence[str], classes: Sequence[str], training: Mapping[str, int]
    ) -> "Evaluation":
        """Evaluate the served model's answers for the report; `training` counts the training labels.

        `targets.evaluation.by_sums` does it for metrics that may decide.
        """

    def scores(self, answers: "pd.DataFrame", labels: Sequence[str]) -> "np.ndarray[Any, Any]":
        """Return one score for each row, higher is better, by which wins, losses and slices are counted: float[N].

        Optional: the headline metric of each row alone, less than 0 where lower is better.
        """


class Target(Labels, Objective, Answers, Scoring, Protocol):
    """The learning target of a network: a class, a number, several labels, a transcript, boxes."""


class Task(Protocol):
    """One problem. A batch is a pytree of tensors, batch first.

    `--task NAME` takes the module `components/tasks/NAME.py`, or a module of yours by its dotted name. It has to write
    `target`, `check`, `build` and `encode`.
    """

    backbone: str  # what an empty `--backbone` means; optional
    Options: type[BaseModel]  # of this task's own, given by `--option`; optional
    recipe: Mapping[str, Any]  # settings that hold where the user gives none, as a literal: read, not run; optional
    recipe_by_rows: Mapping[int, Mapping[str, Any]]  # hyperparameters from so many rows on, a literal too; optional
    split_by: Literal["hash", "time"]  # time: every training example is older than every test example; optional: hash
    input_name: str  # the column of raw records that the served model reads; optional: record
    serving_code: Path  # shipped with the model, so without imports from here; optional: the file that defines `encode`
    serving_requirements: Sequence[str]  # libraries that it needs beside mlflow, torch, numpy and pandas; optional

    def target(self, settings: Settings) -> Target:
        """Return the learning target; the settings include the options that `measure` found."""

    def records(self, settings: Settings, source: str) -> "Iterator[RawRecord]":
        """Yield the raw records of a source, always in the same order, each with its content, or a file's address.

        Optional: those of a folder by class or of a manifest. A task that defines it finds the faults of its source
        here, as InputError, and names the splits of its records itself if its options decide them.
        """

    def check(self, content: bytes) -> Mapping[str, int | str]:
        """Return facts of one raw record for the index; the fact `fingerprint` is what `near_duplicates` compares.

        Raises:
            RejectedRecord: It can't be used; the message is the reason.
        """

    def build(self, settings: Settings, classes: Sequence[str], dropout: float) -> "Network":
        """Return pretrained stages and a new head for `classes`; raises InputError for weights that don't fit."""

    def encode(self, contents: Sequence[bytes], preprocessing: Mapping[str, Any]) -> "Pytree":
        """Return raw records as the first stage's input, exactly as the served model encodes them."""

    def rebuild(self, settings: Settings, facts: Mapping[str, Any]) -> "Network":
        """Return the network of a checkpoint with any weights, so that the pretrained ones need not be at hand.

        `facts` is checkpoint.json: `classes`, `hyperparameters`, and the network's `preprocessing` and `config`.
        Optional: what `build` gives.
        """

    def adapt(
        self,
        network: "Network",
        classes: Sequence[str],
        weights: "Mapping[str, Tensor]",
        facts: Mapping[str, Any],
    ) -> "tuple[Mapping[str, Tensor], Sequence[str]]":
        """Return the weights of a checkpoint as a network for other classes takes them, and the classes they now know.

        `facts` is checkpoint.json. Optional: as they are, so that the stages have to have the same shapes; of tensors
        of the head with a row for each class, a warm start takes the rows of common classes.
        """

    def near_duplicates(
        self, fingerprints: Sequence[str], new: Sequence[bool], settings: Settings
    ) -> list[tuple[int, int]]:
        """Return positions (i, j), i < j, of near-duplicates of which at least one is new; optional: there are none.

        The nearest come first: where nearly all data chain together, it is they that stay together.
        """

    def measure(self, settings: Settings, examples: "Examples") -> tuple[Mapping[str, str], str]:
        """Return options that the prepared data decide, and a sentence on them for the reader, which may be empty.

        They hold in every later step unless the user gave others; the data are the same in all of them. Optional.
        """

    def augments(self, settings: Settings) -> bool:
        """Return whether training examples are encoded afresh in each epoch; if not, activations are cached.

        Optional: with `--augment`, but not with `--views`.
        """

    def augment(
        self,
        contents: Sequence[bytes],
        targets: "Tensor",
        preprocessing: Mapping[str, Any],
        settings: Settings,
        seeds: Sequence[int],
    ) -> "tuple[Pytree, Tensor]":
        """Return raw records as the first stage's input, each augmented by its own seed, and their targets.

        Targets [N, ...] keep their shape; they are returned as they are unless they move with the records, as boxes do.
        Then `--views` is refused. Optional: without it, `--augment` is.
        """

    def mix(
        self, inputs: "Pytree", targets: "Tensor", settings: Settings, classes: int, seed: int
    ) -> "tuple[Pytree, Tensor]":
        """Return a batch whose examples and targets are mixed if the settings say so.

        `inputs` are activations at the thaw line, or the first stage's input where `augments` holds. Optional: without
        it, `--mixup` and `--cutmix` are refused.
        """

    def references(self, settings: Settings, examples: "Examples") -> "Sequence[tuple[str, pd.DataFrame]]":
        """Return names of simple models of the training rows, with their answers to the test rows.

        The likely strongest comes first. Optional: none.
        """

    def trivial(self, settings: Settings, examples: "Examples") -> "pd.DataFrame | None":
        """Return the answers to the test rows of the best model that learns nothing from what a record holds.

        A first version has to beat it by a paired test. Optional: the one of the target's `evaluate`, which knows
        labels alone.
        """

    def thumbnails(self, contents: Sequence[bytes]) -> "Sequence[bytes | str]":
        """Return previews of raw records for the report: PNG or JPEG bytes, or text; optional: none."""

    def drawn(
        self, contents: Sequence[bytes], labels: Sequence[str], answers: "pd.DataFrame"
    ) -> "Sequence[bytes | str]":
        """Return previews of wrongly answered records, with what is true and what was answered.

        Optional: `thumbnails`.
        """


def load_task(name: str) -> Task:
    """Return the task module of that name, complete with its optional members; only its own libraries are imported.

    Raises:
        InputError: There is no such module, a library that it needs is not installed, or a member is missing or has
            another form than the contract's.
    """
    check_task_name(name)
    module = name if "." in name else f"components.tasks.{name}"
    folder = os.environ.get(TASKS_FOLDER, "")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise unknown_task(name, built_in_tasks()) from None
        raise InputError(
            f"The task {name!r} needs the library {error.name}, which is not installed.",
            group_hint("text,audio,detection"),
        ) from error
    return complete_task(found)


def built_in_tasks() -> list[str]:
    """Return the names of the tasks that Thawline brings."""
    return sorted(path.stem for path in (Path(__file__).parents[2] / "tasks").glob("[a-z]*.py"))


def check_task_name(name: str) -> None:
    """Refuse a name that no module can have, such as a file's.

    Raises:
        InputError: It has one.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise InputError(
            f"{name!r} is not the name of a task.",
            f"Use one of {', '.join(built_in_tasks())}, or the dotted name of a module, such as mine.points.",
        )


def unknown_task(name: str, known: Sequence[str]) -> InputError:
    """The error for a task that is not there, with those that are."""
    return InputError(f"There is no task {name!r}.", f"Use one of: {', '.join(known)}.")


def complete_task(module: object) -> Task:
    """Return a task with its optional members filled in, and so its targets; raises InputError as `load_task` does."""
    owner = str(getattr(module, "__name__", "the task"))
    check_members(module, (Task,), TaskDefaults, f"The task {owner}")
    own = cast("Task", module)

    def target(settings: Settings) -> Target:
        return complete_target(own.target(settings), owner)

    task = cast("Task", Overlay(module, TaskDefaults(own), target=target))
    check_shipped(task.serving_code, "encode", f"The task {owner}")
    return task


def complete_target(target: object, owner: str = "") -> Target:
    """Return a target with its optional members filled in; `owner` is the task that an InputError names."""
    whose = f"The target of {owner or type(target).__name__}"
    check_members(target, (Labels, Objective, Answers, Scoring), TargetDefaults, whose)
    complete = cast("Target", Overlay(target, TargetDefaults(cast("Target", target))))
    check_shipped(complete.answers_code, "answers", whose)
    return complete
