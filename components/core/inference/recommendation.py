"""From a user's history to a network's input, and from scores of all items to the best of them.

This file travels with a served model and is loaded where Thawline is not installed, so it imports nothing from here.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

PAD, START, FIRST = 0, 1, 2  # numbers in an encoded history: nothing, its beginning, the first item
CHUNK = 1_024  # rows that are answered at once: probabilities of all items are as large as their scores
BEST = 20  # items of an answer: with `tied`, enough for exact ranks up to 10 with ties at mid rank


class Preprocessing(TypedDict):
    """Parameters that turn a history into the network's input."""

    items: list[str]  # in the order of their numbers
    history: int  # numbers of every row; what is longer loses its beginning


class Answer(TypedDict):
    """The answer to one record."""

    items: list[str]  # that the user does not have, the best first
    scores: list[float]  # their probabilities
    tied: int  # items beyond these that are as good as the last


def history(content: bytes) -> list[str]:
    """The items of a record, {"items": ["50", "172"]}, the oldest first; all else in it is for people.

    Raises:
        ValueError: It is no such JSON; the message is the reason.
    """
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    items = record.get("items") if isinstance(record, dict) else None
    if not isinstance(items, list):
        raise ValueError('not an object with a list of items, such as {"items": ["50", "172"]}')  # noqa: TRY004 - a bad record
    if any(not isinstance(item, str | int) or isinstance(item, bool) for item in items):
        raise ValueError("an item is neither text nor a whole number")
    return [str(item) for item in items]


def encode(contents: Sequence[bytes], preprocessing: Mapping[str, Any]) -> "Tensor":
    """Histories as int64[B, S]: items that the network knows, behind a mark of the beginning, aligned to the right.

    Raises:
        ValueError: One of them is no history.
    """
    import torch

    numbers = {item: number for number, item in enumerate(preprocessing["items"], start=FIRST)}
    width = preprocessing["history"]
    found = torch.full((len(contents), width), PAD, dtype=torch.int64)
    for row, content in enumerate(contents):
        known = [numbers[item] for item in history(content) if item in numbers]
        last = [START, *known][-width:]
        found[row, width - len(last) :] = torch.tensor(last)
    return found


def answers(outputs: "Tensor", serving: Mapping[str, Any]) -> list[Answer]:
    """The best items for scores [B, items], where -inf stands for what the user has.

    `serving` holds the names of the items as `classes`, and the `temperature` of the probabilities.
    """
    parts = (outputs[start : start + CHUNK] for start in range(0, len(outputs), CHUNK))
    return [answer for some in parts for answer in _answers(some, serving)]


def _answers(outputs: "Tensor", serving: Mapping[str, Any]) -> list[Answer]:
    names, count = serving["classes"], min(BEST, outputs.shape[1])
    best = outputs.topk(count, dim=1)
    chances = (outputs / serving.get("temperature", 1.0)).softmax(dim=1).gather(1, best.indices)
    open_ = best.values > -float("inf")
    last = best.values.masked_fill(~open_, float("inf")).min(dim=1, keepdim=True).values
    tied = (outputs == last).sum(1) - (best.values == last).sum(1)
    rows = zip(best.indices.tolist(), chances.tolist(), open_.sum(1).tolist(), tied.tolist(), strict=True)
    return [
        {"items": [names[place] for place in places[:n]], "scores": scores[:n], "tied": ties}
        for places, scores, n, ties in rows
    ]
