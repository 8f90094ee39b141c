"""Simple models beside the trained one on the same test rows, and a sentence where the strongest of them is better."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from components.core.contract.listener import SILENT, Listener
from components.core.contract.metric_names import label
from components.core.evaluation.features import Array
from components.core.evidence.paired_tests import swap_test, units_of
from components.core.fitting import folds
from components.core.fitting.data import Data
from components.core.settings import Settings
from components.core.sources.record_kinds import KIND_OF_TASK
from components.core.targets.evaluation import Evaluation, Reference
from components.core.targets.references.linear_probe import NoProbeError, has_probe, probe

PROBE, OWN = "probe", "reference"  # what the names of their metrics begin with in MLflow
CHANCE = 0.05  # two-sided p-value of the paired test above which a difference is within chance
DIGITS = 3  # of a figure that people see: what is equal there is no shortfall
TRIALS = 20  # the fewest that are worth a try


def fitted(data: Data) -> Data:
    """The same data; where a probe is fitted on the rows that calibrate, as a solved head is, they validate."""
    return folds.joined(data) if has_probe(data.target) else data


def probed_splits(data: Data) -> tuple[str, ...]:
    """The splits whose features are looked at: the test rows' only where they are probed."""
    return ("train", "validation", "test") if has_probe(data.target) else ("train", "validation")


def with_references(
    evaluation: Evaluation,
    answers: pd.DataFrame,
    data: Data,
    features: Mapping[str, Array] | None,
    classes: Sequence[str],
    thawed: int,
    listener: Listener = SILENT,
) -> Evaluation:
    """Return an evaluation with the linear probe and the task's own simple model beside it.

    Args:
        evaluation: Of the model.
        answers: Its answers to the test rows.
        data: The prepared data, as `fitted` returns them.
        features: Of the pretrained network for `probed_splits`; None: there is no probe.
        classes: In the order of the model's outputs.
        thawed: Stages that were thawed in the model.
        listener: Takes a note where the data allow no probe.
    """
    labels = data.examples.labels(data.rows["test"])
    training = Counter(data.examples.labels(data.rows["train"]))
    own = data.task.references(data.settings, data.examples)
    found = {PROBE: _probe(data, features, listener)}
    found |= {f"{OWN}_{number}" if number > 1 else OWN: model for number, model in enumerate(own, start=1)}
    references = {
        key: Reference(name, data.target.evaluate(theirs, labels, classes, training).metrics, theirs)
        for key, (name, theirs) in ((key, model) for key, model in found.items() if model is not None)
    }
    known = replace(evaluation, references=references)
    return replace(known, shortfall=shortfall(known, answers, data, classes, thawed))


def with_trivial(evaluation: Evaluation, data: Data, classes: Sequence[str]) -> Evaluation:
    """Return an evaluation beside the task's own trivial model, if it has one."""
    trivial = data.task.trivial(data.settings, data.examples)
    if trivial is None:
        return evaluation
    training = Counter(data.examples.labels(data.rows["train"]))
    found = data.target.evaluate(trivial, data.examples.labels(data.rows["test"]), classes, training)
    return replace(evaluation, baseline=found.metrics, trivial=trivial)


def shortfall(evaluation: Evaluation, answers: pd.DataFrame, data: Data, classes: Sequence[str], thawed: int) -> str:
    """Suggest in a sentence what to try if the strongest reference is better in the headline metric; else return ""."""
    metric = data.target.metrics[0]
    own = evaluation.metrics[metric.name]

    def ahead(reference: Reference) -> float:
        return metric.sign * (round(reference.metrics[metric.name], DIGITS) - round(own, DIGITS))

    better = [key for key, reference in evaluation.references.items() if ahead(reference) > 0]  # none where undefined
    if not better:
        return ""
    best = max(better, key=lambda key: ahead(evaluation.references[key]))
    reference = evaluation.references[best]
    name = "a linear probe of the same network" if best == PROBE else reference.name
    figures = f"{label(metric.name)} {own:.{DIGITS}f} against {reference.metrics[metric.name]:.{DIGITS}f}"
    within = 2 * paired_p(answers, reference.answers, data, classes) > CHANCE
    chance = "a difference within chance" if within else ""
    return (
        f"This model does not beat {name} on the {len(answers)} test rows "
        f"({', '.join(filter(None, [figures, chance]))}): try {_advice(best, data.settings, thawed)}."
    )


def _probe(data: Data, features: Mapping[str, Array] | None, listener: Listener) -> tuple[str, pd.DataFrame] | None:
    if features is None or not has_probe(data.target):
        return None
    labels = {split: data.examples.labels(data.rows[split]) for split in ("train", "validation")}
    try:
        return "linear probe", probe(features, labels, data.target, data.examples.classes)
    except NoProbeError as error:
        listener.note(f"No linear probe: {error}")
        return None


def paired_p(theirs: pd.DataFrame, ours: pd.DataFrame, data: Data, classes: Sequence[str]) -> float:
    """Return the one-sided p-value that ours is better in the headline metric: answers are swapped unit by unit.

    NaN where the metric may not decide.
    """
    metric, labels = data.target.metrics[0], data.examples.labels(data.rows["test"])
    features, figure = metric.features, metric.figure
    if features is None or figure is None:
        return math.nan
    known = [*classes, *sorted({name for names in data.target.names(labels) for name in names} - {*classes})]
    units = units_of(data.examples.column("group", data.rows["test"]), len(labels))

    def higher_is_better(sums: Array) -> Array:
        return np.asarray(metric.sign * figure(sums))

    return swap_test(features(theirs, labels, known), features(ours, labels, known), higher_is_better, units)


def _advice(reference: str, settings: Settings, thawed: int) -> str:
    """Options that may help: against a probe of the same network it is the training that falls short, else the network.

    The way that pictures become square is the cheapest of all changes: one pass, the same weights.
    """
    trials = f"--trials {max(TRIALS, 2 * settings.trials)}"
    other = "another --resize" if KIND_OF_TASK.get(settings.task) == "pictures" else "another --backbone"
    if reference == PROBE:
        options = ["--thaw 0", trials, other] if thawed else [trials, other]
    else:
        options = ["a larger --thaw", trials, "another --backbone"]
    return f"{', '.join(options[:-1])} or {options[-1]}"
