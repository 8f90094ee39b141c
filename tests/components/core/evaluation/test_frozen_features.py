"""What frozen features say of new data and of labels."""

import numpy as np
import pytest
import torch

from components.core.evaluation.frozen_features import drift, flattened, suspects


def rows(number: int, shift: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (number, 12))


def test_rows_of_the_same_kind_are_not_told_apart() -> None:
    """Of 300 new rows about 5 % are above the mark that 5 % of the old ones are above; the interval holds it."""
    found = drift(rows(600, 0, 1), rows(300, 0, 2), [""] * 900)
    assert found is not None
    assert found.low <= 0.05 <= found.high
    assert (found.new, found.old) == (300, 600)


def test_rows_of_another_kind_are_told_apart() -> None:
    found = drift(rows(600, 0, 1), rows(300, 1, 2), [""] * 900)
    assert found is not None
    assert found.low > 0.5


def test_a_group_is_not_learned_by_heart() -> None:
    """Near-copies of old rows among the new ones are in the same fold, so they are no drift and no evidence of none."""
    old = rows(200, 0, 1)
    found = drift(old, old + 1e-3, [f"g{i}" for i in range(200)] * 2)
    assert found is not None
    assert found.share <= 0.1


@pytest.mark.parametrize(("old", "new"), [(5, 300), (300, 5), (300, 0)])
def test_few_rows_say_nothing(old: int, new: int) -> None:
    assert drift(rows(old, 0, 1), rows(new, 3, 2), [""] * (old + new)) is None


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


def test_maps_and_sequences_are_averaged() -> None:
    """Of several tensors at the line, each gives a mean over its places, side by side."""
    maps = {"deep": torch.arange(16.0).reshape(2, 2, 2, 2), "said": torch.ones(2, 5, 3), "flat": torch.zeros(2, 4)}

    class Kept:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, rows: slice) -> dict[str, torch.Tensor]:
            return {name: tensor[rows] for name, tensor in maps.items()}

    found = flattened(Kept())
    assert found.shape == (2, 2 + 3 + 4)
    assert found[:, :2].tolist() == [[1.5, 5.5], [9.5, 13.5]]
