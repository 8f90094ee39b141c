"""Near-duplicate texts: MinHash of their letters, and all pairs that share most of them, in sub-quadratic time.

A text is the set of its runs of five characters, without case, punctuation and repeated white space (Broder 1997). Of
each of 128 permutations the least hash is kept, 16 bits of it (Li & König 2010): two texts agree in as large a share of
them as their sets have in common, within 0.04 at a similarity of 0.8 (one standard deviation).
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from datasketch import LeanMinHash, MinHash, MinHashLSH

Array: TypeAlias = np.ndarray[Any, Any]

PERMUTATIONS, SEED, SCHEME = 128, 1, "affine32"
RUN = 5  # characters
HASHED_AT_ONCE = 2**14  # runs: a kilobyte each while they are hashed, and a book has a million


def fingerprint(text: str) -> str:
    """The MinHash of a text, 128 x 16 bits in hexadecimal digits."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = " ".join(re.findall(r"\w+", folded)) or " ".join(folded.split())
    runs = {plain[i : i + RUN].encode() for i in range(max(1, len(plain) - RUN + 1))}
    minhash = _empty().copy()
    ordered = sorted(runs)
    for start in range(0, len(ordered), HASHED_AT_ONCE):
        minhash.update_batch(ordered[start : start + HASHED_AT_ONCE])
    return np.asarray(minhash.hashvalues).astype("<u2").tobytes().hex()


def pairs(fingerprints: Sequence[str], new: Sequence[bool], similarity: float) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of which at least one is new, whose texts share at least this part of their runs.

    Candidates come from locality-sensitive hashing, tuned to miss few. Equal fingerprints are chained, not paired each
    with each. The nearest pairs come first.

    Args:
        fingerprints: Of `fingerprint`; an empty one is near to none.
        new: Which of them are to be compared with all; pairs of others are known already.
        similarity: Jaccard similarity, 0 to 1.
    """
    first: dict[str, int] = {}
    asked: dict[int, bool] = {}
    found: dict[tuple[int, int], float] = {}  # and their similarity
    for place, text in enumerate(fingerprints):
        if not text:
            continue
        leader = first.setdefault(text, place)
        asked[leader] = asked.get(leader, False) or new[place]
        if leader != place and (new[place] or new[leader]):
            found[leader, place] = 1.0
    if not any(asked.values()):
        return list(found)
    values = {place: np.frombuffer(bytes.fromhex(fingerprints[place]), dtype="<u2") for place in asked}
    table = MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
    prints = {
        place: LeanMinHash(seed=SEED, hashvalues=row.astype(np.uint32), scheme=SCHEME) for place, row in values.items()
    }
    for place, minhash in prints.items():
        table.insert(place, minhash, check_duplication=False)
    for place in (place for place, is_new in asked.items() if is_new):
        others = np.array([other for other in table.query(prints[place]) if other != place], dtype=np.int64)
        if others.size:
            agreeing = (np.stack([values[other] for other in others.tolist()]) == values[place]).mean(axis=1)
            for other, share in zip(others.tolist(), agreeing.tolist(), strict=True):
                if share >= similarity:
                    found[min(place, other), max(place, other)] = share
    return sorted(found, key=lambda pair: (-found[pair], pair))


@lru_cache(maxsize=1)
def _empty() -> MinHash:
    """Its copies share the permutations, which are drawn once."""
    return MinHash(num_perm=PERMUTATIONS, seed=SEED, scheme=SCHEME)
