"""Perceptual hashes and the search for near ones."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.core.modalities.near_duplicate_images import CUTS, REACH, WORDS, fingerprint, pairs


def scene(seed: int) -> Image.Image:
    """A picture with large shapes, as photos have them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((240, 180), Image.Resampling.BICUBIC)


def compressed(picture: Image.Image) -> Image.Image:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def cropped(picture: Image.Image, share: float) -> Image.Image:
    width, height = picture.size
    return picture.crop((int(width * share), int(height * share), int(width * (1 - share)), int(height * (1 - share))))


COPIES = {
    "smaller": lambda picture: picture.resize((100, 75)),
    "larger": lambda picture: picture.resize((480, 360)),
    "compressed": compressed,
    "2% cropped": lambda picture: cropped(picture, 0.02),
    "3% cropped": lambda picture: cropped(picture, 0.03),
    "brighter": lambda picture: picture.point(lambda value: min(255, int(value * 1.05))),
}


@pytest.mark.parametrize("change", COPIES)
def test_copies_are_found_and_others_are_not(change: str) -> None:
    """Each of 30 pictures is paired with its copy, and with nothing else."""
    prints = [fingerprint(scene(i)) for i in range(30)] + [fingerprint(COPIES[change](scene(i))) for i in range(30)]
    assert sorted(pairs(prints, [True] * 60, 32)) == [(i, i + 30) for i in range(30)]


def test_mirrored_copies_are_found_when_asked_for() -> None:
    mirrored = [scene(i).transpose(Image.Transpose.FLIP_LEFT_RIGHT) for i in range(10)]
    prints = [fingerprint(picture) for picture in [*(scene(i) for i in range(10)), *mirrored]]
    assert pairs(prints, [True] * 20, 32) == []
    assert pairs(prints, [True] * 20, 32, flipped=True) == [(i, i + 10) for i in range(10)]


def test_blank_pictures_of_any_colour_are_alike() -> None:
    """A picture without content has an empty hash, not one of rounding errors."""
    prints = [fingerprint(Image.new("RGB", (50 + i, 40), (i, 2 * i, 255 - i))) for i in range(0, 100, 10)]
    assert len(set(prints)) == 1


def test_equal_pictures_are_chained() -> None:
    """A thousand equal ones make 999 pairs, not half a million."""
    prints = [fingerprint(scene(0))] * 1000
    assert pairs(prints, [True] * 1000, 32) == [(0, i) for i in range(1, 1000)]


def drawn(seed: int, number: int) -> np.ndarray:
    """Random words [number, 3, 4]; every second one is near to the one before."""
    generator = np.random.default_rng(seed)
    words = generator.integers(0, 2**63, (number, len(CUTS), WORDS), dtype=np.uint64)
    for i in range(1, number, 2):
        words[i] = words[i - 1]
        for _ in range(generator.integers(0, 40)):
            words[i, generator.integers(3), generator.integers(4)] ^= np.uint64(1) << np.uint64(generator.integers(64))
    return words


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(0, 60), st.sampled_from([1, 3]))
def test_the_search_finds_what_comparing_all_finds(seed: int, number: int, threshold: int, every: int) -> None:
    """The pairs are those within the threshold, and within 8 of the lowest 64 bits, by comparison of all with all."""
    words = drawn(seed, number)
    new = [i % every == 0 for i in range(number)]
    bits = np.bitwise_count(words[:, None, None, 0] ^ words[None])  # [number, number, cuts, words]: whole i, cut of j
    near = ((bits[..., 0] <= REACH) & (bits.sum(-1) <= threshold)).any(-1)
    either = (near | near.T) & np.logical_or.outer(new, new)
    expected = [(int(i), int(j)) for i, j in np.argwhere(np.triu(either, 1))]
    assert sorted(pairs([row.tobytes().hex() for row in words], new, threshold)) == expected


def test_the_nearest_pairs_come_first() -> None:
    """Equal pictures, then a smaller copy, then a crop."""
    picture = scene(0)
    shown = [picture, cropped(picture, 0.03), picture.resize((100, 75)), picture]
    found = pairs([fingerprint(some) for some in shown], [True] * 4, 60)
    assert [pair for pair in found if 0 in pair] == [(0, 3), (0, 2), (0, 1)]


def test_nothing_is_near_without_a_fingerprint_or_a_threshold() -> None:
    prints = [fingerprint(scene(0)), fingerprint(compressed(scene(0))), "", ""]
    assert pairs(prints, [True] * 4, 32) == [(0, 1)]
    assert pairs(prints, [True] * 4, -1) == []
    assert pairs(prints, [False] * 4, 32) == []
    assert pairs([], [], 32) == []
