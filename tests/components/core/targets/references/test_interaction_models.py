"""Recommendation without a network: each model on data where its answer is known."""

from collections import Counter

import numpy as np
import pytest
from scipy import sparse

from components.core.data.examples import Examples
from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.inference.recommendation import history
from components.core.settings import Settings
from components.core.targets.next_item import ndcg
from components.core.targets.references import interaction_models
from components.core.targets.references.interaction_models import (
    Model,
    answer,
    answers,
    compare,
    fitted,
    neighbors,
    popular,
    training_sequences,
    transitions,
)
from tests.data.interactions import write_interactions

CLASSES = list("abcd")


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    folder = tmp_path_factory.mktemp("walks")
    source = write_interactions(folder / "walks.csv", 60)
    settings = Settings(task="recommendation", option={"split": "last", "length": "5"})
    prepare(str(source), settings, folder / "data", Lineage(salt="0"), lambda *_: None)
    return Examples(folder / "data")


def test_transitions_are_weighted_by_their_steps() -> None:
    """What follows at once counts one, two steps later a half; each row sums to one."""
    found = transitions([[0, 1, 2], [0, 2]], 4).toarray()
    assert found[0] == pytest.approx([0, 0.4, 0.6, 0])
    assert found[1] == pytest.approx([0, 0, 1, 0])
    assert not found[3].any()


def test_old_items_weigh_less() -> None:
    """With decay, the newest item of a history decides, and what the user has is left out."""
    model = Model("", np.array([[0, 0, 1.0, 0], [0, 0, 0, 1.0], [0] * 4, [0] * 4]), 1.0, 0)
    (one, other) = answer(model, [b'{"items": ["a", "b"]}', b'{"items": ["b", "a", "x"]}'], CLASSES)
    assert (one["items"], other["items"]) == (["d", "c"], ["c", "d"])


def test_every_kind_is_fitted() -> None:
    """Item-kNN, EASE and transitions, each with several strengths."""
    models = [*fitted([[0, 1], [0, 2]], 4)]
    assert {model.name for model in models} == {
        *("item-kNN with decay", "EASE with decay", "transition counts within 20 steps")
    }


def test_neighbors_are_the_cosine_of_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks or at once, all of them or the nearest of each item."""
    had = np.random.default_rng(0).random((30, 7)) < 0.4
    together = (had[:, :, None] & had[:, None, :]).sum(0) / np.sqrt(np.outer(had.sum(0), had.sum(0)))
    np.fill_diagonal(together, 0)
    monkeypatch.setattr(interaction_models, "BLOCK", 14)
    matrix = sparse.csr_matrix(had.astype(float))
    assert neighbors(matrix, 7).toarray() == pytest.approx(together)
    two = neighbors(matrix, 2).toarray()
    assert ((two > 0).sum(1) == 2).all()
    assert two.max(1) == pytest.approx(together.max(1))


def test_windows_join_to_sequences(examples: Examples) -> None:
    """The training windows of a user are the whole of its training again, in order."""
    found = training_sequences(examples)
    assert sorted(map(len, found)) == [19] * 60
    assert all(len({*own}) == 19 for own in found)


def test_the_strongest_by_validation_comes_first(examples: Examples) -> None:
    """On walks along a map, transitions are best, and far above popularity; the test rows are answered."""
    figures = {name: figure for name, _, figure in compare(examples)}
    trivial = ndcg(popular(examples), examples.labels(examples.rows("test")))
    found = answers(examples)
    assert [name for name, _ in found] == sorted(figures, key=lambda name: -figures[name])
    assert found[0][0] == "transition counts within 20 steps"
    assert figures[found[0][0]] > trivial + 0.2
    assert [len(some) for _, some in found] == [60] * 3


def test_the_most_popular_items_are_those_that_the_user_does_not_have(examples: Examples) -> None:
    """Every user gets one order of all items, by how many have them in training, without the own ones."""
    rows, counts = examples.rows("test"), Counter(item for own in training_sequences(examples) for item in own)
    order = sorted(range(len(examples.classes)), key=lambda item: (-counts[item], item))
    for said, content in zip(popular(examples)["items"], examples.contents(rows), strict=True):
        had = {*history(content)}
        assert said == [name for name in (examples.classes[item] for item in order) if name not in had][: len(said)]
