"""Which labels look wrong."""

import numpy as np

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
