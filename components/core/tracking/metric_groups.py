"""Names of metrics in MLflow, in the groups that its pages show: `train/loss`, `val/loss`, `test/accuracy`.

MLflow sorts by name, so figures to be read beside those of the group `test` follow it, as in `test_interval`. A result
and its readers know plain names (`accuracy`, `accuracy_low`, `baseline_accuracy`), and so do runs that earlier versions
logged: every function that reads names knows both.
"""

import math
from collections.abc import Mapping

TRAIN = {"train_loss": "loss", "learning_rate": "learning_rate", "seconds": "seconds", "strength": "strength"}
TEST, INTERVAL, BASELINE, DATA, TIME = "test", "interval", "baseline", "data", "time"
SECONDS, PRICE, SAVED = "time/seconds", "time/price", "time/saved_seconds"
NO_METRICS = ("epoch", "best", "phase")  # of an epoch: the step of its metrics, a mark, and the step of the pipeline
IN_RESULT = ("drift", "label_suspects", "saved_seconds")  # how names of the data and of time begin that a result has
EARLIER_SECONDS, EARLIER_SAVED = ("step_seconds", "cost_seconds"), "saved_seconds"
NOT_IN_RESULT = (*EARLIER_SECONDS, "cost")


def of_epoch(figures: Mapping[str, float]) -> dict[str, float]:
    """Return an epoch's figures by the names that MLflow shows: training apart from validation rows."""
    found = {}
    for name, value in figures.items():
        if name not in NO_METRICS:
            found[f"train/{TRAIN[name]}" if name in TRAIN else f"val/{name}"] = value
    return found


def of_kept(figures: Mapping[str, float]) -> dict[str, float]:
    """Return what compares models, of the epoch whose weights were kept: its loss, and all on validation rows."""
    return {name: value for name, value in of_epoch(figures).items() if name == "train/loss" or name.startswith("val/")}


def group(name: str, figures: Mapping[str, float]) -> dict[str, float]:
    """Return figures below the name of their group."""
    return {f"{name}/{key}": value for key, value in figures.items()}


def beside_test(name: str, figures: Mapping[str, float]) -> dict[str, float]:
    """Return figures below the name of a group that follows the test rows' own."""
    return group(f"{TEST}_{name}", figures)


def plain(name: str) -> str:
    """The name of a figure in a result, by its name in MLflow, grouped or not."""
    before, slash, after = name.partition("/")
    if not slash:
        return name
    before = before.removeprefix(f"{TEST}_")
    return after if before in (TEST, INTERVAL, DATA, TIME) else f"{before}_{after}"


def of_result(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the figures of a pipeline's run that its result has, without those that are undefined (JSON has none)."""
    return {plain(name): value for name, value in metrics.items() if _is_in_result(name) and math.isfinite(value)}


def _is_in_result(name: str) -> bool:
    before, slash, after = name.partition("/")
    if not slash:
        return name not in NOT_IN_RESULT
    return before not in ("train", "val") and (before not in (DATA, TIME) or after.startswith(IN_RESULT))


def seconds(metrics: Mapping[str, float]) -> float | None:
    """The seconds of a step, or of all steps of a pipeline's run; None where nothing was logged."""
    return next((metrics[name] for name in (SECONDS, *EARLIER_SECONDS) if name in metrics), None)


def saved(metrics: Mapping[str, float]) -> float | None:
    """The seconds that reading cached activations saved in a step; None for a step that reads none."""
    return metrics.get(SAVED, metrics.get(EARLIER_SAVED))
