"""Figures draw what they are given, and their SVG fits into any page."""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from components.core.reporting import charts

HOSTILE = "<script>alert(1)</script> & $\\frac{$"

HISTORY: list[dict[str, Any]] = [
    {"phase": phase, "epoch": epoch, "train_loss": 1 / (epoch + 1), "loss": 1.5 / (epoch + 1), "accuracy": 0.5}
    | {"learning_rate": 1e-3, "seconds": 0.5, "best": float(epoch == 2)}
    for phase in ("head", "thaw")
    for epoch in range(3)
]
TRIALS: list[dict[str, Any]] = [
    {"number": 0, "state": "COMPLETE", "value": 0.9, "params": {"rate": 1e-4, "thaw": 0}, "seconds": 1.0, "epochs": 3},
    {"number": 1, "state": "PRUNED", "value": 1.4, "params": {"rate": 1e-1, "thaw": 1}, "seconds": 1.0, "epochs": 1},
    {"number": 2, "state": "FAIL", "value": None, "params": {}, "seconds": 0.1, "epochs": 0},
    {"number": 3, "state": "COMPLETE", "value": 0.6, "params": {"rate": 1e-2, "thaw": 2, "decay": 0.5}}
    | {"seconds": 2.0, "epochs": 6},
    {"number": 4, "state": "RUNNING", "value": None, "params": {"rate": 1e-3}, "seconds": 0.0, "epochs": 0},
]
RELIABILITY = pd.DataFrame({"bin": [5, 14], "confidence": [0.4, 0.97], "right": [0.5, 0.9], "count": [4, 40]})

FULL: dict[str, Callable[[], Figure]] = {
    "learning_curves": lambda: charts.learning_curves(HISTORY, "accuracy"),
    "confusion_matrix": lambda: charts.confusion_matrix(np.array([[5, 1], [0, 3]]), ["cat", "dog"]),
    "reliability": lambda: charts.reliability(RELIABILITY),
    "search_history": lambda: charts.search_history(TRIALS),
    "parameter_importances": lambda: charts.parameter_importances({"rate": 0.8, "thaw": 0.2}),
    "parallel_coordinates": lambda: charts.parallel_coordinates(TRIALS),
}
SPARSE: dict[str, Callable[[], Figure]] = {
    "no history": lambda: charts.learning_curves([], "accuracy"),
    "one epoch": lambda: charts.learning_curves(HISTORY[:1], "accuracy"),
    "no accuracy": lambda: charts.learning_curves([{"phase": "head", "train_loss": 1.0, "loss": 2.0}] * 2, "accuracy"),
    "diverged": lambda: charts.learning_curves(
        [*HISTORY, HISTORY[-1] | {"loss": math.nan, "train_loss": math.inf}], "accuracy"
    ),
    "no rows": lambda: charts.confusion_matrix(np.zeros((2, 2), dtype=int), ["cat", "dog"]),
    "many classes": lambda: charts.confusion_matrix(np.eye(80, dtype=int), [f"class {i}" for i in range(80)]),
    "no bins": lambda: charts.reliability(RELIABILITY[:0]),
    "no trials": lambda: charts.search_history([]),
    "only failed": lambda: charts.search_history(TRIALS[2:3]),
    "no importances": lambda: charts.parameter_importances({}),
    "zero importances": lambda: charts.parameter_importances({"rate": 0.0}),
    "no coordinates": lambda: charts.parallel_coordinates([]),
    "one trial": lambda: charts.parallel_coordinates(TRIALS[:1]),
}


def texts(svg: str) -> list[str]:
    """What a reader reads in the figure."""
    return [element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314 - ours


@pytest.mark.parametrize("name", FULL)
def test_svg_is_deterministic_and_self_contained(name: str) -> None:
    """Equal figures give equal SVG, which is well-formed, undated and refers to nothing outside."""
    svg = charts.to_svg(FULL[name]())
    assert svg == charts.to_svg(FULL[name]())
    assert texts(svg)
    assert re.findall(r"https?://[^\"]*", svg) == ["http://www.w3.org/2000/svg"]
    assert "<metadata" not in svg
    assert not re.search(r'href="(?!#)|url\((?!#)', svg)


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_data_draws_without_warning(name: str) -> None:
    """A figure with next to nothing to show is drawn all the same."""
    assert charts.to_svg(SPARSE[name]()).startswith("<svg")


def test_colours_are_variables_of_the_page() -> None:
    """Every colour of the palette can be themed; its own value is the fallback."""
    svg = charts.to_svg(FULL["search_history"]())
    assert f"var(--accent, {charts.ACCENT})" in svg
    for colour in (charts.INK, charts.MUTED, charts.RULE, charts.ACCENT, charts.WARM):
        assert not re.search(rf"(?:fill|stroke): {colour}", svg)


def test_ids_differ_between_figures() -> None:
    """Two figures in one page share no id, and each finds its own."""
    ids = {name: set(re.findall(r'\bid="([^"]+)"', charts.to_svg(draw()))) for name, draw in FULL.items()}
    assert sum(map(len, ids.values())) == len(set().union(*ids.values()))
    svg = charts.to_svg(FULL["learning_curves"]())
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    assert used
    assert used <= ids["learning_curves"]


def test_hostile_names_stay_text() -> None:
    """A name with markup or half a formula is shown as it is."""
    svg = charts.to_svg(charts.confusion_matrix(np.eye(2, dtype=int), [HOSTILE, "dog"]))
    assert "<script" not in svg
    assert HOSTILE in texts(svg)
    assert HOSTILE in texts(charts.to_svg(charts.parameter_importances({HOSTILE: 0.5})))


def test_learning_curves_show_both_phases() -> None:
    """Losses and accuracy run over the epochs of both phases, and the second phase is marked where it begins."""
    loss, accuracy = charts.learning_curves(HISTORY, "accuracy").axes
    training, validation = (line for line in loss.lines if line.get_label() in ("training", "validation"))
    assert np.asarray(training.get_xdata()).tolist() == [1, 2, 3, 4, 5, 6]
    assert np.asarray(validation.get_ydata()).tolist() == [epoch["loss"] for epoch in HISTORY]
    kept = next(line for line in loss.lines if line.get_label() == "weights kept")
    assert np.asarray(kept.get_xdata()).tolist() == [3, 6]
    assert [text.get_text() for text in loss.texts] == ["thaw"]
    assert len(accuracy.lines) >= 1


def test_search_history_ignores_pruned_trials_in_the_best() -> None:
    """The best so far falls only with complete trials; a pruned one is drawn apart, a failed one not at all."""
    axis = charts.search_history([*TRIALS, TRIALS[1] | {"number": 5, "value": 0.1}]).axes[0]
    assert np.asarray(axis.lines[0].get_ydata()).tolist() == [0.9, 0.6]
    complete, pruned = axis.collections
    assert np.asarray(complete.get_offsets()).tolist() == [[0, 0.9], [3, 0.6]]
    assert np.asarray(pruned.get_offsets()).tolist() == [[1, 1.4], [5, 0.1]]


def test_parallel_coordinates_place_values_on_their_scales() -> None:
    """A rate over several decades lies on a logarithmic axis; the best trial is the line that stands out."""
    trials = [*TRIALS, TRIALS[0] | {"number": 6, "value": 0.7, "params": {"rate": 1e-3, "thaw": 1}}]
    axis = charts.parallel_coordinates(trials).axes[0]
    lines = [line for line in axis.lines if line.get_marker() == "o"]
    names = ["decay", "rate", "thaw", "validation loss"]
    assert [label.get_text() for label in axis.get_yticklabels()] == names
    best = lines[-1]
    assert best.get_color() == charts.WARM
    assert [line.get_color() for line in lines[:-1]] == [charts.ACCENT] * 2
    assert np.asarray(lines[1].get_xdata()).tolist() == pytest.approx([0.5, 0.5, 1 / 3])  # 1e-3 of 1e-4 to 1e-2


def test_no_global_figures_are_left() -> None:
    """Drawing leaves nothing in pyplot's list, which would grow in a long process."""
    before = plt.get_fignums()
    for draw in FULL.values():
        charts.to_svg(draw())
    assert plt.get_fignums() == before
