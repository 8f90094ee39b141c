"""Users that walk from item to item by a hidden map: a table of interactions whose next item can be learned."""

import csv
from pathlib import Path

import numpy as np


def write_interactions(path: Path, users: int, items: int = 40, steps: int = 20, seed: int = 0) -> Path:
    """Each item has one likely successor, which follows with 80%; times are whole numbers."""
    generator = np.random.default_rng(seed)
    successor = np.roll(generator.permutation(items), 1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time"])
        for user in range(users):
            had, moment = [int(generator.integers(items))], int(generator.integers(1000))
            for _ in range(steps):
                follows = int(successor[had[-1]])
                left = [item for item in range(items) if item not in had]
                had.append(follows if follows in left and generator.random() < 0.8 else int(generator.choice(left)))
            for item in had:
                writer.writerow([f"u{user}", f"i{item}", moment])
                moment += int(generator.integers(1, 3))
    return path
