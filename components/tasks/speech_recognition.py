"""Speech into transcripts: an encoder of sounds with a CTC head over characters or words.

`thawline run speech.csv --task speech_recognition --weights package:resemblyzer`, with a manifest of uri,label whose
labels are what is said.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from components.core.contract.task_options import parse_options
from components.core.data.examples import Examples
from components.core.errors import InputError
from components.core.inference import sounds
from components.core.inference.sounds import encode
from components.core.modalities.augmentation import refuse_picture_augmentation
from components.core.modalities.sound_augmentation import augmented
from components.core.modalities.sound_lengths import measure_seconds, preprocessing_for
from components.core.modalities.sound_records import SoundOptions, check, near_duplicates
from components.core.networks.heads import new_head
from components.core.networks.network import Network, Pytree
from components.core.networks.sounds import Encoder, build_encoder, rebuild_stages
from components.core.settings import Settings
from components.core.targets.transcription import CTCHead, Transcription
from components.core.weight_sources import SPEAKER

__all__ = ["check", "encode", "near_duplicates"]

backbone = SPEAKER
recipe = {"head_solver": "sgd"}  # the loss of transcripts is not convex
input_name = "sound"
serving_requirements = ("soundfile", "soxr")

LONGEST_CHOSEN = 20.0  # seconds; what is cut off is missing from the transcript, so nearly everything is kept
WHOLE = 0.99  # share of the training sounds that the length holds, up to that


class Options(SoundOptions):
    """`--option NAME=VALUE`."""

    units: Literal["characters", "words"] = Field("characters", description="Output units of the network.")
    beam: int = Field(1, ge=1, le=100, description="Number of prefixes kept in decoding; 1: the best path.")
    time_mask: float = Field(
        0.05, ge=0, lt=1, description="Largest share of the length that a mask of --augment hides."
    )


def target(settings: Settings) -> Transcription:
    """Return the target: transcripts."""
    if settings.class_weights != "none" or settings.label_smoothing:
        sentence = "--class-weights and --label-smoothing are for classes, not for transcripts."
        raise InputError(sentence, "Leave them out.")
    options = parse_options(settings, Options)
    return Transcription(options.beam, words=options.units == "words")


def measure(settings: Settings, examples: Examples) -> tuple[dict[str, str], str]:
    """The length that holds 99% of the training sounds, at most 20 seconds (of Whisper its own), and what it cuts."""
    encoder = build_encoder(settings.backbone or backbone, settings.weights, frames=True)
    given = parse_options(settings, Options).seconds
    found, note = measure_seconds(encoder, given, LONGEST_CHOSEN, examples, WHOLE)
    return found, "; ".join(filter(None, [note, _unheard(settings, encoder, float(found["seconds"]), examples)]))


def build(settings: Settings, classes: Sequence[str], dropout: float) -> Network:
    """Pretrained stages (front, then layer by layer) and a new head that scores each frame."""
    refuse_picture_augmentation(settings, "sounds")
    if settings.mixup:
        raise InputError("Transcription can't be mixed.", "Leave out --mixup.")
    encoder = build_encoder(settings.backbone or backbone, settings.weights, frames=True)
    preprocessing = preprocessing_for(encoder, parse_options(settings, Options).seconds)
    head = _head(settings, encoder.features, len(classes), dropout)
    return Network(encoder.stages, head, preprocessing, encoder.weights_digest, encoder.config)


def rebuild(settings: Settings, facts: Mapping[str, Any]) -> Network:
    """The network of a checkpoint, with random weights."""
    stages, features = rebuild_stages(facts["config"])
    head = _head(settings, features, len(facts["classes"]), facts["hyperparameters"]["dropout"])
    return Network(stages, head, facts["preprocessing"])


def augment(
    contents: Sequence[bytes],
    targets: Tensor,
    preprocessing: Mapping[str, Any],
    settings: Settings,
    seeds: Sequence[int],
) -> tuple[Pytree, Tensor]:
    """Sounds with noise and SpecAugment's masks, from their beginning, as their transcripts are."""
    if settings.augment == "none":
        return encode(contents, preprocessing), targets
    chosen = parse_options(settings, Options).model_dump(include={"noise", "time_mask", "band_mask"})
    return augmented(contents, preprocessing, seeds, **chosen, whole=True), targets


def _unheard(settings: Settings, encoder: Encoder, seconds: float, examples: Examples) -> str:
    """Count the training transcripts that are longer than their frames allow, which no loss would show."""
    preprocessing = preprocessing_for(encoder, seconds)
    silence = sounds.encode_waves([np.zeros(preprocessing["samples"], np.float32)], preprocessing)
    with torch.no_grad():
        frames = int(encoder.stages[0](silence)["length"][0])
    rows, said = examples.rows("train"), target(settings)
    room = np.minimum(np.array(examples.column("milliseconds", rows)) / 1000 / seconds, 1.0) * frames
    needed = np.array([said.frames(label) for label in examples.labels(rows)])
    if not (lost := int((needed > room).sum())):
        return ""
    return f"{lost} of {len(rows)} transcripts need more frames than their sounds have: they can't be learned from"


def _head(settings: Settings, features: int, units: int, dropout: float) -> CTCHead:
    return CTCHead(new_head(settings.head, features, settings.hidden, 1 + units, dropout))
