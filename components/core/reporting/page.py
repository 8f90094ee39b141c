"""One HTML page about a run that a person enjoys reading: self-contained, light and dark; a script sorts tables."""

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from components.core.contract.metric_names import heading, label
from components.core.contract.task import Metric
from components.core.reporting import charts
from components.core.reporting.costs import duration
from components.core.targets.evaluation import Evaluation

LARGEST_MATRIX = 24  # classes; a larger matrix is a list of its most frequent confusions
PAIRS = 20  # in that list
OPEN_ROWS = 12  # longer tables start collapsed
REJECTED_ROWS = 200  # in the page; the whole table is an artifact of the step


@dataclass(frozen=True)
class ReportData:
    """The content of the page.

    `thumbnails` (PNG or JPEG as bytes, or text) belong to `evaluation.mistakes` one by one and may be missing;
    `champion` is the evidence of a comparison, see `components.core.evidence.gate`; `rejected` rows hold `uri`, `label`
    and `reason`; `dataset` is `dataset.json`; `history` and `trials` are as `components.core.reporting.charts` takes
    them.
    """

    title: str  # the model's name
    created: str
    decision: str  # one sentence
    headline: str = field(default="", kw_only=True)  # the decision for a reader who does not test
    model: Mapping[str, str] = field(default_factory=dict, kw_only=True)  # what it is, see `evaluation.model_facts`
    accepted: bool
    evaluation: Evaluation
    dataset: Mapping[str, Any]
    metrics: Sequence[Metric] = ()  # what the figures of the evaluation are called, and which way is better
    champion: Mapping[str, Any] | None = None
    history: Sequence[Mapping[str, Any]] = ()
    thawing: str = ""  # by how much thawing helps, and how sure that is, as a sentence without a full stop
    trials: Sequence[Mapping[str, Any]] = ()
    importances: Mapping[str, float] = field(default_factory=dict)
    rejected: Sequence[Mapping[str, Any]] = ()
    thumbnails: Sequence[bytes | str] = ()
    drift: Any = None  # share, low, high, new and old, see `evaluation.drift.Drift`
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
    """The page as HTML text. All of `data` is escaped; a policy in it forbids any request, and other scripts."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "words": _words,
        "label": label,
        "seconds": duration,
        "options": _options,
    }
    script = (Path(__file__).parent / "page.js").read_text()
    page = environment.get_template("page.html.j2")
    return page.render(
        data=data,
        script=Markup(script),  # noqa: S704 - our own file
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        rows=_test_rows(data),
        metric=next(iter(data.evaluation.metrics)),
        metrics=[_metric(_known(name, data.metrics), data.evaluation) for name in data.evaluation.metrics],
        matrix=_matrix(data.evaluation),
        pairs=_pairs(data.evaluation),
        outside=_test_rows(data) - int(data.evaluation.confusion.sum()) if data.evaluation.confusion is not None else 0,
        classes=_classes(data.evaluation),
        class_figures=_class_figures(data.evaluation),
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


def _known(name: str, metrics: Sequence[Metric]) -> Metric:
    """The metric of that name; of an unknown one its name is all there is to say."""
    return next((metric for metric in metrics if metric.name == name), Metric(name))


def _metric(metric: Metric, evaluation: Evaluation) -> dict[str, Any]:
    """A headline number: its texts, and where value, interval and baseline lie on its bar, in percent."""
    name = metric.name
    value, baseline = evaluation.metrics[name], evaluation.baseline.get(name)
    low, high = evaluation.intervals.get(name, (value, value))
    known = [number for number in (value, low, high, baseline) if number is not None and math.isfinite(number)]
    end = 1.0 if metric.higher_is_better and max(known, default=0) <= 1 else max(known, default=0) * 1.05 or 1.0

    def place(number: float | None) -> float | None:
        return None if number is None else round(100 * min(max(number / end, 0.0), 1.0), 2)

    return {
        "key": name,
        "name": metric.title or heading(name),
        "explained": "; ".join(
            filter(None, [metric.explanation, "" if metric.higher_is_better else "lower is better"])
        ),
        "value": _number(value),
        "low": _number(low),
        "high": _number(high),
        "baseline": None if baseline is None else _number(baseline),
        "references": [
            (reference.name, _number(reference.metrics[name]))
            for reference in evaluation.references.values()
            if name in reference.metrics
        ],
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
    """The per-class table, the weakest by its last figure first: that is what a reader looks for."""
    if evaluation.per_class is None:
        return []
    rows = evaluation.per_class.sort_values(_class_figures(evaluation)[-1], kind="stable").to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]


def _class_figures(evaluation: Evaluation) -> list[str]:
    """The columns of the per-class table behind the class and its number of rows."""
    return [] if evaluation.per_class is None else [str(name) for name in evaluation.per_class.columns[2:]]


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
    order = ("train", "validation", "calibrate", "test")
    given: Mapping[str, Mapping[str, int]] = dataset["counts"]
    counts = {name: given[name] for name in (*order, *given) if name in given}
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
    if data.evaluation.precision_recall is not None:
        pictures["precision_recall"] = charts.precision_recall(data.evaluation.precision_recall)
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


def _options(text: object) -> Markup:
    """A text whose options are not divided at the end of a line, where a browser divides behind a hyphen."""
    return Markup(re.sub(r"--[a-z][a-z-]*", r'<span class="option">\g<0></span>', str(escape(text))))  # noqa: S704 - escaped
