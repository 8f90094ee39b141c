"""The prepared data as training sees them."""

from pathlib import Path

from components.core.fitting.data import open_data
from components.core.settings import Settings
from tests.conftest import TOY

SETTINGS = Settings(**TOY)


def test_calibration_rows_are_never_seen(toy_dataset: Path) -> None:
    """Search and early stopping look at train and validation; calibrate and test share no row with them."""
    data = open_data(toy_dataset, SETTINGS)
    seen = set(data.rows["train"]) | set(data.rows["validation"])
    assert set(data.targets) == {"train", "validation"}
    assert not seen & (set(data.rows["calibrate"]) | set(data.rows["test"]))


def test_balanced_weights_reach_the_loss(home: Path, toy_dataset: Path) -> None:
    """--class-weights balanced gives a weight per class; without it there is none."""
    weighted = open_data(toy_dataset, SETTINGS.model_copy(update={"class_weights": "balanced"}))
    assert weighted.class_weights is not None
    assert len(weighted.class_weights) == 3
    assert open_data(toy_dataset, SETTINGS).class_weights is None
