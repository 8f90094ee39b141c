"""Which labels look wrong."""

import numpy as np
import pytest

from components.core.evaluation.drift import drift
from components.core.evaluation.label_errors import suspects


def rows(number: int, shift: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (number, 12))


def test_wrong_labels_are_found() -> None:
    """Of 30 labels that were changed among 600, at least 20 are suspects, and hardly any other is."""
    generator = np.random.default_rng(0)
    true = np.repeat([0, 1, 2], 200)
    centres = generator.normal(0, 2, (3, 12))
    features = centres[true] + generator.normal(0, 1, (600, 12))
    given = true.copy()
    wrong = generator.permutation(600)[:30]
    given[wrong] = (given[wrong] + 1) % 3
    found = suspects(features, [f"c{k}" for k in given], [""] * 600)
    hits = [suspect for suspect in found if suspect.row in set(wrong.tolist())]
    assert len(hits) >= 20
    assert len(found) - len(hits) <= 3
    assert all(suspect.suggested == f"c{true[suspect.row]}" for suspect in hits)
    assert [suspect.probability for suspect in found] == sorted((s.probability for s in found), reverse=True)


def test_small_classes_have_no_suspects() -> None:
    """Without a row of each class in every fold nothing is said."""
    assert suspects(rows(40, 0, 0), ["a"] * 37 + ["b"] * 3, [""] * 40) == []
    assert suspects(rows(40, 0, 0), ["a"] * 40, [""] * 40) == []


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_fewer_groups_than_folds_say_nothing(groups: int) -> None:
    """Where no classifier can be asked on rows of groups that it did not see, drift and suspects are left out."""
    some, names = np.concatenate([rows(40, 0, 1), rows(40, 3, 2)]), [f"g{i % groups}" for i in range(80)]
    assert drift(some[:40], some[40:], names) is None
    assert suspects(some, ["a"] * 40 + ["b"] * 40, names) == []


def test_a_class_of_one_group_is_no_suspect() -> None:
    """Its rows can't be told from the others by a classifier that saw none of them, so nothing is said."""
    some = np.concatenate([rows(40, 0, 1), rows(40, 3, 2)])
    names = [f"g{i}" for i in range(40)] + ["one"] * 40
    assert suspects(some, ["a"] * 40 + ["b"] * 40, names) == []
    assert drift(some[:40], some[40:], names) is None
