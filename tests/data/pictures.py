"""Small pictures that a network can tell apart, for tests of the picture task."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(folder: Path, per_class: int, classes: int = 3, size: int = 40, seed: int = 0) -> Path:
    """A folder per class with noisy PNGs, each class of its own colour."""
    generator = np.random.default_rng(seed)
    for number in range(classes):
        target = folder / f"class{number}"
        target.mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            pixels = generator.integers(0, 120, (size, size, 3))
            pixels[..., number % 3] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(target / f"{i:04}.png")
    return folder
