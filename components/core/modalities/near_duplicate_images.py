"""Near-duplicate pictures: a perceptual hash of each, and all pairs that differ in few bits, in sub-quadratic time.

The hash holds the signs of the lowest 16 x 16 coefficients of the cosine transform of the grey picture at 64 x 64 (the
scheme of pHash, Zauner 2010, with twice the resolution). It is taken of the whole picture and of two slightly smaller
cuts from its centre: a cropped copy's whole is near to one of the original's cuts. Mirroring a picture changes the sign
of every second column, so mirrored copies need no hash of their own.
"""

import functools
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

Array: TypeAlias = np.ndarray[Any, Any]

BITS = 256
SIDE, LOW, KEPT = 64, 8, 16  # of the grey picture; of the coefficients that are searched by; of those that are kept
CUTS = (0.0, 0.02, 0.05)  # cut off at each border
WORDS = BITS // 64  # the first one holds the lowest 8 x 8 coefficients
# Among 312 photos and 4,400 pictures of clothes, 99% of copies that differ in at most 32 of all bits differ in at most
# 8 of the lowest 64, and the pictures that agree there by chance are few enough to be looked at one by one.
REACH = 8
BANDS, BAND_BITS, BAND_REACH = 4, 16, REACH // 4  # of 4 bands, one differs in at most a quarter of the bits
EXPANDED = 2_000_000  # candidate pairs in memory at a time


def fingerprint(picture: Image.Image) -> str:
    """The hashes of an RGB picture and of its cuts, 3 x 256 bits in hexadecimal digits."""
    grey = picture.convert("L")
    width, height = grey.size
    pixels = [
        grey.resize(
            (SIDE, SIDE),
            Image.Resampling.LANCZOS,
            box=(width * cut, height * cut, width * (1 - cut), height * (1 - cut)),
            reducing_gap=2.0,
        )
        for cut in CUTS
    ]
    coefficients = _cosines() @ np.stack([np.asarray(some, dtype=np.float64) for some in pixels]) @ _cosines().T
    return _by_words(coefficients > 1e-6).tobytes().hex()  # noqa: PLR2004 - rounding is no sign


def pairs(
    fingerprints: Sequence[str], new: Sequence[bool], threshold: int, *, flipped: bool = False
) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of which at least one is new, whose hashes differ in at most `threshold` bits.

    Exact for pairs that also differ in at most 8 of the lowest 64 bits (multi-index hashing, Norouzi et al. 2012);
    other pairs are not found, and few of them are near. Equal fingerprints are chained, not paired each with each. The
    nearest pairs come first.

    Args:
        fingerprints: Of `fingerprint`; an empty one is near to none.
        new: Which of them are to be compared with all; pairs of others are known already.
        threshold: Bits of 256; negative finds nothing.
        flipped: Find mirrored copies too.
    """
    first: dict[str, int] = {}
    found: dict[tuple[int, int], int] = {}  # and in how many bits they differ
    asked: dict[int, bool] = {}
    for place, text in enumerate(fingerprints):
        if not text or threshold < 0:
            continue
        leader = first.setdefault(text, place)
        asked[leader] = asked.get(leader, False) or new[place]
        if leader != place and (new[place] or new[leader]):
            found[leader, place] = 0
    places = np.array(list(asked), dtype=np.int64)
    queries = np.flatnonzero(list(asked.values()))
    if not queries.size:
        return list(found)
    words = np.frombuffer(bytes.fromhex("".join(fingerprints[i] for i in places)), dtype=np.uint64)
    words = words.reshape(len(places), len(CUTS), WORDS)
    mirror = _by_words(np.broadcast_to(np.arange(KEPT) % 2 == 1, (KEPT, KEPT)))
    masks = [np.zeros_like(mirror), *([mirror] if flipped else [])]
    for cut, mask in product(range(len(CUTS)), masks):
        # where all are new, the other direction gives the same pairs
        for ours, theirs in {(0, cut), *([] if queries.size == len(places) else [(cut, 0)])}:
            for a, b, bits in _near(words[queries, ours] ^ mask, words[:, theirs], threshold):
                ends = np.sort(np.stack([places[queries[a]], places[b]], axis=1), axis=1)
                for (i, j), differing in zip(ends.tolist(), bits.tolist(), strict=True):
                    if i != j and differing <= found.get((i, j), threshold):
                        found[i, j] = differing
    return sorted(found, key=lambda pair: (found[pair], pair))


def _near(queries: Array, stored: Array, threshold: int) -> Iterator[tuple[Array, Array, Array]]:
    """Positions (query, stored) of words [n, 4] and [m, 4] that differ in few bits, and in how many."""
    masks = [sum(1 << bit for bit in bits) for k in range(BAND_REACH + 1) for bits in combinations(range(BAND_BITS), k)]
    for band in range(BANDS):
        shift = np.uint64(band * BAND_BITS)
        ours, theirs = ((side[:, 0] >> shift).astype(np.uint16) for side in (queries, stored))
        order = np.argsort(theirs, kind="stable")
        ends = np.cumsum(np.bincount(theirs, minlength=1 << BAND_BITS))
        sizes = np.diff(ends, prepend=0)
        for mask in masks:
            keys = ours ^ np.uint16(mask)
            yield from _checked(queries, stored, order, (ends - sizes)[keys], sizes[keys], threshold)


def _checked(
    queries: Array, stored: Array, order: Array, starts: Array, sizes: Array, threshold: int
) -> Iterator[tuple[Array, Array, Array]]:
    """Of the candidates of each query, a run in the order of the band's keys, those that are near."""
    blocks = np.searchsorted(np.cumsum(sizes), np.arange(EXPANDED, sizes.sum() + EXPANDED, EXPANDED))
    for some in np.split(np.arange(len(queries)), np.unique(np.minimum(blocks + 1, len(queries)))):
        count = sizes[some]
        if not count.sum():
            continue
        asked = np.repeat(some, count)
        within = np.arange(len(asked)) - np.repeat(np.cumsum(count) - count, count)
        other = order[np.repeat(starts[some], count) + within]
        near = np.bitwise_count(queries[asked, 0] ^ stored[other, 0]) <= REACH
        asked, other = asked[near], other[near]
        differing = np.bitwise_count(queries[asked] ^ stored[other]).sum(axis=1)
        near = differing <= threshold
        yield asked[near], other[near], differing[near]


def _by_words(bits: Array) -> Array:
    """Bits [..., 16, 16] as words uint64[..., 4], the lowest 8 x 8 first; the mean brightness is none of them."""
    low = bits[..., :LOW, :LOW].reshape(*bits.shape[:-2], LOW * LOW).copy()
    low[..., 0] = False
    rest = [bits[..., :LOW, LOW:], bits[..., LOW:, :LOW], bits[..., LOW:, LOW:]]
    parts = [low, *(part.reshape(*bits.shape[:-2], LOW * LOW) for part in rest)]
    words: Array = np.packbits(np.concatenate(parts, axis=-1), axis=-1).view(np.uint64)
    return words


@functools.cache
def _cosines() -> Array:
    """Rows [16, 64] of the cosine transform (type II, not normed)."""
    return np.asarray(np.cos(np.outer(np.arange(KEPT), 2 * np.arange(SIDE) + 1) * np.pi / (2 * SIDE)))
