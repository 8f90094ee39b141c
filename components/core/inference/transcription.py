"""From the outputs of connectionist temporal classification (CTC) to transcripts.

This file travels with a served model and is loaded where Thawline is not installed, so it imports nothing from here.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

BLANK = 0  # the output that says nothing; the classes follow
UNLIKELY = -7.0  # logarithm of the probability below which the search passes a character over


class Answer(TypedDict):
    """The answer to one record."""

    transcript: str
    confidence: float  # mean probability of the characters or words where they are heard; 0 without any


def answers(outputs: "Tensor", serving: Mapping[str, Any]) -> list[Answer]:
    """Transcripts for log-probabilities [B, T, 1 + C].

    `serving` holds the C `classes`, the width of the `beam`, and whether the classes are `words`.
    """
    classes, beam = serving["classes"], int(serving["beam"])
    best = outputs.max(dim=2)
    heard = best.indices != BLANK
    said = (best.values.exp() * heard).sum(1) / heard.sum(1).clamp(min=1)
    read = (
        [search(row, beam) for row in outputs.tolist()] if beam > 1 else [collapsed(r) for r in best.indices.tolist()]
    )
    between = " " if serving.get("words") else ""
    texts = [between.join(classes[number - 1] for number in numbers).strip() for numbers in read]
    return [{"transcript": text, "confidence": float(p)} for text, p in zip(texts, said.tolist(), strict=True)]


def collapsed(path: Sequence[int]) -> list[int]:
    """Collapse the best path: repeats count once, blanks not at all."""
    return [number for i, number in enumerate(path) if number != BLANK and (i == 0 or number != path[i - 1])]


def search(frames: Sequence[Sequence[float]], width: int) -> list[int]:
    """The likeliest labelling by prefix beam search without a language model (Graves & Jaitly 2014; Hannun 2014).

    Args:
        frames: Log-probabilities [T][1 + C].
        width: Prefixes that are kept after each frame.
    """
    nothing = (-math.inf, -math.inf)
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}  # ends with a blank, or without
    for frame in frames:
        likely = [(number, p) for number, p in enumerate(frame) if number != BLANK and p > UNLIKELY]
        if not likely and frame[BLANK] > -1e-6:  # noqa: PLR2004 - of padding, which says nothing
            continue
        grown: dict[tuple[int, ...], tuple[float, float]] = defaultdict(lambda: nothing)
        for prefix, (blank, other) in beams.items():
            both = _sum(blank, other)
            old = grown[prefix]
            stays = other + frame[prefix[-1]] if prefix else -math.inf
            grown[prefix] = (_sum(old[0], both + frame[BLANK]), _sum(old[1], stays))
            for number, p in likely:
                longer = (*prefix, number)
                start = blank if prefix and prefix[-1] == number else both  # a repeat needs a blank between
                grown[longer] = (grown[longer][0], _sum(grown[longer][1], start + p))
        kept = sorted(grown, key=lambda prefix: -_sum(*grown[prefix]))[:width]
        beams = {prefix: grown[prefix] for prefix in kept}
    best = max(beams.items(), key=lambda item: _sum(*item[1]))
    return list(best[0])


def _sum(a: float, b: float) -> float:
    """The logarithm of the sum of two probabilities, given by theirs."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
