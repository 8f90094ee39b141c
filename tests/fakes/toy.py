"""A small real task: points in the plane, a network of three tiny stages. Chosen by `--task tests.fakes.toy`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from components.core.errors import RejectedRecord
from components.core.modalities.augmentation import mixup
from components.core.networks.network import Network
from components.core.networks.weights import state_digest
from components.core.settings import Settings
from components.core.targets.classification import Classification
from tests.fakes.toy_serving import encode

__all__ = ["encode"]

backbone = "tanh"
input_name = "point"


def target(settings: Settings) -> Classification:
    return Classification()


def check(content: bytes) -> Mapping[str, int | str]:
    try:
        x, y = (float(part) for part in content.decode().split(","))
    except ValueError as error:
        raise RejectedRecord("no point") from error
    return {"quadrant": 2 * (x > 0) + (y > 0)}


def build(settings: Settings, classes: Sequence[str], dropout: float) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # the "pretrained" weights
        stages = [nn.Sequential(nn.Linear(i, 8), nn.Tanh()) for i in (2, 8, 8)]
    head = nn.Sequential(nn.Dropout(dropout), nn.Linear(8, len(classes)))
    return Network(stages, head, {"scale": 1.0}, state_digest(nn.ModuleList(stages).state_dict()))


def augment(
    contents: Sequence[bytes],
    targets: Tensor,
    preprocessing: Mapping[str, Any],
    settings: Settings,
    seeds: Sequence[int],
) -> tuple[Tensor, Tensor]:
    noise = [torch.randn(2, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return encode(contents, preprocessing) + 0.1 * torch.stack(noise), targets


def mix(inputs: Tensor, targets: Tensor, settings: Settings, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    return mixup(inputs, targets, settings.mixup, classes, seed)


def write_points(folder: Path, per_class: int, classes: int = 3, spread: float = 0.5, seed: int = 0) -> Path:
    """A folder per class with a file per point, around the corners of a polygon."""
    generator = np.random.default_rng(seed)
    for number in range(classes):
        angle = 2 * np.pi * number / classes
        target = folder / f"class{number}"
        target.mkdir(parents=True, exist_ok=True)
        points = generator.normal((2 * np.cos(angle), 2 * np.sin(angle)), spread, (per_class, 2))
        for i, (x, y) in enumerate(points):
            (target / f"{i:04}.txt").write_text(f"{x:.6f},{y:.6f}")
    return folder


def write_distances(folder: Path, count: int, seed: int = 0) -> Path:
    """A manifest of points and their distances from the origin; the last row's label is no number."""
    folder.mkdir(parents=True, exist_ok=True)
    points = np.random.default_rng(seed).uniform(-2, 2, (count, 2))
    rows = [f'"{x:.6f},{y:.6f}",{np.hypot(x, y):.6f}' for x, y in points]
    path = folder / "points.csv"
    path.write_text("\n".join(["text,label", *rows, '"1,1",far', ""]))
    return path
