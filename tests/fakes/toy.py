"""The smallest real task: points in the plane, a network of three tiny stages. Chosen by `--task tests.fakes.toy`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from components.core.contract import Target
from components.core.errors import RejectedRecord
from components.core.modalities.augmentation import mixup
from components.core.networks.network import Network
from components.core.networks.weights import state_digest
from components.core.settings import Settings
from components.core.targets import classification
from components.core.targets.classification import measure, reference
from components.core.task_options import NoOptions

__all__ = ["measure", "reference"]

backbone = "tanh"
Options = NoOptions
split_by = "hash"
input_name = "point"
serving_requirements = ()
serving_code = Path(__file__).with_name("toy_serving.py")


def target(settings: Settings) -> Target:
    return classification


def check(content: bytes) -> Mapping[str, int | str]:
    try:
        x, y = (float(part) for part in content.decode().split(","))
    except ValueError as error:
        raise RejectedRecord("no point") from error
    return {"quadrant": 2 * (x > 0) + (y > 0)}


def near_duplicates(fingerprints: Sequence[str], new: Sequence[bool], settings: Settings) -> list[tuple[int, int]]:
    return []


def build(settings: Settings, classes: Sequence[str], dropout: float) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # the "pretrained" weights
        stages = [nn.Sequential(nn.Linear(i, 8), nn.Tanh()) for i in (2, 8, 8)]
    head = nn.Sequential(nn.Dropout(dropout), nn.Linear(8, len(classes)))
    return Network(stages, head, {"scale": 1.0}, state_digest(nn.ModuleList(stages).state_dict()))


def rebuild(settings: Settings, facts: Mapping[str, Any]) -> Network:
    return build(settings, facts["classes"], facts["hyperparameters"]["dropout"])


def encode(contents: Sequence[bytes], preprocessing: Mapping[str, Any]) -> Tensor:
    points = [[float(part) for part in content.decode().split(",")] for content in contents]
    return torch.tensor(points) * preprocessing["scale"]


def augments(settings: Settings) -> bool:
    return settings.augment != "none" and not settings.views


def augment(
    contents: Sequence[bytes], preprocessing: Mapping[str, Any], settings: Settings, seeds: Sequence[int]
) -> Tensor:
    noise = [torch.randn(2, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return encode(contents, preprocessing) + 0.1 * torch.stack(noise)


def mix(inputs: Tensor, targets: Tensor, settings: Settings, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    return mixup(inputs, targets, settings.mixup, classes, seed)


def thumbnails(contents: Sequence[bytes]) -> list[bytes]:
    return []


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
