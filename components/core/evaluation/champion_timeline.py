"""Was it worth retraining? What earlier champions are worth on today's test rows."""

import tempfile
from pathlib import Path
from typing import Any

from components.core.errors import ExpectedError
from components.core.evaluation.comparison import Contestant, comparable, contestant
from components.core.fitting.data import Data
from components.core.registry import ledger, versions
from components.core.tracking import runs

REIGNS = 6  # champions of the timeline, the latest ones; each that still has to answer costs seconds


def timeline(data: Data, run: runs.StepRun, champion: tuple[str, Contestant] | None) -> list[dict[str, Any]]:
    """The champions of the model, newest first, each with its figure on today's test rows that it was not trained on.

    Args:
        data: The prepared data.
        run: The step.
        champion: Version and answers of the champion, which need not be asked again; None without one.
    """
    if champion is None:
        return []
    known, rows = {champion[0]: champion[1]}, []
    for reign in ledger.history(run.settings.model)[:REIGNS]:
        version = reign["version"]
        if version not in known:
            answers = _recalled(data, run, version)
            if answers is None:
                continue
            known[version] = answers
        value, count = _figure(data, known[version])
        times = {"since": reign["from"][:16].replace("T", " "), "until": reign["until"][:16].replace("T", " ")}
        rows.append({"version": version, **times, "metric": data.target.metrics[0].name, "value": value, "rows": count})
    return rows


def _recalled(data: Data, run: runs.StepRun, version: str) -> Contestant | None:
    try:
        with tempfile.TemporaryDirectory() as folder:
            path, _ = versions.fetch(run.settings.model, version, Path(folder))
            return contestant(path, path / "checkpoint", data, run, f"earlier champion {version}")
    except ExpectedError as error:
        run.note(f"The earlier champion, version {version}, is left out of the timeline: {error.sentence}")
        return None


def _figure(data: Data, one: Contestant) -> tuple[float, int]:
    """The metric on the test rows that the model was not trained on and whose class it knows, and their number."""
    labels = data.examples.labels(data.rows["test"])
    kept = comparable(data, one.trained_on, set(one.classes))
    if not kept:
        return float("nan"), 0
    answers = one.answers.iloc[kept].reset_index(drop=True)
    metric = data.target.metrics[0]
    if metric.features is None or metric.figure is None:
        return float("nan"), len(kept)
    features = metric.features(answers, [labels[i] for i in kept], one.classes)
    return float(metric.figure(features.sum(0)[None])[0]), len(kept)
