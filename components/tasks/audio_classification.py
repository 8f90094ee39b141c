"""Sounds into classes, or with `--option target=…` a number or several labels.

The speaker encoder, wav2vec2, HuBERT, Whisper's encoder or AST.

`thawline run clips/ --task audio_classification --weights package:resemblyzer`, with a folder of WAV, FLAC, OGG or MP3
files by class, or a manifest of uri,label.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from components.core.contract.task_options import parse_options
from components.core.data.examples import Examples
from components.core.inference import sounds
from components.core.inference.sounds import encode
from components.core.modalities.augmentation import mixup, refuse_picture_augmentation
from components.core.modalities.sound_augmentation import augmented
from components.core.modalities.sound_lengths import measure_seconds, preprocessing_for
from components.core.modalities.sound_records import SoundOptions, check, near_duplicates
from components.core.networks.heads import new_head
from components.core.networks.network import Network, Pytree
from components.core.networks.sounds import SPEAKER_FRONT, build_encoder, rebuild_stages
from components.core.settings import Settings
from components.core.targets import options as targets
from components.core.targets.options import Chosen, TargetOptions
from components.core.targets.references import linear_models
from components.core.weight_sources import SPEAKER

__all__ = ["check", "encode", "near_duplicates"]

backbone = SPEAKER
input_name = "sound"
serving_requirements = ("soundfile", "soxr")

LONGEST_CHOSEN = 10.0  # seconds; what is computed grows with them, so more is the user's to ask for


class Options(SoundOptions, TargetOptions):
    """`--option NAME=VALUE`."""


def target(settings: Settings) -> Chosen:
    """A class, a number, or several labels for each sound."""
    return targets.chosen(settings, Options)


def measure(settings: Settings, examples: Examples) -> tuple[dict[str, str], str]:
    """The length that holds 95% of the training sounds (of Whisper and AST their own); what the target has to know."""
    found, said = targets.measure(settings, examples, Options)
    encoder = build_encoder(settings.backbone or backbone, settings.weights)
    chosen, note = measure_seconds(encoder, parse_options(settings, Options).seconds, LONGEST_CHOSEN, examples)
    return {**found, **chosen}, "; ".join(filter(None, [note, said]))


def build(settings: Settings, classes: Sequence[str], dropout: float) -> Network:
    """Pretrained stages (front, then layer by layer) and a new head."""
    refuse_picture_augmentation(settings, "sounds")
    encoder = build_encoder(settings.backbone or backbone, settings.weights)
    preprocessing = preprocessing_for(encoder, parse_options(settings, Options).seconds)
    head = new_head(settings.head, encoder.features, settings.hidden, len(classes), dropout)
    return Network(encoder.stages, head, preprocessing, encoder.weights_digest, encoder.config)


def rebuild(settings: Settings, facts: Mapping[str, Any]) -> Network:
    """The network of a checkpoint, with random weights."""
    stages, features = rebuild_stages(facts["config"])
    dropout, classes = facts["hyperparameters"]["dropout"], len(facts["classes"])
    return Network(stages, new_head(settings.head, features, settings.hidden, classes, dropout), facts["preprocessing"])


def augment(
    contents: Sequence[bytes],
    targets: Tensor,
    preprocessing: Mapping[str, Any],
    settings: Settings,
    seeds: Sequence[int],
) -> tuple[Pytree, Tensor]:
    """Sounds with noise, SpecAugment's masks, and another piece of those that are too long."""
    if settings.augment == "none":
        return encode(contents, preprocessing), targets
    chosen = parse_options(settings, Options).model_dump(include={"noise", "time_mask", "band_mask"})
    return augmented(contents, preprocessing, seeds, **chosen), targets


def mix(inputs: Pytree, targets: Tensor, settings: Settings, classes: int, seed: int) -> tuple[Pytree, Tensor]:
    """Mixup of sounds or of what the network makes of them; the longer of the two lengths counts."""
    mixed, soft = mixup(inputs, targets, settings.mixup, classes, seed)
    if settings.mixup and isinstance(mixed, dict):
        mixed = {**mixed, "length": mixed["length"].maximum(mixed["length"].roll(1, 0))}
    return mixed, soft


def thumbnails(contents: Sequence[bytes]) -> list[bytes]:
    """Spectrograms of the first five seconds as PNG: time to the right, pitch upwards."""
    shown = []
    for bands in _log_mel(contents, 5.0):
        levels = ((bands - bands.max() + 80.0) / 80.0).clip(0.0, 1.0)  # of the loudest 80 dB
        picture = Image.fromarray((255 * levels.T[::-1]).astype(np.uint8)).resize((160, 80))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        shown.append(buffer.getvalue())
    return shown


def references(settings: Settings, examples: Examples) -> list[tuple[str, pd.DataFrame]]:
    """Mean and deviation of log-mel bands with logistic regression; none for other targets than classes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if parse_options(settings, Options).target != "classes":
        return []
    rows = linear_models.rows_of(examples)
    labels = {split: examples.labels(some) for split, some in rows.items()}
    features = {split: _statistics(examples, some) for split, some in rows.items()}
    models = [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)) for c in (0.01, 0.1, 1.0)]
    best = linear_models.on_all(linear_models.best_of(models, features, labels), features, labels)
    answers = linear_models.class_answers(best, features["test"])
    return [("log-mel statistics with logistic regression", answers)]


def _statistics(examples: Examples, rows: Sequence[int], chunk: int = 64) -> np.ndarray[Any, Any]:
    parts = [
        np.concatenate([bands.mean(0), bands.std(0)])
        for start in range(0, len(rows), chunk)
        for bands in _log_mel(examples.contents(rows[start : start + chunk]), LONGEST_CHOSEN)
    ]
    return np.stack(parts)


def _log_mel(contents: Sequence[bytes], seconds: float) -> list[np.ndarray[Any, Any]]:
    """Decibels in 40 mel bands float32[T, 40] of each sound, without padding."""
    if not contents:
        return []
    preprocessing = {**SPEAKER_FRONT, "samples": int(seconds * SPEAKER_FRONT["sample_rate"])}
    batch = encode(contents, preprocessing)
    decibels = 10.0 * torch.log10(batch["sound"] + sounds.FULL_SCALE_FLOOR)
    return [row[:length].numpy() for row, length in zip(decibels, batch["length"].tolist(), strict=True)]
