"""Champion and challenger on the same test rows."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from components.core.contract.task import complete_target, load_task
from components.core.data.examples import Examples
from components.core.evaluation.comparison import comparable, contest, contestant
from components.core.fitting.data import open_data
from components.core.registry.serving import agree
from components.core.settings import Settings
from components.core.targets.classification import Classification
from components.core.tracking import pyfunc
from components.core.training.checkpoints import TrainingRows
from tests.support.plain import PlainRun


def quiet(run: PlainRun) -> SimpleNamespace:
    """A step that shows nothing."""
    return SimpleNamespace(note=lambda _text: None, progress=lambda *_: None, settings=run.settings)


def answered(run: PlainRun, checkpoint: Path) -> tuple[pd.DataFrame, list[str]]:
    """Answers of the run's served model to its test rows, and what was said."""
    data = open_data(run.folder / "dataset", run.settings)
    said: list[str] = []
    step = SimpleNamespace(note=said.append, progress=lambda *_: None, settings=run.settings)
    return contestant(run.folder / "served", checkpoint, data, step, "champion").answers, said


@pytest.mark.parametrize("checkpoint", ["same", "other weights", "damaged", "missing"])
def test_the_served_model_has_the_last_word(checkpoint: str, toy_home: PlainRun, tmp_path: Path) -> None:
    """Answers are those of the served model, whether the network agrees, differs, or can't be rebuilt."""
    folder = tmp_path / "checkpoint"
    if checkpoint != "missing":
        shutil.copytree(toy_home.folder / "tuned", folder)
    if checkpoint == "other weights":
        state = load_file(folder / "network.safetensors")
        save_file({name: tensor.flip(0) for name, tensor in state.items()}, folder / "network.safetensors")
    elif checkpoint == "damaged":
        (folder / "network.safetensors").write_bytes(b"nothing")
    found, said = answered(toy_home, folder)
    examples = Examples(toy_home.folder / "dataset")
    served = pyfunc.load_pyfunc(toy_home.folder / "served")
    expected = served.predict(pd.DataFrame({"point": examples.contents(examples.rows("test"))}))
    assert agree(found, expected)
    assert [("rebuilt" in text, "differently" in text) for text in said] == {
        "same": [],
        "other weights": [(False, True)],
        "damaged": [(True, False)],
        "missing": [(True, False)],
    }[checkpoint]


def test_rows_that_the_champion_was_trained_on_are_passed_over(toy_home: PlainRun, tmp_path: Path) -> None:
    """Test rows whose ids the champion has among its training rows don't count in the comparison."""
    data = open_data(toy_home.folder / "dataset", toy_home.settings)
    one = contestant(toy_home.folder / "served", toy_home.folder / "tuned", data, quiet(toy_home), "champion")
    ids = data.examples.ids(data.rows["test"])
    knowing = replace(one, trained_on=replace(one.trained_on, fingerprints={ids[0]: "", ids[3]: "", "other": ""}))
    found = contest(knowing, one, "1", data, 0.0)
    assert (found.passed_over, found.champion.size) == (2, len(ids) - 2)
    assert contest(one, one, "1", data, 0.0).passed_over == 0


def test_every_copy_near_a_training_row_is_passed_over() -> None:
    """Test rows of equal looks are paired through one of them; the champion's training row is near to all of them."""
    prints = ["0" * 191 + "1", "f" * 192, "0" * 191 + "1"]
    columns: dict[str, list[str]] = {"fingerprint": prints}
    examples = SimpleNamespace(
        ids=lambda rows: [f"id{row}" for row in rows],
        labels=lambda rows: ["a" for _ in rows],
        column=lambda name, rows: [columns[name][row] for row in rows],
        index=SimpleNamespace(column_names=["fingerprint"]),
    )
    data: Any = SimpleNamespace(
        rows={"test": [0, 1, 2]},
        examples=examples,
        settings=Settings(),
        task=load_task("image_classification"),
        target=complete_target(Classification()),
    )
    assert comparable(data, TrainingRows({"old": prints[0]}, {}, 1), {"a"}) == [1]
    assert comparable(data, TrainingRows({"old": "0" * 192}, {}, 1), {"a"}) == [1]


def test_only_classes_that_both_know_are_compared(toy_home: PlainRun) -> None:
    data = open_data(toy_home.folder / "dataset", toy_home.settings)
    one = contestant(toy_home.folder / "served", toy_home.folder / "tuned", data, quiet(toy_home), "champion")
    older = replace(one, classes=["class0", "class1", "dodo"])
    found = contest(older, one, "1", data, 0.0)
    labels = data.examples.labels(data.rows["test"])
    assert found.champion.size == sum(label != "class2" for label in labels)
    assert (found.new_classes, found.removed_classes) == (["class2"], ["dodo"])
    assert set(found.slices["class"]) == {"class0", "class1"}


def test_the_other_metrics_come_with_the_rows(toy_home: PlainRun) -> None:
    """With --gate-metric the contest has both models' features of it, and a lower log loss counts as higher."""
    data = open_data(toy_home.folder / "dataset", toy_home.settings.model_copy(update={"gate_metric": "log_loss"}))
    one = contestant(toy_home.folder / "served", toy_home.folder / "tuned", data, quiet(toy_home), "champion")
    figures = contest(one, one, "1", data, 0.0).figures
    assert figures is not None
    assert (figures.name, figures.sign) == ("log_loss", -1)
    assert figures.figure(figures.champion.sum(0)[None])[0] == pytest.approx(toy_home.metrics["log_loss"])


def test_rows_are_told_apart_by_when_they_came(toy_home: PlainRun) -> None:
    """Rows of the champion's dataset are locked, later ones are not; recent are those of the last datasets."""
    data = open_data(toy_home.folder / "dataset", toy_home.settings.model_copy(update={"test_window": 1}))
    one = contestant(toy_home.folder / "served", toy_home.folder / "tuned", data, quiet(toy_home), "champion")
    found = contest(one, one, "1", data, 0.0)
    assert found.locked.all()
    assert found.recent.all()
    data.examples.info = data.examples.info.model_copy(update={"number": 3})
    assert not contest(one, one, "1", data, 0.0).recent.any()
    later = replace(one, trained_on=replace(one.trained_on, number=-1))
    assert contest(later, one, "1", data, 0.0).locked.all()  # nobody knows which were there


def test_metadata_columns_are_slices(toy_home: PlainRun) -> None:
    data = open_data(toy_home.folder / "dataset", toy_home.settings.model_copy(update={"slice_by": "camera, shop"}))
    one = contestant(toy_home.folder / "served", toy_home.folder / "tuned", data, quiet(toy_home), "champion")
    assert list(contest(one, one, "1", data, 0.0).slices) == ["class", "camera", "shop"]
