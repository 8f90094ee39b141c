"""The next item as a target: loss, exact ranks, metrics."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from components.core.contract.task import complete_target
from components.core.errors import RejectedRecord
from components.core.evidence.gate import first_version
from components.core.inference import recommendation
from components.core.targets import next_item
from components.core.targets.next_item import NextItem, ranked, ranks

TARGET = NextItem()
CLASSES = [str(n) for n in range(40)]


def label(*items: str, new: bool = False) -> str:
    return json.dumps({"items": list(items), **({"new": True} if new else {})})


def frame(scores: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(ranked(scores, CLASSES))


def test_the_target_is_complete() -> None:
    """It fits the contract; no label is a class, so a new item is not a class that another model lacks."""
    target = complete_target(TARGET)
    assert target.names([label("a")]) == [[]]
    assert target.class_names([label("b", "a"), label("c")]) == ["a", "b", "c"]


def test_labels_are_made_equal() -> None:
    """Labels in another notation are equal, and what is no list of items is refused."""
    assert TARGET.check_label('{"new": false, "items": ["a"]}') == '{"items":["a"]}'
    assert TARGET.check_label(label("a", new=True)) == '{"items":["a"],"new":true}'
    for bad in ("a", "[]", '{"items": []}', '{"items": [1]}', '{"items": "a"}'):
        with pytest.raises(RejectedRecord, match="label"):
            TARGET.check_label(bad)


def test_targets_are_aligned_to_the_right() -> None:
    """Each item is the number of its output; an unknown one is an error."""
    assert TARGET.targets([label("b"), label("a", "b")], ["a", "b"]).tolist() == [[-1, 1], [0, 1]]
    with pytest.raises(ValueError, match="not among the items: x"):
        TARGET.targets([label("x")], ["a"])


def test_the_loss_is_the_mean_over_known_steps() -> None:
    """Steps without a known item don't count, whatever the lengths of outputs and targets."""
    outputs = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[-1, 3], [2, 0]])
    expected = functional.cross_entropy(
        torch.stack([outputs[0, 3], outputs[1, 2], outputs[1, 3]]), torch.tensor([3, 2, 0])
    )
    assert TARGET.loss(outputs, targets) == pytest.approx(float(expected))
    longer = torch.cat([torch.full((2, 7), -1), targets], dim=1)
    assert TARGET.loss(outputs, longer) == pytest.approx(float(expected))
    alone = functional.cross_entropy(outputs[:, -1], targets[:, -1])
    assert TARGET.loss(outputs[:, -1], targets) == pytest.approx(float(alone))


def test_ranks_are_exact_to_the_tenth_with_ties() -> None:
    """An answer of twenty items and a count give the hits and gains of full rankings, ties at mid rank."""
    generator = np.random.default_rng(0)
    for values in (3, 8, 1000):
        scores = generator.integers(0, values, (200, 40)).astype(float)
        scores[generator.random((200, 40)) < 0.2] = -np.inf
        true = np.array([generator.choice(np.flatnonzero(np.isfinite(row))) for row in scores])
        own = scores[np.arange(200), true][:, None]
        full = (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
        found = ranks(frame(scores), [label(CLASSES[item]) for item in true])
        assert np.array_equal(found < 10, full < 10)
        assert np.array_equal(found[found < 10], full[full < 10])


def test_validation_ranks_all_items() -> None:
    """Figures of a split are those of the answers to it."""
    outputs = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(50)[:, None] % 40
    figures = TARGET.validate(outputs, targets)
    labels = [label(CLASSES[n % 40]) for n in range(50)]
    found = TARGET.evaluate(
        pd.DataFrame(TARGET.answers(outputs, {"classes": CLASSES})), labels, CLASSES, {labels[0]: 1}
    )
    assert figures["ndcg_at_10"] == pytest.approx(found.metrics["ndcg_at_10"])
    assert figures["hit_rate_at_10"] == pytest.approx(found.metrics["hit_rate_at_10"])
    assert figures["loss"] == pytest.approx(float(functional.cross_entropy(outputs, targets[:, 0])))


def test_many_rows_are_validated_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of a split do not depend on how many rows are compared at once, nor do answers."""
    outputs = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    targets, serving = torch.arange(50)[:, None] % 40, {"classes": CLASSES, "temperature": 2.0}
    whole, answers = TARGET.validate(outputs, targets), TARGET.answers(outputs, serving)
    monkeypatch.setattr(next_item, "CHUNK", 7)
    monkeypatch.setattr(recommendation, "CHUNK", 7)
    assert TARGET.validate(outputs, targets) == pytest.approx(whole)
    assert TARGET.answers(outputs, serving) == answers


def test_an_evaluation_parts_new_users_and_items_from_old_ones() -> None:
    """One user's item is first, a new user's third and not of the training; coverage counts what anyone gets."""
    scores = np.tile(np.arange(40.0), (2, 1))
    labels = [label("39"), label("37", new=True)]
    training = {label(*CLASSES[:12]): 2, label("39"): 1}
    found = TARGET.evaluate(frame(scores), labels, CLASSES, training)
    assert found.metrics["ndcg_at_10"] == pytest.approx((1 + 1 / math.log2(4)) / 2)
    assert found.metrics["hit_rate_at_10"] == 1.0
    assert found.metrics["coverage"] == 10 / 40
    assert found.baseline["ndcg_at_10"] == 0.0
    assert found.per_class is not None
    assert found.per_class["class"].tolist() == [
        "users seen in training",
        "new users",
        "items seen in training",
        "new items",
    ]
    assert found.per_class["ndcg_at_10"].tolist() == pytest.approx([1, 0.5] * 2)


def test_what_everybody_takes_is_no_first_version() -> None:
    """A model that gives everybody the most frequent items does not beat the trivial one, so it is refused."""
    training, test = {label("1"): 5, label("2"): 3}, [label("1"), label("2"), label("3")] * 10
    popular = np.zeros((len(test), len(CLASSES)))
    popular[:, 1], popular[:, 2] = 5, 3
    found = TARGET.evaluate(frame(popular), test, CLASSES, training)
    name = "ndcg_at_10"
    assert found.metrics[name] > 0
    assert not first_version(name, found.metrics[name], found.bound, found.baseline[name], len(test)).accepted


def test_probabilities_are_calibrated() -> None:
    """Scores that are too sure are divided by a temperature, which changes probabilities and no rank."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(400, 40, generator=generator)
    targets = torch.multinomial(outputs.softmax(1), 1, generator=generator)
    found = TARGET.calibrate(3 * outputs, targets)
    assert found["temperature"] == pytest.approx(3, rel=0.15)
    sure, calm = (TARGET.answers(3 * outputs, {"classes": CLASSES, **more}) for more in ({}, found))
    assert [one["items"] for one in sure] == [one["items"] for one in calm]
    assert sure[0]["scores"][0] > calm[0]["scores"][0]


def test_a_temperature_is_fitted_to_a_bounded_number_of_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more scores than fit, rows at even distances are taken."""
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(60, 40, generator=generator), torch.randint(0, 40, (60, 1), generator=generator)
    every_third = TARGET.calibrate(outputs[::3], targets[::3])
    assert TARGET.calibrate(outputs, targets) != every_third
    monkeypatch.setattr(next_item, "MOST_SCORES", 60 * 40 // 3)
    assert TARGET.calibrate(outputs, targets) == every_third


def test_misses_are_shown() -> None:
    """Where the item is not among the first ten, the report shows what came first."""
    found = TARGET.evaluate(
        frame(np.tile(np.arange(40.0), (2, 1))), [label("39"), label("0")], CLASSES, {label("1"): 1}
    )
    assert [(one.row, one.label, one.predicted) for one in found.mistakes] == [(1, "0", "39")]


def test_an_unknown_item_is_a_miss() -> None:
    """A champion that does not know an item scores nothing for it."""
    assert ranks(frame(np.tile(np.arange(40.0), (1, 1))), [label("new")])[0] == np.inf
