"""Pictures into boxes: an image network below a feature pyramid and the head of FCOS, or a whole detector.

`thawline run FOLDER --task object_detection`, with a folder in the layout of COCO or Pascal VOC, or a manifest whose
labels are boxes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from components.core.contract.task_options import parse_options
from components.core.errors import InputError
from components.core.inference.images import encode
from components.core.modalities import augmentation, box_augmentation, box_drawing
from components.core.modalities.pictures import check, near_duplicates
from components.core.networks.detection.detectors import Maps, build_maps, detection_head, rebuild_maps
from components.core.networks.network import Network
from components.core.settings import Settings
from components.core.targets import detection_metrics
from components.core.targets.detection import Detection
from components.core.weight_sources import LITE0_BACKBONE

__all__ = ["check", "encode", "near_duplicates"]

backbone = LITE0_BACKBONE
input_name = "image"
recipe = {"head_solver": "sgd", "label_smoothing": 0.0}  # the loss of boxes is not convex, and smooths no classes
serving_requirements = ("pillow", "torchvision")

SHOWN = 320  # pixels of a picture's longer side in the report


class Options(BaseModel):
    """`--option NAME=VALUE`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(64, ge=64, le=1024, description="Channels of the feature pyramid, a multiple of 32.")
    depth: int = Field(2, ge=0, le=8, description="Convolutions of each of the head's two towers.")


def target(settings: Settings) -> Detection:
    """Return the target: boxes."""
    if settings.class_weights != "none" or settings.label_smoothing:
        sentence = "--class-weights and --label-smoothing are for classes, not for boxes."
        raise InputError(sentence, "Leave them out.")
    return Detection()


def build(settings: Settings, classes: Sequence[str], dropout: float) -> Network:
    """Pretrained stages and a new pyramid and head."""
    for option, value, known in (("resize", settings.resize, "auto squash"), ("head", settings.head, "linear")):
        if value not in known.split():
            raise InputError(f"--{option} {value} is not for object detection.", "Leave it out.")
    if settings.mixup or settings.cutmix:
        raise InputError("Pictures with boxes can't be mixed.", "Leave out --mixup and --cutmix.")
    maps = build_maps(settings.backbone or backbone, settings.weights, settings.image_size)
    return _with_head(maps, settings, classes, dropout)


def rebuild(settings: Settings, facts: Mapping[str, Any]) -> Network:
    """The network of a checkpoint, with random weights."""
    maps = rebuild_maps(settings.backbone or backbone, facts["preprocessing"], facts.get("config", {}))
    return _with_head(maps, settings, facts["classes"], facts["hyperparameters"]["dropout"])


def augments(settings: Settings) -> bool:
    """Return whether pictures are augmented afresh in each epoch.

    Raises:
        InputError: The augmentation is not one that moves boxes, or would be cached without them.
    """
    if settings.augment not in ("none", "basic"):
        raise InputError(f"--augment {settings.augment} moves no boxes.", "Use --augment basic, or none.")
    if settings.views:
        raise InputError("--views caches no boxes, and augmentation moves them.", "Leave out --views.")
    return augmentation.augments(settings)


def augment(
    contents: Sequence[bytes],
    targets: Tensor,
    preprocessing: Mapping[str, Any],
    settings: Settings,
    seeds: Sequence[int],
) -> tuple[dict[str, Tensor], Tensor]:
    """Flipped, scaled and cropped pictures, and their boxes."""
    del settings
    return box_augmentation.augmented(contents, targets, preprocessing, seeds)


def thumbnails(contents: Sequence[bytes]) -> list[bytes]:
    """Pictures as JPEG."""
    return [box_drawing.draw(content, [], [], side=SHOWN) for content in contents]


def drawn(contents: Sequence[bytes], labels: Sequence[str], answers: pd.DataFrame) -> list[bytes]:
    """Pictures with what is there, dashed, and with confident boxes, green where they find it."""
    found = []
    for content, label, said in zip(contents, labels, detection_metrics.answered(answers), strict=True):
        objects, names = detection_metrics.truth(label), [*{*said.names}]
        matched = detection_metrics.matches([said], [objects], sorted({*names, *objects.names}))
        right = matched.found[: said.sure, detection_metrics.HALF].tolist()
        boxes, told = said.boxes[: said.sure].tolist(), said.names[: said.sure]
        found.append(box_drawing.draw(content, boxes, told, right, objects.boxes.tolist(), SHOWN))
    return found


def _with_head(maps: Maps, settings: Settings, classes: Sequence[str], dropout: float) -> Network:
    options, built = parse_options(settings, Options), maps.backbone
    head = detection_head(maps, options.width, options.depth, len(classes), dropout)
    preprocessing = {**built.preprocessing, "mode": "squash", "sized": True}
    return Network(maps.stages, head, preprocessing, built.weights_digest, dict(built.config))
