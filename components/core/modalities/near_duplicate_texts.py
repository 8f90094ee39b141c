"""Near-duplicate texts: MinHash of their letters, and all pairs that share most of them, in sub-quadratic time.

A text is the set of its runs of five characters, without case, punctuation and repeated white space (Broder 1997). Of
each of 128 permutations the least hash is kept, 16 bits of it (Li & König 2010): two texts agree in as large a share of
them as their sets have in common, within 0.04 at a similarity of 0.8 (one standard deviation).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from datasketch import MinHash, MinHashLSH

Array: TypeAlias = np.ndarray[Any, Any]

PERMUTATIONS, SEED, SCHEME = 128, 1, "affine32"
RUN = 5  # characters
EXPANDED = 2**15  # candidate pairs that are compared at once, 8 MB
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
    places, is_new = np.array(list(asked), dtype=np.int64), np.array(list(asked.values()))
    values = np.empty((len(places), PERMUTATIONS), dtype="<u2")
    for number, place in enumerate(asked):
        values[number] = np.frombuffer(bytes.fromhex(fingerprints[place]), dtype="<u2")
    for ours, theirs in _candidates(values, is_new, similarity):
        agreeing = (values[ours] == values[theirs]).mean(axis=1)
        near = agreeing >= similarity
        ends = np.sort(np.stack([places[ours[near]], places[theirs[near]]], axis=1), axis=1)
        found.update(zip(map(tuple, ends.tolist()), agreeing[near].tolist(), strict=True))
    return sorted(found, key=lambda pair: (-found[pair], pair))


def _candidates(values: Array, new: Array, similarity: float) -> Iterator[tuple[Array, Array]]:
    """Positions of pairs that agree in all values of some band, at least one of them new; some pairs come repeatedly.

    datasketch says how many bands there are, and how wide. Its own table of them takes 9 KB a text, this one 300 bytes.
    """
    bands = MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
    factors = np.random.default_rng(SEED).integers(0, 2**63, bands.r, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    for start in range(0, bands.b * bands.r, bands.r):
        keys = values[:, start : start + bands.r] @ factors
        order = np.argsort(keys, kind="stable")
        first = np.searchsorted(keys, keys, "left", sorter=order)
        sizes = np.searchsorted(keys, keys, "right", sorter=order) - first
        queries = np.flatnonzero(new & (sizes > 1))
        blocks = np.cumsum(sizes[queries]) // EXPANDED
        for some in np.split(queries, np.flatnonzero(np.diff(blocks)) + 1):
            ours = np.repeat(some, sizes[some])
            within = np.arange(len(ours)) - np.repeat(np.cumsum(sizes[some]) - sizes[some], sizes[some])
            theirs = order[np.repeat(first[some], sizes[some]) + within]
            kept = (ours < theirs) | ~new[theirs]
            yield ours[kept], theirs[kept]


@lru_cache(maxsize=1)
def _empty() -> MinHash:
    """Its copies share the permutations, which are drawn once."""
    return MinHash(num_perm=PERMUTATIONS, seed=SEED, scheme=SCHEME)
