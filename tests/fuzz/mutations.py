"""Damage to bytes, drawn at random: flips, cuts, repeats, lengths that lie, and pieces of another input."""

import random
from collections.abc import Sequence
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"  # inputs that failed once, by target
SLOW_SECONDS = 10.0  # of work that one input may take
LIES = (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\x00\x00\x00")


def mutated(content: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """Return bytes with one to four damages."""
    found = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(found) + 1)
        kind = draw.randrange(6)
        if kind == 0 and found:
            found[min(place, len(found) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del found[place:]
        elif kind == 2:
            del found[place : place + draw.randint(1, 16)]
        elif kind == 3:
            found[place : place + 4] = draw.choice(LIES)
        elif kind == 4:
            found[place:place] = found[place : place + draw.randint(1, 64)] * draw.randint(1, 8)
        else:
            other = draw.choice(others)
            start = draw.randrange(len(other) + 1)
            found[place : place + 32] = other[start : start + 32]
    return bytes(found)
