"""Tiny sound models with random weights, saved as transformers saves its own, and sounds to feed them."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WAVE = {**SIZE, "conv_dim": (8, 8, 8), "conv_kernel": (10, 3, 3), "conv_stride": (5, 4, 4)}
WAVE |= {"num_feat_extract_layers": 3, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
WHISPER = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "num_mel_bins": 12}
WHISPER |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "max_source_positions": 50}
WHISPER |= {"vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
AST = {**SIZE, "num_mel_bins": 24, "max_length": 100}
FAMILIES: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "wav2vec2": ("wav2vec2", WAVE, {}),
    "wav2vec2-masked": (
        "wav2vec2",
        {**WAVE, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
        {"return_attention_mask": True},
    ),
    "hubert": ("hubert", WAVE, {}),
    "whisper": ("whisper", WHISPER, {"feature_size": 12, "chunk_length": 1}),
    "ast": ("audio-spectrogram-transformer", AST, {"num_mel_bins": 24, "max_length": 100}),
}


def save_model(folder: Path, family: str, **changed: Any) -> Path:
    """A folder with config.json, preprocessor_config.json and weights."""
    from transformers import (
        ASTFeatureExtractor,
        AutoConfig,
        AutoModel,
        Wav2Vec2FeatureExtractor,
        WhisperFeatureExtractor,
    )

    extractors = {"whisper": WhisperFeatureExtractor, "audio-spectrogram-transformer": ASTFeatureExtractor}
    kind, sizes, described = FAMILIES[family]
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(kind, **sizes | changed)).save_pretrained(folder)
    extractors.get(kind, Wav2Vec2FeatureExtractor)(**described).save_pretrained(folder)
    return folder


def tone(hertz: float, seconds: float = 1.0, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """A sine with a little noise, float32[N]."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.3 * np.sin(2 * np.pi * hertz * time) + 0.01 * noise).astype(np.float32)


def sound_file(wave: np.ndarray, rate: int = 16_000, kind: str = "WAV", **options: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, **options)
    return buffer.getvalue()
