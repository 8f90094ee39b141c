"""Augmentation of sounds: noise, another piece of a long sound, and SpecAugment."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from components.core.inference import sounds
from components.core.networks.network import Pytree

MASKS = 2  # of each kind


def augmented(
    contents: Sequence[bytes],
    preprocessing: Mapping[str, Any],
    seeds: Sequence[int],
    *,
    noise: float,
    time_mask: float,
    band_mask: float,
    whole: bool = False,
) -> Pytree:
    """Sounds as `sounds.encode` gives them, each augmented by its own seed.

    Args:
        contents: Raw records.
        preprocessing: Of the network.
        seeds: One for each record.
        noise: Least signal-to-noise ratio of white noise in decibels, at most 40; 0: none.
        time_mask: Most of the length that one of two masks over time hides.
        band_mask: Most of the mel bands that one of two masks over bands hides (Park et al. 2019, "SpecAugment",
            without time warping); samples have none.
        whole: Keep the beginning of a long sound instead of a piece from anywhere.
    """
    generators = [np.random.default_rng(seed) for seed in seeds]
    waves = []
    for content, generator in zip(contents, generators, strict=True):
        seconds = 0.0 if not whole else preprocessing["samples"] / preprocessing["sample_rate"]
        wave = sounds.decode(content, preprocessing["sample_rate"], seconds)
        start = int(generator.integers(max(1, len(wave) - preprocessing["samples"] + 1)))
        waves.append(_noisy(wave[start : start + preprocessing["samples"]], noise, generator))
    batch = sounds.encode_waves(waves, preprocessing)
    for row, length, generator in zip(batch["sound"], batch["length"].tolist(), generators, strict=True):
        filling = row[:length].mean()
        for _ in range(MASKS):
            start, stop = _span(length, time_mask, generator)
            row[start:stop] = filling
            if row.dim() > 1:
                start, stop = _span(row.shape[1], band_mask, generator)
                row[:length, start:stop] = filling
    return batch


def _noisy(wave: sounds.Wave, least: float, generator: np.random.Generator) -> sounds.Wave:
    if not least:
        return wave
    ratio = generator.uniform(least, max(least, 40.0))
    level = np.sqrt(np.mean(np.square(wave))) * 10.0 ** (-ratio / 20.0)
    return wave + np.float32(level) * generator.standard_normal(len(wave), dtype=np.float32)


def _span(length: int, share: float, generator: np.random.Generator) -> tuple[int, int]:
    width = int(generator.integers(int(share * length) + 1))
    start = int(generator.integers(length - width + 1))
    return start, start + width
