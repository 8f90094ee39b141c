"""Figures of a run, for MLflow and the report: one function each, one palette, no global state."""

import hashlib
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from components.core.contract import metric_names

Array: TypeAlias = np.ndarray[Any, Any]
Epochs: TypeAlias = Sequence[Mapping[str, Any]]
Trials: TypeAlias = Sequence[Mapping[str, Any]]

# Each colour stands for a role; `to_svg` turns it into a CSS variable of that name, so a page can theme the figure.
PAPER, INK, MUTED, RULE, ACCENT, WARM = "#ffffff", "#1b1f24", "#5b6572", "#d8dce1", "#0b6e8f", "#b4531c"
ROLES = {"paper": PAPER, "ink": INK, "muted": MUTED, "rule": RULE, "accent": ACCENT, "warm": WARM}

WIDTH = 5.0  # inches, 480 CSS pixels: text stays readable on a phone, where a page scales figures down
LOG_FROM = 20  # a positive range with a larger ratio of its ends is drawn on a logarithmic scale
HOVER = "hover: "  # what the id of an explained point begins with
MOST_NAMED = 30  # classes; the names and counts of more would overlap


def learning_curves(history: Epochs, metric: str) -> Figure:
    """Losses above, a metric of the validation rows (where there is one) below, over the epochs of both phases.

    Args:
        history: Per epoch `phase` (head or thaw), `train_loss`, `loss` (validation), `best`, maybe the metric.
        metric: Its name.
    """
    panels = 2 if any(metric in epoch for epoch in history) else 1
    figure = _figure(2.2 * panels + 0.4)
    axes: list[Axes] = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
    steps = np.arange(1, len(history) + 1)
    marker = "o" if len(history) == 1 else ""
    lines = [(axes[0], "train_loss", "training", MUTED), (axes[0], "loss", "validation", ACCENT)]
    if panels == 2:  # noqa: PLR2004 - the second panel
        lines.append((axes[1], metric, "validation", ACCENT))
    for axis, key, label, colour in lines:
        values = _column(history, key)
        axis.plot(steps, values, color=colour, label=label, marker=marker, linewidth=1.8)
        what = f"{label} loss" if axis is axes[0] else f"validation {metric_names.label(metric)}"
        _explain(
            axis,
            steps,
            values,
            [f"epoch {step}: {what} {value:.4g}" for step, value in zip(steps, values, strict=True)],
        )
        kept = [i for i, epoch in enumerate(history) if epoch.get("best") and colour == ACCENT]
        axis.plot(steps[kept], values[kept], "o", color=ACCENT, markersize=6, label="weights kept" if kept else None)
    for axis, title in zip(axes, ("Loss", f"Validation {metric_names.label(metric)}"), strict=False):
        _style(axis, title)
        _mark_phases(axis, [str(epoch["phase"]) for epoch in history], named=axis is axes[0])
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes[-1].set_xlabel("epoch", color=MUTED)
    axes[-1].set_xlim(0.5, max(len(history), 1) + 0.5)
    _legend(axes[0])
    return figure


def confusion_matrix(counts: Array, classes: Sequence[str]) -> Figure:
    """Rows of each true class by the answer given; shaded by the share of the true class.

    Args:
        counts: int[true, predicted].
        classes: Their names, in the same order.
    """
    named = len(classes) <= MOST_NAMED
    figure = _figure(max(WIDTH, 0.34 * len(classes)) if named else WIDTH)
    axis = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    shades = LinearSegmentedColormap.from_list("shades", [PAPER, ACCENT])
    axis.pcolormesh(shares, cmap=shades, vmin=0, vmax=1, edgecolors=RULE if named else "none", linewidth=0.5)
    _style(axis, "")
    axis.set_xlabel("answer", color=MUTED)
    axis.set_ylabel("true class", color=MUTED)
    axis.set_aspect("equal")
    axis.invert_yaxis()
    axis.grid(visible=False)
    axis.set_xticks([])
    axis.set_yticks([])
    if named:
        middles = np.arange(len(classes)) + 0.5
        axis.set_xticks(middles, classes, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axis.set_yticks(middles, classes, parse_math=False)
        for true, answer in zip(*np.nonzero(counts), strict=True):
            colour = PAPER if shares[true, answer] > 0.5 else INK  # noqa: PLR2004 - the middle of the shades
            axis.text(answer + 0.5, true + 0.5, str(counts[true, answer]), color=colour, ha="center", va="center")
    return figure


def numbers(frame: pd.DataFrame) -> Figure:
    """Predicted against true numbers, a dot per test row; on the dashed line they are equal.

    Args:
        frame: Columns `true` and `predicted`.
    """
    figure = _figure(4.4)
    axis = figure.subplots()
    ends = [float(frame.to_numpy().min()), float(frame.to_numpy().max())]
    axis.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axis.scatter(frame["true"], frame["predicted"], s=14, color=ACCENT, alpha=0.6, linewidths=0, zorder=3)
    _style(axis, "Predicted against true")
    axis.set_xlabel("true", color=MUTED)
    axis.set_ylabel("predicted", color=MUTED)
    return figure


def reliability(frame: pd.DataFrame) -> Figure:
    """Share of right answers against confidence per calibration bin, the area of a dot being its rows.

    Args:
        frame: Columns `confidence`, `right`, `count`, a row per bin that has rows.
    """
    figure = _figure(4.6)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axis.text(0.03, 0.07, "calibrated", color=MUTED, rotation=40, rotation_mode="anchor")
    axis.vlines(frame["confidence"], frame["confidence"], frame["right"], color=WARM, linewidth=1.2)
    sizes = 30 + 420 * frame["count"] / max(frame["count"].sum(), 1)
    axis.scatter(frame["confidence"], frame["right"], s=sizes, color=ACCENT, zorder=3)
    _style(axis, "Share of right answers")
    axis.set(xlim=(0, 1.05), ylim=(-0.05, 1.07))
    axis.set_xlabel("confidence of the answer", color=MUTED)
    return figure


def precision_recall(frame: pd.DataFrame) -> Figure:
    """Precision at each recall, a line for each IoU threshold.

    Args:
        frame: Columns `iou`, `recall`, `precision`.
    """
    figure = _figure(4.4)
    axis = figure.subplots()
    for (threshold, rows), color, dash in zip(
        frame.groupby("iou"), (ACCENT, WARM, MUTED), ("-", (0, (5, 2)), (0, (2, 2))), strict=False
    ):
        axis.plot(rows["recall"], rows["precision"], color=color, linestyle=dash, linewidth=2, label=f"IoU {threshold}")
    _style(axis, "Precision")
    axis.set(xlim=(0, 1.02), ylim=(0, 1.04))
    axis.set_xlabel("recall", color=MUTED)
    _legend(axis)
    return figure


def search_history(trials: Trials) -> Figure:
    """Validation loss of each trial in the order of their numbers, and the best so far.

    Args:
        trials: `number`, `state`, `value` (None for a failed one).
    """
    figure = _figure(3.4)
    axis = figure.subplots()
    complete = sorted(_complete(trials), key=lambda trial: int(trial["number"]))
    pruned = [trial for trial in trials if trial["state"] == "PRUNED" and _finite(trial["value"])]
    if complete:
        best = np.minimum.accumulate(_column(complete, "value"))
        axis.step(_column(complete, "number"), best, where="post", color=WARM, linewidth=1.5, label="best so far")
    for some, label, face in ((complete, "complete", ACCENT), (pruned, "pruned", "none")):
        if some:
            x, y = _column(some, "number"), _column(some, "value")
            axis.scatter(x, y, s=38, facecolors=face, edgecolors=ACCENT, linewidths=1.4, label=label, zorder=3)
            _explain(axis, x, y, [f"trial {n:.0f}, {label}: loss {loss:.4g}" for n, loss in zip(x, y, strict=True)])
    _style(axis, "Validation loss")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set_xlabel("trial", color=MUTED)
    _legend(axis)
    return figure


def parameter_importances(importances: Mapping[str, float]) -> Figure:
    """Share of the difference between trials that each hyperparameter explains."""
    ranked = sorted(importances.items(), key=lambda item: item[1])
    figure = _figure(1.0 + 0.32 * max(len(ranked), 1))
    axis = figure.subplots()
    places = range(len(ranked))
    axis.barh(places, [share for _, share in ranked], height=0.62, color=ACCENT)
    for place, (_, share) in zip(places, ranked, strict=True):
        axis.text(share + 0.01, place, f"{share:.2f}", color=MUTED, va="center")
    _style(axis, "")
    axis.set_yticks(places, [_words(name) for name, _ in ranked], color=INK, parse_math=False)
    axis.grid(visible=False)
    axis.set(xlim=(0, max([share for _, share in ranked], default=0.0) * 1.15 or 1.0))
    axis.set_xticks([])
    return figure


def parallel_coordinates(trials: Trials) -> Figure:
    """A line per complete trial through its hyperparameters down to its validation loss; the best one stands out.

    Its axes lie flat, one below the other, so that their names stay readable in a narrow column.
    """
    complete = sorted(_complete(trials), key=lambda trial: -float(trial["value"]))
    names = sorted({name for trial in complete for name in trial["params"]})
    rows = [{**trial["params"], "validation_loss": trial["value"]} for trial in complete]
    figure = _figure(0.8 + 0.52 * (len(names) + 1))
    axis = figure.subplots()
    places = {name: -float(place) for place, name in enumerate([*names, "validation_loss"])}
    scales = {name: _scale([float(row[name]) for row in rows if name in row]) for name in places if rows}
    for name, (low, high, _) in scales.items():
        axis.plot([0, 1], [places[name]] * 2, color=RULE, linewidth=1)
        for end, value, side in ((-0.03, low, "right"), (1.03, high, "left")):
            axis.text(end, places[name], _short(value), color=MUTED, va="center", ha=side, fontsize=8)
    for row, trial in zip(rows, complete, strict=True):
        held = [name for name in places if name in row]  # a trial without thawing has no thaw rate
        points = [_place(float(row[name]), *scales[name]) for name in held]
        line = axis.plot(points, [places[name] for name in held], color=ACCENT, alpha=0.5, marker="o", markersize=4)
        if trial is complete[-1]:
            line[0].set(color=WARM, alpha=1, linewidth=2.4, zorder=3)
    _style(axis, "")
    axis.set_yticks(list(places.values()), [_words(name) for name in places], color=INK, parse_math=False)
    axis.tick_params(axis="y", pad=36)  # room for the lower ends
    axis.grid(visible=False)
    axis.set_xticks([])
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as one `<svg>` element: equal figures give equal text; nothing outside it is needed.

    Text stays text in the page's own sans-serif font, the ground is transparent, and each colour of the palette becomes
    `var(--NAME, #rrggbb)`. Ids carry a digest of the content, so that several figures fit into one page.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "thawline"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(rf'<g id="{HOVER}([^"]*)">', r'<g class="point"><title>\1</title>', text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = text.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href")
    text = re.sub(r"(font: [^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1system-ui, -apple-system, 'Segoe UI', sans-serif", text)
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\g<1>f{mark}-", text)
    for role, colour in ROLES.items():
        text = re.sub(rf"((?:fill|stroke): ){colour}", rf"\1var(--{role}, {colour})", text)
    return text


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), layout="constrained", facecolor=PAPER)


def _style(axis: Axes, title: str) -> None:
    """The common look: a title instead of a rotated label, a light horizontal grid, no box."""
    axis.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, colors=MUTED, labelsize=9)
    axis.grid(axis="y", color=RULE, linewidth=0.8)
    axis.set_axisbelow(True)


def _explain(axis: Axes, x: Array, y: Array, texts: Sequence[str]) -> None:
    """Give points a text that a page shows where the pointer rests on them; in a picture nothing changes."""
    for place, height, text in zip(x, y, texts, strict=True):
        if math.isfinite(height):
            axis.plot([place], [height], "o", color=ACCENT, markersize=9, alpha=0, gid=f"{HOVER}{text}")


def _legend(axis: Axes) -> None:
    """A legend above the plot, where it can't hide a line."""
    if axis.get_legend_handles_labels()[1]:
        axis.legend(
            loc="lower right",
            bbox_to_anchor=(1, 1),
            borderaxespad=0.2,
            ncols=3,
            columnspacing=1.2,
            handlelength=1.2,
            handletextpad=0.5,
            frameon=False,
            fontsize=9,
            labelcolor=MUTED,
        )


def _mark_phases(axis: Axes, phases: Sequence[str], *, named: bool) -> None:
    """A line where one phase ends and the next begins."""
    for step in range(1, len(phases)):
        if phases[step] != phases[step - 1]:
            axis.axvline(step + 0.5, color=WARM, linewidth=1.2, linestyle=(0, (2, 2)))
            if named:
                place = axis.get_xaxis_transform()
                axis.text(step + 0.6, 0.98, phases[step], color=WARM, va="top", transform=place, parse_math=False)


def _complete(trials: Trials) -> list[Mapping[str, Any]]:
    return [trial for trial in trials if trial["state"] == "COMPLETE" and _finite(trial["value"])]


def _column(rows: Iterable[Mapping[str, Any]], key: str) -> Array:
    return np.array([row.get(key, math.nan) for row in rows], dtype=np.float64)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _scale(values: Sequence[float]) -> tuple[float, float, bool]:
    """Ends of an axis, and whether it is logarithmic."""
    low, high = min(values), max(values)
    return low, high, low > 0 and high / low > LOG_FROM


def _place(value: float, low: float, high: float, logarithmic: bool) -> float:  # noqa: FBT001 - a part of `_scale`
    """Place a value on its axis, 0 to 1; in the middle if all are equal."""
    if low == high:
        return 0.5
    if logarithmic:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _short(value: float) -> str:
    return f"{value:.2g}" if value != int(value) else f"{value:.0f}"


def _words(name: str) -> str:
    return name.replace("_", " ")
