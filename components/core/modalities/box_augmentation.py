"""Augmentation of pictures with boxes, by torchvision's transforms: what moves a picture moves its boxes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2.functional import pil_to_tensor

from components.core.inference import images

SMALLEST = 2.0  # pixels of the input: a box that a crop leaves less of is gone
SCALES = (0.6, 1.6)  # of the picture; what is smaller than the input stands on white
PADDING = -1.0  # of targets


def augmented(
    contents: Sequence[bytes], targets: Tensor, preprocessing: Mapping[str, Any], seeds: Sequence[int]
) -> tuple[dict[str, Tensor], Tensor]:
    """Return flipped, scaled and cropped pictures with their boxes, each by its own seed.

    Args:
        contents: N encoded pictures.
        targets: Boxes float[N, M, 5]: class and corners as shares of the sides; rows of -1 are none.
        preprocessing: Of the network; the picture is stretched to its `size` first.
        seeds: One for each picture.

    Returns:
        The first stage's input, and targets of the same shape, moved with the pictures.
    """
    transform, side = _transform(preprocessing), preprocessing["size"]
    inputs, moved, sizes = [], [], []
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        for content, target, seed in zip(contents, targets, seeds, strict=True):
            torch.manual_seed(seed)
            with images.decoded(content, preprocessing) as picture:
                sizes.append(picture.info[images.FULL_SIZE])
                pixels = tv_tensors.Image(pil_to_tensor(images.resized(picture, preprocessing)))
            there = target[target[:, 0] >= 0]
            boxes = tv_tensors.BoundingBoxes(there[:, 1:] * side, format="XYXY", canvas_size=(side, side))
            found = transform({"image": pixels, "boxes": boxes, "labels": there[:, 0]})
            inputs.append(found["image"].as_subclass(Tensor))
            row = torch.cat([found["labels"][:, None], found["boxes"].as_subclass(Tensor) / side], dim=1)
            moved.append(torch.cat([row, torch.full((len(target) - len(row), 5), PADDING)]))
    return {"latest": torch.stack(inputs), "size": torch.tensor(sizes)}, torch.stack(moved)


def _transform(preprocessing: Mapping[str, Any]) -> Any:  # noqa: ANN401 - torchvision is untyped
    side = preprocessing["size"]
    interpolation = InterpolationMode(preprocessing["interpolation"])
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.ScaleJitter((side, side), SCALES, interpolation=interpolation),
            v2.RandomCrop((side, side), pad_if_needed=True, fill={tv_tensors.Image: 255, "others": 0}),
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(min_size=SMALLEST),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing["mean"], preprocessing["std"]),
        ]
    )
