"""Folds of the training and validation rows."""

from collections import Counter
from pathlib import Path

import pytest

from components.core.fitting import folds
from components.core.fitting.data import open_data
from components.core.fitting.folds import fold_of_rows, held_out, joined, pooled
from components.core.settings import Settings
from tests.conftest import TOY


def test_every_class_is_spread_over_the_folds() -> None:
    """Each fold holds as many rows of each class, up to one."""
    strata = ["a"] * 10 + ["b"] * 7
    folds = fold_of_rows([str(i) for i in range(17)], strata, 3)
    for name in "ab":
        sizes = Counter(int(fold) for fold, own in zip(folds, strata, strict=True) if own == name)
        assert max(sizes.values()) - min(sizes.values()) <= 1


def test_groups_stay_whole() -> None:
    """All rows of a group are in one fold."""
    units = [f"group {i // 4}" for i in range(40)]
    folds = fold_of_rows(units, ["a"] * 40, 5)
    assert len(set(zip(units, folds.tolist(), strict=True))) == 10


def test_the_only_group_of_a_class_is_never_held_out() -> None:
    """A class with one group would be unknown to the model that is to answer it."""
    folds = fold_of_rows(["1", "2", "3", "x", "x"], ["a", "a", "a", "b", "b"], 2)
    assert folds.tolist()[3:] == [-1, -1]
    assert min(folds.tolist()[:3]) >= 0


def test_a_class_within_one_mixed_group_is_never_held_out() -> None:
    """Where all rows of a class are in a group of several classes, that group stays in every fold's training rows."""
    folds = fold_of_rows(["1", "2", "3", "x", "x"], ["a", "a", "a", "a", "b"], 2)
    assert folds.tolist()[3:] == [-1, -1]


def test_folds_depend_on_names_alone() -> None:
    """Another order of the rows gives the same folds; another purpose gives others."""
    units, strata = [str(i) for i in range(40)], ["ab"[i % 2] for i in range(40)]
    folds = fold_of_rows(units, strata, 4)
    turned = fold_of_rows(units[::-1], strata[::-1], 4)
    assert folds.tolist() == turned.tolist()[::-1]
    assert folds.tolist() != fold_of_rows(units, strata, 4, "other").tolist()


def test_held_out_rows_are_never_trained_on(toy_dataset: Path) -> None:
    """Every training and validation row is validated once, no test row ever, and targets follow their rows."""
    data = open_data(toy_dataset, Settings(**TOY))
    parts = held_out(data, 3, "")
    everything = sorted(data.rows["train"] + data.rows["validation"])
    assert sorted(row for part in parts for row in part.rows["validation"]) == everything
    for part in parts:
        assert sorted(part.rows["train"] + part.rows["validation"]) == everything
        labels = part.examples.labels(part.rows["validation"])
        assert part.targets["validation"].tolist() == data.target.targets(labels, data.examples.classes).tolist()


def test_pooled_rows_leave_nothing_to_validate(toy_dataset: Path) -> None:
    """Training and validation rows together become training rows."""
    data = open_data(toy_dataset, Settings(**TOY))
    whole = pooled(data)
    assert whole.rows["train"] == data.rows["train"] + data.rows["validation"]
    assert (whole.rows["validation"], len(whole.targets["validation"])) == ([], 0)
    assert whole.rows["test"] == data.rows["test"]


def test_rows_that_calibrate_join_those_that_validate(toy_dataset: Path) -> None:
    """Together they are the validation rows, with their targets, and nothing is left to calibrate by."""
    data = open_data(toy_dataset, Settings(**TOY))
    whole = joined(data)
    assert whole.rows["validation"] == data.rows["validation"] + data.rows["calibrate"]
    labels = data.examples.labels(whole.rows["validation"])
    assert whole.targets["validation"].tolist() == data.target.targets(labels, data.examples.classes).tolist()
    assert whole.rows["calibrate"] == []
    assert {split: whole.rows[split] for split in ("train", "test")} == {s: data.rows[s] for s in ("train", "test")}


def test_rows_stay_apart_where_folds_could_not_calibrate(toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows, views of rows, and units that can't be held out leave the rows that calibrate alone."""
    data = open_data(toy_dataset, Settings(**TOY))
    viewed = open_data(toy_dataset, Settings(**{**TOY, "views": 2, "augment": "basic"}))
    assert joined(viewed) is viewed
    with monkeypatch.context() as patched:
        patched.setattr(folds, "ENOUGH", 1)
        assert joined(data) is data
    monkeypatch.setattr(folds, "units_and_strata", lambda _, rows: (["one"] * len(rows), ["a"] * len(rows)))
    assert joined(data) is data
