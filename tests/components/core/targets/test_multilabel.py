"""Several labels as the target, against scikit-learn and hand-computed values."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as peer

from components.core.errors import InputError, RejectedRecord
from components.core.targets.multilabel import MultiLabel

TARGET = MultiLabel(threshold=0.5)
NAMES = ["a", "b", "c"]


def answers(chances: np.ndarray) -> pd.DataFrame:
    rows = [dict(zip(NAMES, map(float, row), strict=True)) for row in chances]
    return pd.DataFrame([{"labels": [n for n in row if row[n] >= 0.5], "probabilities": row} for row in rows])


def drawn(rows: int = 120, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame, list[str]]:
    """Truth bool[N, 3], answers that follow it with noise, and the labels as text."""
    generator = np.random.default_rng(seed)
    true = generator.random((rows, 3)) < [0.5, 0.3, 0.1]
    chances = np.clip(0.6 * true + 0.7 * generator.random((rows, 3)), 0, 1)
    labels = [json.dumps([name for name, there in zip(NAMES, row, strict=True) if there]) for row in true]
    return true, answers(chances), labels


@pytest.mark.parametrize(
    "label", ["", "a", '"a"', "{}", "[1]", '["a", ""]', '["a"', r'["\ud800"]', pytest.param("[" * 9999, id="deep")]
)
def test_what_is_no_list_of_names_is_rejected(label: str) -> None:
    with pytest.raises(RejectedRecord, match="not a JSON list of names"):
        TARGET.check_label(label)


def test_equal_lists_are_one_label() -> None:
    """Order, repetition and white space don't matter; an empty list is a label."""
    assert TARGET.check_label('["b", "a ", "b"]') == TARGET.check_label('["a","b"]') == '["a","b"]'
    assert TARGET.check_label("[]") == "[]"


def test_targets_are_a_yes_or_no_for_each_name() -> None:
    assert TARGET.class_names(['["c"]', "[]", '["a"]']) == ["a", "c"]
    assert TARGET.targets(['["a","c"]', "[]"], NAMES).tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    with pytest.raises(InputError, match="all lists are empty"):
        TARGET.class_names(["[]"])


def test_metrics_are_those_of_scikit_learn() -> None:
    true, said, labels = drawn()
    given = np.array([[name in row for name in NAMES] for row in said["labels"]])
    found = TARGET.evaluate(said, labels, NAMES, {'["a"]': 1}).metrics
    assert found["micro_f1"] == pytest.approx(peer.f1_score(true, given, average="micro"))
    assert found["macro_f1"] == pytest.approx(peer.f1_score(true, given, average="macro"))
    assert found["subset_accuracy"] == pytest.approx(peer.accuracy_score(true, given))
    chances = np.array([list(row.values()) for row in said["probabilities"]])
    assert found["map"] == pytest.approx(peer.average_precision_score(true, chances, average="macro"))


def test_the_trivial_model_is_the_best_constant_answer() -> None:
    """Not merely the commonest label: both, where two are that common."""
    _, said, _ = drawn(2)
    training = {'["a","b"]': 6, '["a"]': 2, '["c"]': 2}
    found = TARGET.evaluate(said, ['["a","b"]', '["a"]'], NAMES, training)
    assert found.baseline["micro_f1"] == pytest.approx(2 * 3 / (4 + 3))  # it gives a and b to both rows


def test_a_label_that_no_answer_knows_counts_as_missed() -> None:
    said = answers(np.array([[0.9, 0.1, 0.1]]))
    found = TARGET.evaluate(said, ['["a","new"]'], NAMES, {'["a"]': 1})
    assert found.metrics["micro_f1"] == pytest.approx(2 / 3)
    assert found.per_class is not None
    assert found.per_class["class"].tolist() == [*NAMES, "new"]


@pytest.mark.slow
def test_figures_by_sums_are_the_metrics() -> None:
    _, said, labels = drawn()
    metrics = TARGET.evaluate(said, labels, NAMES, {'["a"]': 1}).metrics
    for metric in (one for one in TARGET.metrics if one.may_decide):
        sums = metric.features(said, labels, NAMES).sum(0)[None]
        assert metric.figure(sums)[0] == pytest.approx(metrics[metric.name])


def test_a_rows_score_is_the_f1_of_its_list() -> None:
    said = pd.DataFrame({"labels": [["a", "b"], [], ["c"]]})
    assert TARGET.scores(said, ['["a"]', "[]", '["a"]']).tolist() == pytest.approx([2 / 3, 1.0, 0.0])


def test_rare_labels_weigh_more_when_balanced() -> None:
    """A label that a quarter of the rows have weighs three times where it is there; one that none or all have, once."""
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert TARGET.class_weights(targets, 3).tolist() == [3.0, 1.0, 1.0]


def test_the_temperature_calms_answers_that_are_too_sure() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 3, generator=generator)
    targets = torch.bernoulli(logits.sigmoid(), generator=generator)
    assert TARGET.calibrate(3 * logits, targets)["temperature"] == pytest.approx(3.0, rel=0.1)


def test_the_surest_mistakes_come_first() -> None:
    said = answers(np.array([[0.9, 0.1, 0.1], [0.6, 0.1, 0.1], [0.9, 0.1, 0.1]]))
    found = TARGET.evaluate(said, ["[]", "[]", '["a"]'], NAMES, {'["a"]': 1})
    assert [(m.row, m.label, m.predicted, m.probability) for m in found.mistakes] == [
        (0, "nothing", "a", 0.9),
        (1, "nothing", "a", 0.6),
    ]
