"""Histories as a network's input, and scores as answers."""

import pytest
import torch

from components.core.inference.recommendation import BEST, answers, encode, history

KNOWN = {"items": ["a", "b", "c"], "history": 4}


def test_histories_are_aligned_to_the_right() -> None:
    """The beginning is marked, unknown items are left out, and what is too long loses its beginning."""
    contents = [b'{"items": []}', b'{"items": ["c", "x", "a"]}', b'{"items": ["a", "b", "c", "a", "b"], "user": "u"}']
    assert encode(contents, KNOWN).tolist() == [[0, 0, 0, 1], [0, 1, 4, 2], [3, 4, 2, 3]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a, b", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[1]", "list of items"),
        (b'{"items": "a"}', "list of items"),
        (b'{"items": [null]}', "neither text nor a whole number"),
        (b'{"items": [true]}', "neither text nor a whole number"),
    ],
)
def test_what_is_no_history_is_refused(content: bytes, reason: str) -> None:
    """A record of another form has a reason."""
    with pytest.raises(ValueError, match=reason):
        encode([content], KNOWN)


def test_numbers_are_items_too() -> None:
    """A whole number is the item of that name."""
    assert history(b'{"items": [50, "172"]}') == ["50", "172"]


def test_the_best_items_come_first() -> None:
    """Items that the user has are never listed, and their probabilities are of what is left."""
    outputs = torch.tensor([[0.0, -torch.inf, 1.0]])
    (found,) = answers(outputs, {"classes": ["a", "b", "c"]})
    assert found["items"] == ["c", "a"]
    assert found["scores"] == pytest.approx([0.7311, 0.2689], abs=1e-4)
    assert found["tied"] == 0


def test_unlisted_items_as_good_as_the_last_are_counted() -> None:
    """Without them the rank of the last ones would be better than it is."""
    outputs = torch.cat([torch.ones(1, 5), torch.zeros(1, 30)], dim=1)
    (found,) = answers(outputs, {"classes": [str(n) for n in range(35)]})
    assert (len(found["items"]), found["tied"]) == (BEST, 15)


def test_who_has_everything_gets_nothing() -> None:
    """An answer may be empty."""
    assert answers(torch.full((1, 2), -torch.inf), {"classes": ["a", "b"]})[0]["items"] == []
