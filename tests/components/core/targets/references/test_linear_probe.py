"""What scikit-learn's defaults make of frozen features, for each target."""

import json
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from components.core.contract.task import Target, complete_target
from components.core.targets.classification import Classification
from components.core.targets.multilabel import MultiLabel
from components.core.targets.references import linear_probe
from components.core.targets.references.linear_probe import NoProbeError, has_probe, probe
from components.core.targets.regression import COVERED, Regression
from components.core.targets.transcription import Transcription

CLASSES = ["dull", "good"]
PLACES = {"train": slice(0, 80), "validation": slice(80, 120), "test": slice(120, 160)}
DRAWN = np.random.default_rng(0).normal(size=(160, 6)).astype(np.float32)
FEATURES = {split: 3 + 10 * DRAWN[rows] for split, rows in PLACES.items()}
SIDES = DRAWN[:, :2] > 0
WRITTEN: dict[str, list[str]] = {
    "classes": ["good" if side else "dull" for side in SIDES[:, 0]],
    "number": [repr(float(row[0] - 2 * row[1])) for row in DRAWN],
    "labels": [json.dumps([name for name, side in zip(CLASSES, row, strict=True) if side]) for row in SIDES],
}


def labels(kind: str) -> dict[str, list[str]]:
    return {split: WRITTEN[kind][rows] for split, rows in PLACES.items()}


def answered(features: dict[str, np.ndarray], kind: str = "classes", target: Any = None) -> Any:
    return probe(features, labels(kind), target or Classification(), CLASSES)


@pytest.mark.parametrize(
    ("kind", "target", "least"),
    [
        ("classes", Classification(), 0.9),
        ("number", Regression(0.0, 1.0, "mse"), 0.95),
        ("labels", MultiLabel(0.5), 0.9),
    ],
)
def test_what_is_linear_is_learned(kind: str, target: Target, least: float) -> None:
    """Each target has its probe, also behind its defaults; its answers have the target's columns and are right."""
    assert has_probe(complete_target(target))
    found = probe(FEATURES, labels(kind), complete_target(target), CLASSES)
    assert set(found.columns) == set(target.answer.__annotations__)
    assert np.mean(target.scores(found, labels(kind)["test"])) >= least


def test_it_is_what_scikit_learn_gives() -> None:
    """The same lines of scikit-learn, fitted on all rows but the test rows, give the same probabilities."""
    rows, known = (np.concatenate([some["train"], some["validation"]]) for some in (FEATURES, labels("classes")))
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, known)
    found = [[row[name] for name in CLASSES] for row in answered(FEATURES)["probabilities"]]
    np.testing.assert_allclose(found, model.predict_proba(FEATURES["test"]), atol=1e-6)


def test_the_interval_of_a_number_is_of_rows_that_were_held_out() -> None:
    """The number is of a fit on all rows but the test rows; its interval, of one that never saw the validation rows."""
    scaler = StandardScaler().fit(np.concatenate([FEATURES["train"], FEATURES["validation"]]))
    rows = {split: scaler.transform(some) for split, some in FEATURES.items()}
    true = {split: np.array(some, dtype=float) for split, some in labels("number").items()}
    every = np.concatenate([rows["train"], rows["validation"]])
    model = Ridge(alpha=6).fit(every, np.concatenate([true["train"], true["validation"]]))
    held = Ridge(alpha=6).fit(rows["train"], true["train"]).predict(rows["validation"])
    found = answered(FEATURES, "number", Regression(0.0, 1.0, "mse"))
    np.testing.assert_allclose(found["number"], model.predict(rows["test"]), atol=1e-5)
    margin = np.quantile(np.abs(held - true["validation"]), COVERED)
    np.testing.assert_allclose(found["high"] - found["number"], margin, atol=1e-5)


@pytest.mark.parametrize("target", [Transcription(), type("Boxes", (), {"answer": dict})()])
def test_other_targets_have_none(target: Any) -> None:
    """Transcripts, and what the target of a user answers, have no linear probe."""
    assert not has_probe(target)


def test_features_without_use_are_left_out() -> None:
    """Features that are constant in training, or not finite in any row of any split, change nothing."""
    constant = {split: np.full((len(rows), 1), 7.0, np.float32) for split, rows in FEATURES.items()}
    constant["test"] = constant["test"] + np.arange(40, dtype=np.float32)[:, None]
    broken = {split: rows[:, :1].copy() for split, rows in FEATURES.items()}
    broken["test"][3] = np.inf
    more = {split: np.hstack([rows, constant[split], broken[split]]) for split, rows in FEATURES.items()}
    assert answered(more).equals(answered(FEATURES))


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_without_features_there_is_none(value: float) -> None:
    """A network all of whose features are constant or not finite has no probe, and the reason is given."""
    with pytest.raises(NoProbeError, match="no feature of the network is finite and varies"):
        answered({split: np.full_like(rows, value) for split, rows in FEATURES.items()})


def test_one_class_has_none() -> None:
    """Where all rows that it learns from have one class there is nothing to fit."""
    with pytest.raises(NoProbeError, match="all rows but the test rows are dull"):
        probe(FEATURES, {split: ["dull"] * len(rows) for split, rows in FEATURES.items()}, Classification(), CLASSES)


def test_a_class_with_a_single_row_is_fitted() -> None:
    """One training row is enough for a class to be among the answers, and a class without any is not."""
    known = {**labels("classes"), "train": ["dull"] * 79 + ["rare"], "validation": ["dull"] * 40}
    found = probe(FEATURES, known, Classification(), [*CLASSES, "rare"])
    assert {*found["probabilities"][0]} == {"dull", "rare"}


@pytest.mark.parametrize("kind", ["number", "labels"])
def test_labels_of_another_form_have_none(kind: str) -> None:
    """A target of a user may give the answers of ours to labels that it alone understands."""
    with pytest.raises(NoProbeError, match="the labels are not"):
        answered(FEATURES, kind)
    with pytest.raises(NoProbeError, match="the labels are not numbers"):
        answered(FEATURES, "classes", Regression(0.0, 1.0, "mse"))


def test_so_many_rows_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more training rows than a fit may take, and of several labels fewer, the first ones count."""
    few = {**FEATURES, "train": FEATURES["train"][:40]}
    first = {kind: {**labels(kind), "train": labels(kind)["train"][:40]} for kind in ("classes", "labels")}
    monkeypatch.setattr(linear_probe, "MOST_PRODUCTS", 40 * len(CLASSES))
    assert answered(FEATURES, "labels", MultiLabel(0.5)).equals(probe(few, first["labels"], MultiLabel(0.5), CLASSES))
    monkeypatch.setattr(linear_probe, "MOST_FITTED", 40)
    assert answered(FEATURES).equals(probe(few, first["classes"], Classification(), CLASSES))


def test_labels_are_given_from_the_targets_threshold() -> None:
    """The probe gives a label from the same probability as the model that it stands beside."""
    some, many = (answered(FEATURES, "labels", MultiLabel(threshold))["labels"] for threshold in (0.9, 0.01))
    assert sum(map(len, some)) < sum(map(len, many))
