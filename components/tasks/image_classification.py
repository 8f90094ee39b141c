"""Pictures into classes, or with `--option target=…` a number or several labels; any backbone."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from components.core.inference import images
from components.core.inference.images import encode
from components.core.modalities import augmentation
from components.core.modalities.augmentation import mixup
from components.core.modalities.pictures import check, near_duplicates
from components.core.networks.heads import new_head
from components.core.networks.images.image_networks import Backbone, build_backbone, rebuild_backbone
from components.core.networks.network import Network, Pytree
from components.core.settings import Settings
from components.core.targets.options import TargetOptions as Options
from components.core.targets.options import chosen as target
from components.core.targets.options import measure
from components.core.weight_sources import LITE0_BACKBONE

__all__ = ["Options", "check", "encode", "measure", "near_duplicates", "target"]

backbone = LITE0_BACKBONE
input_name = "image"
recipe_by_rows = {1_000: {"thaw": 3, "thaw_learning_rate": 1e-3}}  # fewer lose by it: measured in docs/benchmarks.md
WHOLE = "squash"  # keeps all of a picture; docs/benchmarks.md compares the ways
serving_requirements = ("pillow",)


def build(settings: Settings, classes: Sequence[str], dropout: float) -> Network:
    """Pretrained stages and a new head."""
    built = build_backbone(settings.backbone or backbone, settings.weights, settings.image_size)
    return _with_head(built, settings, classes, dropout)


def _with_head(built: Backbone, settings: Settings, classes: Sequence[str], dropout: float) -> Network:
    head = new_head(settings.head, built.features, settings.hidden, len(classes), dropout)
    preprocessing = {**built.preprocessing, "mode": _mode(settings.resize, built.preprocessing["mode"])}
    stages = [stage for _, stage in built.stages]
    return Network(stages, head, preprocessing, built.weights_digest, dict(built.config))


def _mode(resize: str, expected: str) -> str:
    """Choose how a picture becomes square, by the option and by what the weights expect."""
    if resize == "auto":
        return WHOLE if expected == "crop" else expected
    return expected if resize == "weights" else resize


def rebuild(settings: Settings, facts: Mapping[str, Any]) -> Network:
    """The network of a checkpoint, with random weights."""
    built = rebuild_backbone(settings.backbone or backbone, facts["preprocessing"], facts.get("config", {}))
    return _with_head(built, settings, facts["classes"], facts["hyperparameters"]["dropout"])


def thumbnails(contents: Sequence[bytes]) -> list[bytes]:
    """Pictures at most 160 pixels wide and high, as JPEG."""
    return [_thumbnail(content) for content in contents]


def _thumbnail(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with images.decoded(content) as picture:
        picture.thumbnail((160, 160))
        picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def augments(settings: Settings) -> bool:
    """Return whether pictures are augmented or mixed afresh in each epoch."""
    return augmentation.augments(settings) or settings.cutmix > 0


def augment(
    contents: Sequence[bytes],
    targets: Tensor,
    preprocessing: Mapping[str, Any],
    settings: Settings,
    seeds: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Augmented pictures [B, 3, size, size]; targets are unchanged."""
    transform = _augmentation(settings, preprocessing)
    inputs = []
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        for content, seed in zip(contents, seeds, strict=True):
            torch.manual_seed(seed)
            with images.decoded(content) as picture:
                inputs.append(transform(picture))
    return torch.stack(inputs), targets


def mix(inputs: Pytree, targets: Tensor, settings: Settings, classes: int, seed: int) -> tuple[Pytree, Tensor]:
    """Mixup of pictures or activations; with cutmix, one of the two on pictures, drawn for each batch."""
    if not settings.cutmix:
        return mixup(inputs, targets, settings.mixup, classes, seed)
    choices = [v2.CutMix(alpha=settings.cutmix, num_classes=classes)]
    choices += [v2.MixUp(alpha=settings.mixup, num_classes=classes)] if settings.mixup else []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mixed: tuple[Tensor, Tensor] = v2.RandomChoice(choices)(inputs, targets)
    return mixed


def _square(picture: Image, preprocessing: Mapping[str, Any]) -> Image:
    """Make a picture square as evaluation does, where it keeps all of it, with pixels to spare for a crop."""
    if preprocessing["mode"] == "crop" or picture.width == picture.height:
        return picture
    # a line of 1 x 30000 pixels never grows to millions; the smallest crop has 1.4 times the side of the input
    side = min(max(picture.size), 2 * preprocessing["size"])
    return images.resized(picture, {**preprocessing, "size": side})


def _augmentation(settings: Settings, preprocessing: Mapping[str, Any]) -> Any:  # noqa: ANN401 - torchvision is untyped
    size = preprocessing["size"]
    if settings.augment == "none":
        geometry: list[Any] = [v2.Lambda(lambda picture: images.resized(picture, preprocessing))]
    else:
        interpolation = InterpolationMode(preprocessing["interpolation"])
        geometry = [
            v2.Lambda(lambda picture: _square(picture, preprocessing)),
            v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=interpolation),
            v2.RandomHorizontalFlip(),
        ]
    policy: dict[str, list[Any]] = {
        "none": [],
        "basic": [],
        "randaugment": [v2.RandAugment(fill=255)],
        "trivialaugment": [v2.TrivialAugmentWide(fill=255)],
    }
    return v2.Compose(
        [
            *geometry,
            *policy[settings.augment],
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing["mean"], preprocessing["std"]),
        ]
    )
