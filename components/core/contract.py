"""The contract of a task: what differs between problems, as Protocols; a task is a module that satisfies one."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from pydantic import BaseModel

from components.core.errors import InputError
from components.core.settings import Settings

TASKS_FOLDER = "THAWLINE_TASKS_FOLDER"  # where tasks of the user's are looked for, after everything installed

if TYPE_CHECKING:  # torch costs seconds; checking raw records needs none of it
    import numpy as np
    import pandas as pd
    from torch import Tensor

    from components.core.data.examples import Examples
    from components.core.networks.network import Network, Pytree
    from components.core.targets.evaluation import Evaluation


class Target(Protocol):
    """What a network learns to answer: a class, a number, several labels, a transcript, boxes. Labels are text."""

    metric: str  # the headline metric of `evaluate`
    gate_metrics: Mapping[str, int]  # may decide between two models, `metric` among them: 1: higher is better, else -1
    right_or_wrong: bool  # scores are 1 for a right answer and 0 for a wrong one, and `metric` is their mean
    answers_code: Path  # module without imports from here that holds `answers`; shipped with the model
    answer: type  # a TypedDict, the columns of an answer

    def check_label(self, label: str) -> str:
        """A label in the form in which equal ones are equal; raises RejectedRecord if it can't be learnt."""

    def names(self, labels: Sequence[str]) -> Sequence[Sequence[str]]:
        """The classes in each label: one of a class, any number of several labels or of boxes, none of a number."""

    def strata(self, labels: Sequence[str]) -> list[str]:
        """The class of each label, by which splits are stratified and rows counted; all empty if labels are none."""

    def class_names(self, labels: Sequence[str]) -> list[str]:
        """What the outputs stand for, in their order, from all labels of a dataset."""

    def targets(self, labels: Sequence[str], classes: Sequence[str]) -> "Tensor":
        """Labels as the tensor that `loss` compares outputs with, a row each; what differs in length is padded."""

    def loss(
        self, outputs: "Pytree", targets: "Tensor", label_smoothing: float, class_weights: "Tensor | None"
    ) -> "Tensor":
        """The training loss, a scalar mean over the batch."""

    def class_weights(self, targets: "Tensor", size: int) -> "Tensor | None":
        """Weights of the loss that balance `size` classes, from the training targets."""

    def validate(self, outputs: "Pytree", targets: "Tensor") -> dict[str, float]:
        """Figures of a whole split, `metric` among them; `loss` (lower is better) steers early stopping and search."""

    def calibrate(self, outputs: "Pytree", targets: "Tensor") -> dict[str, float]:
        """What `answers` needs beside the outputs, fitted on rows that nothing else has seen."""

    def answers(self, outputs: "Pytree", serving: Mapping[str, Any]) -> Sequence[Mapping[str, object]]:
        """An answer for each row, exactly as the served model gives it; `serving` is its serving.json."""

    def evaluate(
        self, answers: "pd.DataFrame", labels: Sequence[str], classes: Sequence[str], training: Mapping[str, int]
    ) -> "Evaluation":
        """Everything the report says of the served model's answers; `training` counts the training labels."""

    def scores(self, answers: "pd.DataFrame", labels: Sequence[str]) -> "np.ndarray[Any, Any]":
        """One score for each row, higher is better; they say which rows a model answers better and how slices fare."""

    def gate_features(
        self, answers: "pd.DataFrame", labels: Sequence[str], classes: Sequence[str]
    ) -> "np.ndarray[Any, Any]":
        """What `gate_figure` needs of each row, float[N, k]; `classes` are those that both models know."""

    def gate_figure(
        self, metric: str, classes: Sequence[str]
    ) -> "Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]":
        """A metric of `gate_metrics` as a function of sums of features float[R, k]: float[R]."""


class Task(Protocol):
    """One problem. A batch is a pytree of tensors, batch first.

    `--task NAME` takes the module `components/tasks/NAME.py`, or a module of yours by its dotted name.
    """

    serving_code: Path  # module without imports from here that holds `encode`; shipped with the model

    backbone: str  # what an empty `--backbone` means
    Options: type[BaseModel]  # of this task's own, given by `--option`; `NoOptions` where there are none
    split_by: str  # hash, or time: then every training example is older than every test example
    input_name: str  # the column of raw records that the served model reads
    serving_requirements: Sequence[str]  # libraries that the serving code needs beside mlflow, torch, numpy and pandas

    def target(self, settings: Settings) -> Target:
        """What the network learns to answer; where options decide, those that `measure` found are among them."""

    def check(self, content: bytes) -> Mapping[str, int | str]:
        """Facts of one raw record for the index; raises RejectedRecord with the reason if it is unusable.

        The fact `fingerprint`, a text, is what `near_duplicates` compares; without it a record is near to none.
        """

    def near_duplicates(
        self, fingerprints: Sequence[str], new: Sequence[bool], settings: Settings
    ) -> list[tuple[int, int]]:
        """Positions (i, j), i < j, of near-duplicates of which at least one is new, in sub-quadratic time."""

    def measure(self, settings: Settings, examples: "Examples") -> tuple[Mapping[str, str], str]:
        """Options that the prepared data decide, and a sentence on them for the reader, which may be empty.

        They hold in every later step unless the user gave others; the data are the same in all of them.
        """

    def build(self, settings: Settings, classes: Sequence[str], dropout: float) -> "Network":
        """Pretrained stages and a new head for `classes`; raises InputError for weights that don't fit."""

    def rebuild(self, settings: Settings, facts: Mapping[str, Any]) -> "Network":
        """The network of a checkpoint with any weights; the pretrained ones need not be at hand.

        `facts` is checkpoint.json: `classes`, `hyperparameters`, and the network's `preprocessing` and `config`.
        """

    def encode(self, contents: Sequence[bytes], preprocessing: Mapping[str, Any]) -> "Pytree":
        """Raw records as the first stage's input, exactly as the served model encodes them."""

    def augments(self, settings: Settings) -> bool:
        """Whether training examples have to be encoded anew in each epoch; if not, what they give is kept."""

    def augment(
        self, contents: Sequence[bytes], preprocessing: Mapping[str, Any], settings: Settings, seeds: Sequence[int]
    ) -> "Pytree":
        """Raw records as the first stage's input, each augmented by its own seed."""

    def mix(
        self, inputs: "Pytree", targets: "Tensor", settings: Settings, classes: int, seed: int
    ) -> "tuple[Pytree, Tensor]":
        """A batch whose examples and targets are mixed if the settings say so.

        `inputs` are activations at the thaw line, or the first stage's input where `augments` holds.
        """

    def reference(self, settings: Settings, examples: "Examples") -> "tuple[str, pd.DataFrame] | None":
        """A simple model of the training rows that the network has to beat: its name, its answers to the test rows."""

    def thumbnails(self, contents: Sequence[bytes]) -> "Sequence[bytes | str]":
        """What the report shows of raw records: PNG or JPEG as bytes, or text; empty where there is nothing to see."""


def load_task(name: str) -> Task:
    """The task module of that name, with only its own libraries imported.

    Raises:
        InputError: There is no such module, or a library that it needs is not installed.
    """
    module = name if "." in name else f"components.tasks.{name}"
    folder = os.environ.get(TASKS_FOLDER, "")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    try:
        return cast("Task", importlib.import_module(module))
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            known = sorted(p.stem for p in (Path(__file__).parents[1] / "tasks").glob("[a-z]*.py"))
            raise InputError(f"There is no task {name!r}.", f"Use one of: {', '.join(known)}.") from None
        raise InputError(
            f"The task {name!r} needs the library {error.name}, which is not installed.",
            "Install the group that its page names, as by pip install 'thawline[text,audio]'; an image takes groups by "
            "--build-arg TASKS.",
        ) from error
