"""The picture: how many times Thawline's time each peer took, a panel for each set of pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from components.core.reporting.charts import ACCENT, INK, MUTED, PAPER, RULE, WARM, WIDTH, to_svg
from tests.benchmarks.compare.rows import Record, Spread, compared, phase_figures

COLOURS = {"plain": ACCENT, "plain-kept": INK, "fastai": WARM, "lightning": MUTED}


def picture(records: Sequence[Record]) -> str:
    """An SVG of the ratios of parts 1 and 2: a dot at the median, a line from the least to the greatest."""
    panels: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for (data, name), systems in phase_figures(records).items():
        if rows := [row for row in compared(systems) if row["ratio"]]:
            panels.setdefault(data, {})[name] = rows
    if not panels:
        return ""
    heights = [1.2 + 0.42 * len(scenarios) for scenarios in panels.values()]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained", facecolor=PAPER)
    axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axis, (data, scenarios) in zip(axes, panels.items(), strict=True):
        _panel(axis, data, scenarios)
    return to_svg(figure)


def _panel(axis: Any, data: str, scenarios: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for place, rows in enumerate(scenarios.values()):
        for shift, row in enumerate(rows):
            ratio: Spread = row["ratio"]
            height, colour = place + 0.16 * (shift - 1.5), COLOURS[row["system"]]
            axis.plot([ratio.low, ratio.high], [height] * 2, color=colour, linewidth=2)
            axis.plot([ratio.median], [height], "o", color=colour, markersize=5, label="" if place else row["system"])
    axis.set_title(f"Times Thawline's time: {data}", loc="left", fontsize=10, color=INK, fontweight="bold", pad=22)
    axis.set_yticks(range(len(scenarios)), [_short(name) for name in scenarios], color=INK)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.axvline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axis.spines[:].set_visible(False)
    axis.tick_params(which="both", length=0, colors=MUTED, labelsize=9)
    axis.xaxis.set_major_formatter(lambda value, _place: f"{value:g}")
    axis.xaxis.set_minor_formatter(lambda value, _place: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
    axis.grid(axis="x", color=RULE, linewidth=0.8)
    axis.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=4,
        frameon=False,
        fontsize=8,
        columnspacing=1.0,
        handletextpad=0.2,
        labelcolor=MUTED,
    )


def _short(name: str) -> str:
    head, _, thawed = name.partition(", then ")
    return f"head + {thawed.split(' thawed')[0]}" if thawed else head
