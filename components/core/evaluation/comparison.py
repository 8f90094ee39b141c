"""Two models on the same test rows: their answers, and which of the rows can tell which of them is better."""

import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

import numpy as np
import pandas as pd

from components.core.contract.task import Metric
from components.core.data.lineage import read_lineage
from components.core.errors import StepError
from components.core.evidence.contest import Contest, Figures
from components.core.fitting.data import Data
from components.core.networks.network import Network
from components.core.registry.serving import SERVING, agree, answers
from components.core.tracking import pyfunc, runs
from components.core.training.checkpoints import TrainingRows, load_checkpoint, read_training_rows, weights_digest
from components.core.training.phase import outputs_by_batch

AGREEING = 32  # test rows that the served model itself answers, to compare
CHALLENGER = "challenger"  # what notes call the new model
TIMED = 3  # times that these are answered to measure its latency

Trained: TypeAlias = tuple[Network, Mapping[str, Any]]  # the network of a checkpoint, and its facts


@dataclass(frozen=True)
class Contestant:
    """A model and its answers to all test rows."""

    answers: pd.DataFrame
    classes: Sequence[str]
    trained_on: TrainingRows
    seconds: float  # for a row as served; NaN where nobody asks
    digest: str = ""  # of its weights


def contestant(
    served: Path, checkpoint: Path, data: Data, run: runs.StepRun, who: str, trained: Trained | None = None
) -> Contestant:
    """Let a model answer the test rows, from the activations that models share where these answer as it is served.

    Args:
        served: The model in MLflow's format.
        checkpoint: Its checkpoint.
        data: The prepared data.
        run: The step.
        who: What notes call it.
        trained: The network of the checkpoint and its facts, where they are loaded already.

    Raises:
        StepError: Its answers are of another problem.
    """
    rows = data.rows["test"]
    model = pyfunc.load_pyfunc(served)
    serving = json.loads((served / SERVING).read_text())

    def ask(some: Sequence[int]) -> pd.DataFrame:
        return answers(
            model,
            data.task.input_name,
            len(some),
            lambda start, stop: data.examples.contents([rows[i] for i in some[start:stop]]),
            lambda done, total: run.progress(done, total, f"rows of a sample answered by the {who}"),
        )

    some = list(range(0, len(rows), -(-len(rows) // AGREEING)))
    expected, seconds = ask(some), math.nan
    if run.settings.max_latency_ratio:
        seconds = min(_seconds(lambda: ask(some)) for _ in range(TIMED)) / len(some)
    elif who == CHALLENGER:  # for its report; the first answers warmed it up
        seconds = _seconds(lambda: ask(some)) / len(some)
    found = _computed(trained or checkpoint, data, run, who, serving)
    if found is not None and not agree(found.iloc[some].reset_index(drop=True), expected):
        run.note(f"The {who} answers differently as served than as computed here, so its served model answers all rows")
        found = None
    found = ask(range(len(rows))) if found is None else found
    if {*found.columns} != {*get_type_hints(data.target.answer)}:
        raise StepError(
            f"The {who} answers {', '.join(found.columns)}, which can't be compared with this task's answers.",
            "Use a separate --model for the new problem.",
        )
    return Contestant(found, serving["classes"], read_training_rows(checkpoint), seconds, weights_digest(checkpoint))


def contest(champion: Contestant, challenger: Contestant, version: str, data: Data, calibration: float) -> Contest:
    """Return the gate's input: rows of classes that both models know, without the champion's training rows.

    Args:
        champion: The model in production.
        challenger: The new one.
        version: The champion's.
        data: The prepared data, whose test rows both have answered.
        calibration: The challenger's calibration error.
    """
    examples, target, settings = data.examples, data.target, data.settings
    rows, labels = data.rows["test"], data.examples.labels(data.rows["test"])
    both = set(challenger.classes) & set(champion.classes)
    known = [side.classes if any(target.names(labels)) else () for side in (champion, challenger)]
    classes = [name for name in challenger.classes if name in both]
    kept = comparable(data, champion.trained_on, both)
    places, some = [rows[i] for i in kept], [labels[i] for i in kept]
    ours, theirs = (side.answers.iloc[kept].reset_index(drop=True) for side in (challenger, champion))
    members = read_lineage(examples.folder / "assignments.parquet").members
    since = np.array([members[id_].since for id_ in examples.ids(places)], dtype=np.int64)
    number = champion.trained_on.number
    headline = target.metrics[0]
    metric = next((one for one in target.metrics if one.name == settings.gate_metric), headline)
    figures = None
    if metric is not headline or not headline.right_or_wrong:
        figures = _figures(metric, (theirs, ours), some, classes)
    return Contest(
        version=version,
        champion=target.scores(theirs, some),
        challenger=target.scores(ours, some),
        groups=np.asarray(examples.column("group", places), dtype=object),
        slices=_slices(data, places, some),
        locked=since <= number if number >= 0 else np.ones(len(kept), dtype=bool),  # -1: nobody knows any more
        recent=since > examples.info.number - settings.test_window,
        passed_over=sum(_knows(data, both)) - len(kept),
        new_classes=sorted(set(known[1]) - set(known[0])),
        removed_classes=sorted(set(known[0]) - set(known[1])),
        label_counts=(champion.trained_on.labels, challenger.trained_on.labels),
        calibration_error=calibration,
        latency_ratio=challenger.seconds / champion.seconds,
        figures=figures,
        right_or_wrong=headline.right_or_wrong,
    )


def _figures(
    metric: Metric, sides: tuple[pd.DataFrame, pd.DataFrame], labels: Sequence[str], classes: Sequence[str]
) -> Figures:
    """The deciding metric of champion and challenger.

    Raises:
        StepError: It may not decide.
    """
    if metric.features is None or metric.figure is None:
        raise StepError(
            f"{metric.name} can't decide between two models.", "Define the features and figure of its metric."
        )
    champion, challenger = (metric.features(side, labels, classes) for side in sides)
    return Figures(metric.name, metric.sign, champion, challenger, metric.figure)


def _computed(
    model: Trained | Path, data: Data, run: runs.StepRun, who: str, serving: Mapping[str, Any]
) -> pd.DataFrame | None:
    """The answers by the network of the checkpoint; None where it can't be rebuilt here."""
    try:
        network, facts = load_checkpoint(model) if isinstance(model, Path) else model
        parts = outputs_by_batch(network, data, facts["thawed"], "test", run)
        return pd.DataFrame([answer for part in parts for answer in data.target.answers(part, serving)])
    except Exception as error:  # noqa: BLE001 - a model of another version may fail anyhow; it is served all the same
        run.note(f"The {who} can't be rebuilt here, so its served model answers all rows: {type(error).__name__}")
        return None


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def comparable(data: Data, trained_on: TrainingRows, classes: Collection[str]) -> list[int]:
    """Positions of the test rows of these classes that a model was not trained on, nor on a near-duplicate of them."""
    rows = data.rows["test"]
    ids = data.examples.ids(rows)
    seen = {position for position, id_ in enumerate(ids) if id_ in trained_on.fingerprints}
    if "fingerprint" in data.examples.index.column_names and data.settings.near_duplicates >= 0:
        tested = set(ids)
        theirs = [text for id_, text in trained_on.fingerprints.items() if text and id_ not in tested]
        prints = [*data.examples.column("fingerprint", rows), *theirs]
        new = [place < len(rows) for place in range(len(prints))]
        near = {prints[i] for i, j in data.task.near_duplicates(prints, new, data.settings) if i < len(rows) <= j}
        # of equal fingerprints only one is paired with the others' neighbours
        seen |= {place for place in range(len(rows)) if prints[place] in near}
    return [position for position, known in enumerate(_knows(data, classes)) if known and position not in seen]


def _knows(data: Data, classes: Collection[str]) -> list[bool]:
    """Of each test row, whether a model of these classes can answer it: where labels hold none, it can."""
    labels = data.examples.labels(data.rows["test"])
    return [all(name in classes for name in names) for names in data.target.names(labels)]


def _slices(data: Data, places: Sequence[int], labels: Sequence[str]) -> dict[str, list[str]]:
    columns = [name.strip() for name in data.settings.slice_by.split(",") if name.strip()]
    metadata = [json.loads(text) for text in data.examples.column("metadata", places)]
    classes = data.target.strata(labels)
    return {
        **({"class": classes} if any(classes) else {}),
        **{name: [str(row.get(name, "")) for row in metadata] for name in columns},
    }
