"""Names of metrics in MLflow, in the groups that its pages show: `train/loss`, `val/loss`, `test/accuracy`.

A result and its readers know plain names (`accuracy`, `accuracy_low`, `baseline_accuracy`), and so do runs that earlier
versions logged: `plain` reads both.
"""

from collections.abc import Mapping

TRAIN = {"train_loss": "loss", "learning_rate": "learning_rate", "seconds": "seconds", "strength": "strength"}
TEST, INTERVAL, DATA = "test", "interval", "data"
NUMBERED = "epoch"  # is the step of its metrics


def of_epoch(figures: Mapping[str, float]) -> dict[str, float]:
    """Return an epoch's figures by the names that MLflow shows: training apart from validation rows."""
    found = {}
    for name, value in figures.items():
        if name != NUMBERED:
            found[f"train/{TRAIN[name]}" if name in TRAIN else f"val/{name}"] = value
    return found


def group(name: str, figures: Mapping[str, float]) -> dict[str, float]:
    """Return figures below the name of their group."""
    return {f"{name}/{key}": value for key, value in figures.items()}


def plain(name: str) -> str:
    """The name of a test figure in a result, by its name in MLflow, grouped or not."""
    before, slash, after = name.partition("/")
    if not slash:
        return name
    return after if before in (TEST, INTERVAL, DATA) else f"{before}_{after}"
