"""Near-duplicates among 100,000 pictures: `python -m tests.benchmarks.volume.near_duplicates_100000 [COUNT]`.

Synthetic scenes, one in ten with a compressed, smaller copy. Prints pictures hashed a second, seconds of the search for
all pairs, and of the search for a week's 5% of new ones, with the share of copies that were found.
"""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
from PIL import Image

from components.core.modalities.near_duplicate_images import fingerprint, pairs

SIZE, COARSE, COPIES, WEEK = (96, 72), (12, 9), 10, 0.05


def scene(seed: int) -> Image.Image:
    """A picture with large shapes, all different."""
    coarse = np.random.default_rng(seed).integers(0, 256, (COARSE[1], COARSE[0], 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)


def copy(picture: Image.Image) -> Image.Image:
    """Smaller, and compressed as JPEG."""
    buffer = BytesIO()
    picture.resize((SIZE[0] * 2 // 3, SIZE[1] * 2 // 3)).save(buffer, "JPEG", quality=60)
    return Image.open(buffer).convert("RGB")


def prints(count: int) -> list[str]:
    """Fingerprints of scenes; every tenth is followed by its copy."""

    def some(number: int) -> str:
        picture = scene(number - number % COPIES if number % COPIES == 1 else number)
        return fingerprint(copy(picture) if number % COPIES == 1 else picture)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(some, range(count)))


def found(near: Sequence[tuple[int, int]], count: int) -> float:
    """Share of the copies that were paired with their originals."""
    originals = range(0, count - 1, COPIES)
    known = set(near)
    return sum((number, number + 1) in known for number in originals) / len(originals)


def main() -> None:
    """Hash, search, print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    begin = time.perf_counter()
    hashes = prints(count)
    print(f"{count / (time.perf_counter() - begin):,.0f} pictures made and hashed a second")
    begin = time.perf_counter()
    near = pairs(hashes, [True] * count, 32)
    seconds = time.perf_counter() - begin
    print(f"{seconds:.1f} s for all pairs of {count:,}: {len(near):,}, {found(near, count):.1%} of the copies")
    new = [number >= count * (1 - WEEK) for number in range(count)]
    begin = time.perf_counter()
    near = pairs(hashes, new, 32)
    print(f"{time.perf_counter() - begin:.1f} s for {sum(new):,} new ones: {len(near):,} pairs")


if __name__ == "__main__":
    main()
