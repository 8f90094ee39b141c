"""One HTML page about a run that a person enjoys reading: self-contained, without scripts, light and dark."""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from components.core.reporting import charts
from components.core.reporting.costs import duration
from components.core.targets.evaluation import Evaluation

ERROR_RATES = ("word_error_rate", "character_error_rate", "sentence_error_rate")
LOWER_IS_BETTER = frozenset({"log_loss", "brier", "ece", "loss", "wer", "mae", "rmse", *ERROR_RATES})
NAMES = {
    "macro_f1": "Macro-F1",
    "ece": "Calibration error",
    "brier": "Brier score",
    "ndcg": "NDCG",
    "map": "mAP",
    "micro_f1": "Micro-F1",
    "r2": "R²",
    "mae": "Mean absolute error",
    "rmse": "Root mean squared error",
    "word_error_rate": "Word error rate",
}
EXPLAINED = {
    "accuracy": "share of test rows answered right",
    "balanced_accuracy": "mean recall of the classes that occur",
    "macro_f1": "mean F1 of the classes",
    "log_loss": "nats per row; lower is better",
    "brier": "squared error of the probabilities, 0 to 2; lower is better",
    "micro_f1": "F1 over all labels of all rows",
    "subset_accuracy": "share of rows whose labels are all right",
    "map": "mean over the labels of the average precision",
    "r2": "share of the variance that is explained; 0 is the mean of the rows",
    "mae": "in the unit of the labels; lower is better",
    "rmse": "in the unit of the labels; lower is better",
    "coverage": "share of rows whose number lies in the answer's interval; 0.9 is meant",
    "word_error_rate": "words to insert, delete or replace, per word; lower is better",
    "character_error_rate": "the same per character; lower is better",
    "sentence_error_rate": "share of rows that are not all right; lower is better",
    "ece": "confidence minus accuracy, 15 bins of equal width; lower is better",
}
LARGEST_MATRIX = 24  # classes; a larger matrix is a list of its most frequent confusions
PAIRS = 20  # in that list
OPEN_ROWS = 12  # longer tables start collapsed
REJECTED_ROWS = 200  # in the page; the whole table is an artifact of the step


@dataclass(frozen=True)
class ReportData:
    """What the page says.

    `thumbnails` (PNG or JPEG as bytes, or text) belong to `evaluation.mistakes` one by one and may be missing;
    `champion` holds `version`, `accuracy`, `wins`, `losses` and `p`; `rejected` rows hold `uri`, `label` and `reason`;
    `dataset` is `dataset.json`; `history` and `trials` are as `components.core.reporting.charts` takes them.
    """

    title: str  # the model's name
    created: str
    decision: str  # one sentence
    accepted: bool
    evaluation: Evaluation
    dataset: Mapping[str, Any]
    champion: Mapping[str, Any] | None = None
    history: Sequence[Mapping[str, Any]] = ()
    trials: Sequence[Mapping[str, Any]] = ()
    importances: Mapping[str, float] = field(default_factory=dict)
    rejected: Sequence[Mapping[str, Any]] = ()
    thumbnails: Sequence[bytes | str] = ()
    drift: Any = None  # share, low, high, new and old, see `frozen_features.Drift`
    suspects: Sequence[Any] = ()  # label, suggested and probability, the surest first
    suspect_count: int = 0
    suspect_thumbnails: Sequence[bytes | str] = ()  # of the suspects, one by one; may be missing
    cut: str = ""  # what a deadline stopped early
    cost: str = ""  # of all steps so far
    # step, seconds, saved (None where nothing is kept), notes and, where there is a price, amount
    costs: Sequence[Mapping[str, Any]] = ()
    timeline: Sequence[Mapping[str, Any]] = ()  # version, since, until, metric, value and rows of each champion
    settings: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def render(data: ReportData) -> str:
    """The page as HTML text. All of `data` is escaped; a policy in the page forbids it any request and any script."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "words": _words, "seconds": duration}
    page = environment.get_template("page.html.j2")
    return page.render(
        data=data,
        rows=_test_rows(data),
        metric=next(iter(data.evaluation.metrics)),
        metrics=[_metric(name, data.evaluation) for name in data.evaluation.metrics],
        matrix=_matrix(data.evaluation),
        pairs=_pairs(data.evaluation),
        outside=_test_rows(data) - int(data.evaluation.confusion.sum()) if data.evaluation.confusion is not None else 0,
        classes=_classes(data.evaluation),
        mistakes=_shown(data.evaluation.mistakes, "predicted", data.thumbnails),
        suspects=_shown(data.suspects, "suggested", data.suspect_thumbnails),
        splits=_splits(data.dataset),
        phases=_phases(data.history),
        trials=_trials(data.trials),
        searched=sorted({name for trial in data.trials for name in trial["params"]}),
        pictures=_pictures(data),
        open_rows=OPEN_ROWS,
        rejected_rows=REJECTED_ROWS,
    )


def _test_rows(data: ReportData) -> int:
    """Number of test rows."""
    if data.evaluation.confusion is not None and data.evaluation.per_class is not None:  # each row has one class
        return int(data.evaluation.per_class["support"].sum())
    return int(sum(data.dataset["counts"].get("test", {}).values()))


def _metric(name: str, evaluation: Evaluation) -> dict[str, Any]:
    """A headline number: its texts, and where value, interval and baseline lie on its bar, in percent."""
    value, baseline = evaluation.metrics[name], evaluation.baseline.get(name)
    low, high = evaluation.intervals.get(name, (value, value))
    known = [number for number in (value, low, high, baseline) if number is not None and math.isfinite(number)]
    end = 1.0 if name not in LOWER_IS_BETTER and max(known, default=0) <= 1 else max(known, default=0) * 1.05 or 1.0

    def place(number: float | None) -> float | None:
        return None if number is None else round(100 * min(max(number / end, 0.0), 1.0), 2)

    return {
        "name": NAMES.get(name, _words(name).capitalize()),
        "explained": EXPLAINED.get(name, ""),
        "value": _number(value),
        "low": _number(low),
        "high": _number(high),
        "baseline": None if baseline is None else _number(baseline),
        "reference": _number(evaluation.reference[name]) if name in evaluation.reference else None,
        "end": _number(end),
        "at": place(value),
        "from": place(low),
        "width": round((place(high) or 0.0) - (place(low) or 0.0), 2),
        "baseline_at": place(baseline),
    }


def _class_names(evaluation: Evaluation) -> list[str]:
    """Names in the order of the confusion matrix."""
    if evaluation.confusion is None or evaluation.per_class is None:
        return []
    return [str(name) for name in evaluation.per_class["class"][: len(evaluation.confusion)]]


def _matrix(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Rows of the confusion matrix, each cell with its share of the true class; empty where it is too large to read."""
    names = _class_names(evaluation)
    if evaluation.confusion is None or not 0 < len(names) <= LARGEST_MATRIX:
        return []
    counts = evaluation.confusion
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return [
        {
            "name": name,
            "cells": [
                {
                    "count": int(counts[i, j]),
                    "share": round(float(shares[i, j]), 3),
                    "right": i == j,
                    "answer": names[j],
                }
                for j in range(len(names))
            ],
        }
        for i, name in enumerate(names)
    ]


def _pairs(evaluation: Evaluation) -> list[tuple[str, str, int]]:
    """The most frequent confusions: true class, answer, rows."""
    names = _class_names(evaluation)
    if evaluation.confusion is None:
        return []
    wrong = evaluation.confusion * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    places = [(int(place) // len(names), int(place) % len(names)) for place in order]
    return [(names[i], names[j], int(wrong[i, j])) for i, j in places if wrong[i, j]]


def _classes(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The per-class table, weakest F1 first: that is what a reader looks for."""
    if evaluation.per_class is None:
        return []
    rows = evaluation.per_class.sort_values("f1", kind="stable").to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]


def _shown(items: Sequence[Any], said: str, thumbnails: Sequence[bytes | str]) -> list[dict[str, Any]]:
    """Mistakes or suspects, each with its picture as a data URI or its text if there is one; `said`: other label."""
    return [
        {
            "label": m.label,
            "said": getattr(m, said),
            "percent": None if m.probability is None else round(100 * m.probability),
            "picture": _data_uri(seen) if isinstance(seen, bytes) else "",
            "text": seen if isinstance(seen, str) else "",
        }
        for m, seen in zip(items, [*thumbnails, *[""] * len(items)], strict=False)
    ]


def _data_uri(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _splits(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Examples per class and split, with sums."""
    counts: Mapping[str, Mapping[str, int]] = dataset["counts"]
    found = list(dict.fromkeys(name for split in counts.values() for name in split))
    names = list(dict.fromkeys([*dataset["classes"], *found])) if any(found) else []  # labels may hold no classes
    rows = [{"name": name, "counts": [split.get(name, 0) for split in counts.values()]} for name in names]
    most = max((sum(row["counts"]) for row in rows), default=0) or 1
    return {
        "names": list(counts),
        "rows": [
            {**row, "sum": sum(row["counts"]), "share": round(100 * sum(row["counts"]) / most, 1)} for row in rows
        ],
        "sums": [sum(split.values()) for split in counts.values()],
    }


def _phases(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A summary of each phase: its epochs, seconds, and the epoch with the lowest validation loss."""
    phases = []
    for name in dict.fromkeys(epoch["phase"] for epoch in history):
        epochs = [epoch for epoch in history if epoch["phase"] == name]
        kept = next((epoch for epoch in epochs if epoch.get("best")), min(epochs, key=lambda epoch: epoch["loss"]))
        seconds = sum(epoch.get("seconds", 0.0) for epoch in epochs)
        number = epochs.index(kept) + 1
        phases.append({"name": name, "epochs": epochs, "kept": kept, "number": number, "seconds": seconds})
    return phases


def _trials(trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The trials, best first; those without a comparable value last."""

    def rank(trial: Mapping[str, Any]) -> tuple[bool, float]:
        complete = trial["state"] == "COMPLETE" and trial["value"] is not None
        return not complete, trial["value"] if complete else trial["number"]

    return sorted(trials, key=rank)


def _pictures(data: ReportData) -> dict[str, Markup]:
    """The figures that have something to show, as inline SVG."""
    pictures = {}
    if data.history:
        pictures["learning"] = charts.learning_curves(data.history, next(iter(data.evaluation.metrics)))
    if data.evaluation.reliability is not None:
        pictures["reliability"] = charts.reliability(data.evaluation.reliability)
    if data.evaluation.numbers is not None:
        pictures["numbers"] = charts.numbers(data.evaluation.numbers)
    if data.trials:
        pictures["search"] = charts.search_history(data.trials)
    if data.importances:
        pictures["importances"] = charts.parameter_importances(data.importances)
    if any(trial["state"] == "COMPLETE" for trial in data.trials):
        pictures["parallel"] = charts.parallel_coordinates(data.trials)
    return {name: _inline(figure) for name, figure in pictures.items()}


def _inline(figure: Figure) -> Markup:
    """SVG as a page takes it: no namespace, and the size that the page gives it."""
    opening, rest = charts.to_svg(figure).split(">", 1)
    opening = re.sub(r' (?:xmlns|width|height|version)="[^"]*"', "", opening)
    return Markup(f"{opening}>{rest}")  # noqa: S704 - matplotlib has escaped the texts in it


def _number(value: float | str | None) -> str:
    """Three decimals for a figure, four digits for a small one; whole numbers and text as they are."""
    if value is None:
        return "–"  # noqa: RUF001 - an en dash, as tables print it
    if isinstance(value, bool | str | int):
        return str(value)
    if abs(value) >= 0.01 or abs(value) < 1e-9:  # noqa: PLR2004 - three decimals lose no digits, or only rounding errors
        return f"{value:.3f}"
    return f"{value:.3g}"


def _words(name: str) -> str:
    return name.replace("_", " ")
