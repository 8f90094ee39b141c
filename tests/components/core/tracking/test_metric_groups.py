"""Names of metrics in MLflow."""

import math

from components.core.tracking import metric_groups
from components.core.tracking.metric_groups import DATA, INTERVAL, TEST, beside_test, group, of_epoch

NAMES = ["accuracy", "accuracy_low", "baseline_accuracy", "probe_accuracy", "drift"]


def test_an_epochs_figures_are_grouped() -> None:
    """Those of training and those on validation rows stand apart, and the epoch is no metric but their step."""
    figures = {"epoch": 3, "train_loss": 0.5, "loss": 0.7, "macro_f1": 0.8, "learning_rate": 0.1, "seconds": 2.0}
    grouped = {"train/loss": 0.5, "val/loss": 0.7, "val/macro_f1": 0.8}
    assert of_epoch(figures) == {**grouped, "train/learning_rate": 0.1, "train/seconds": 2.0}
    assert metric_groups.of_kept({**figures, "best": True, "phase": "head"}) == grouped


def test_a_result_has_plain_names() -> None:
    """Grouped names read as the result has them, and so do names that an earlier version logged."""
    logged = {
        **group(TEST, {"accuracy": 0.9}),
        **beside_test(INTERVAL, {"accuracy_low": 0.8}),
        **beside_test("baseline", {"accuracy": 0.2}),
        **beside_test("probe", {"accuracy": 0.85}),
        **group(DATA, {"drift": 0.1}),
    }
    earlier = {name.replace("test_", ""): value for name, value in logged.items()}
    for names in (logged, earlier, dict(zip(NAMES, logged.values(), strict=True))):
        assert metric_groups.of_result(names) == dict(zip(NAMES, logged.values(), strict=True))


def test_a_result_has_figures_on_test_rows_of_drift_and_of_reuse() -> None:
    """What the pipeline's run has for comparisons stays out, as does what is undefined."""
    others = ["time/seconds", "time/price", "cost_seconds", "cost", "train/loss", "val/accuracy", "data/examples"]
    figures = {**dict.fromkeys(others, 1.0), "test/accuracy": math.nan}
    kept = {"time/saved_seconds_search": 2.0, "saved_seconds": 3.0, "data/drift_low": 0.1}
    found = {"saved_seconds_search": 2.0, "saved_seconds": 3.0, "drift_low": 0.1}
    assert metric_groups.of_result(figures | kept) == found


def test_seconds_of_earlier_versions_are_read() -> None:
    """A step's and a run's seconds, by the names of then and now; none is None."""
    for name in ("time/seconds", "step_seconds", "cost_seconds"):
        assert metric_groups.seconds({name: 2.0, "test/accuracy": 1.0}) == 2.0
    assert metric_groups.seconds({}) is None
    assert metric_groups.saved({"time/saved_seconds": 1.0}) == metric_groups.saved({"saved_seconds": 1.0}) == 1.0
