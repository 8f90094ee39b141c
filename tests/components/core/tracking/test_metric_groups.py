"""Names of metrics in MLflow."""

from components.core.tracking.metric_groups import DATA, INTERVAL, TEST, group, of_epoch, plain


def test_an_epochs_figures_are_grouped() -> None:
    """Those of training and those on validation rows stand apart, and the epoch is no metric but their step."""
    figures = {"epoch": 3, "train_loss": 0.5, "loss": 0.7, "macro_f1": 0.8, "learning_rate": 0.1, "seconds": 2.0}
    assert of_epoch(figures) == {
        "train/loss": 0.5,
        "val/loss": 0.7,
        "val/macro_f1": 0.8,
        "train/learning_rate": 0.1,
        "train/seconds": 2.0,
    }


def test_a_result_has_plain_names() -> None:
    """Grouped names read as the result has them, and so do names that an earlier version logged."""
    logged = {
        **group(TEST, {"accuracy": 0.9}),
        **group(INTERVAL, {"accuracy_low": 0.8}),
        **group("baseline", {"accuracy": 0.2}),
        **group("probe", {"accuracy": 0.85}),
        **group(DATA, {"drift": 0.1}),
    }
    names = ["accuracy", "accuracy_low", "baseline_accuracy", "probe_accuracy", "drift"]
    assert [plain(name) for name in logged] == names
    assert [plain(name) for name in [*names, "saved_seconds"]] == [*names, "saved_seconds"]
