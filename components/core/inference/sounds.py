"""From a sound file's bytes to a network's input.

This file travels with a served model and is loaded where Thawline is not installed, so it imports nothing from here.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from io import BytesIO
from typing import Any, NotRequired, TypeAlias, TypedDict

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

Wave: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]  # one channel, -1 to 1

MAX_SECONDS = 600  # of one file: a few kilobytes of FLAC can say days of silence
MAX_SAMPLES = 2**26  # of one file and channel: a quarter of a gigabyte
MAX_CHANNELS = 64
LEAST_RATE, MOST_RATE = 4_000, 768_000  # hertz
LEAST_SECONDS = 0.1
SILENCE = 1e-4  # of full scale, -80 dB: the highest peak of what is no sound
BLOCK = 2**16  # samples that are decoded at a time: all channels of a long file would not fit into memory
FULL_SCALE_FLOOR = 1e-10  # as Whisper's: power below it is none

_READABLE = {b"RIFF": "WAV", b"RF64": "WAV", b"fLaC": "FLAC", b"OggS": "OGG", b"ID3": "MP3"}
_UNSUPPORTED = {  # what people have beside them, by their first bytes or those behind the fourth
    b"ftyp": "M4A or MP4",
    b"FORM": "AIFF",
    b".snd": "AU",
    b"caff": "CAF",
    b"MThd": "MIDI",
    b"#!AMR": "AMR",
    b"\x30\x26\xb2\x75": "WMA",
    b"\x1a\x45\xdf\xa3": "WebM or Matroska",
    b"PK\x03\x04": "ZIP",
}
_ENDS, _PAGE_HEADER = 4, 27  # of an OGG page: the flag of the last one, bytes before the table of its segments
_UNKNOWN_SIZES = (0, 2**32 - 1)  # of a WAV file that was written as a stream
_UNKNOWN_FRAMES = 2**63 - 1  # of a FLAC file that was


class Preprocessing(TypedDict):
    """What turns a sound file into the network's input."""

    sample_rate: int  # hertz
    samples: int  # of every row at that rate; longer sounds lose their end, shorter ones are padded
    front: str  # wave: samples as they are; mel: power in bands of the mel scale
    normalize: NotRequired[bool]  # wave: to zero mean and unit variance
    loudness: NotRequired[float]  # decibels of full scale; softer sounds are raised to it
    window: NotRequired[int]  # mel: samples of a frame
    fft: NotRequired[int]  # mel: of its transform, zeros behind the frame
    hop: NotRequired[int]  # mel: samples between frames
    bands: NotRequired[int]
    scale: NotRequired[str]  # slaney or kaldi
    edges: NotRequired[str]  # what lies beyond the ends of the sound: reflect, constant (zeros), none (no frames there)
    log: NotRequired[str]  # none, whisper or kaldi
    mean: NotRequired[float]  # subtracted, kaldi
    std: NotRequired[float]  # what is divided by, kaldi


def facts(content: bytes) -> dict[str, int]:
    """Length in milliseconds, sample rate in hertz and channels of a sound that can be used.

    Raises:
        ValueError: It can't be; the message is the reason, `kind` or `kind: detail`.
    """
    wave, rate, channels = _read(content, 0.0)
    if len(wave) < LEAST_SECONDS * rate:
        raise ValueError(f"shorter than {LEAST_SECONDS:g} s")
    if not np.isfinite(wave).all():
        raise ValueError("samples that are no numbers")
    if np.abs(wave).max() < SILENCE:
        raise ValueError("silent")
    return {"milliseconds": round(1000 * len(wave) / rate), "sample_rate": rate, "channels": channels}


def decode(content: bytes, rate: int, seconds: float = 0.0) -> Wave:
    """The mean of the channels at `rate` hertz; no more than the first `seconds`, unless 0.

    Raises:
        ValueError: The bytes are no sound that can be read; the message is the reason, `kind` or `kind: detail`.
    """
    wave, own, _ = _read(content, seconds)
    if own != rate:
        wave = soxr.resample(wave, own, rate)  # the default quality: 120 dB
    wave = np.clip(np.nan_to_num(wave), -1.0, 1.0)
    return wave[: round(seconds * rate)] if seconds else wave


def encode(contents: Sequence[bytes], preprocessing: Mapping[str, Any]) -> dict[str, Tensor]:
    """Sounds as `sound` float32[B, N] or [B, T, bands], and `length` int64[B] of what is no padding in it.

    Raises:
        ValueError: One of them is no sound.
    """
    rate, seconds = preprocessing["sample_rate"], preprocessing["samples"] / preprocessing["sample_rate"]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:  # both libraries release the interpreter lock
        waves = list(pool.map(lambda content: decode(content, rate, seconds), contents))
    return encode_waves(waves, preprocessing)


def encode_waves(waves: Sequence[Wave], preprocessing: Mapping[str, Any]) -> dict[str, Tensor]:
    """As `encode`, of sounds that are decoded already."""
    samples = preprocessing["samples"]
    batch = torch.zeros(len(waves), samples)
    for row, wave in enumerate(waves):
        batch[row, : len(wave)] = torch.from_numpy(_levelled(wave[:samples], preprocessing))
    lengths = torch.tensor([min(len(wave), samples) for wave in waves])
    if preprocessing["front"] == "wave":
        return {"sound": batch, "length": lengths}
    frames = torch.tensor([_frames(int(length), preprocessing) for length in lengths])
    rows = [_mel(*pair, preprocessing) for pair in zip(batch, frames.tolist(), strict=True)]
    return {"sound": torch.stack(rows), "length": frames}


@lru_cache(maxsize=8)
def mel_filters(rate: int, fft: int, bands: int, scale: str) -> Tensor:
    """Triangles float32[fft / 2 + 1, bands] from 0 hertz (kaldi: 20) to half the rate.

    slaney: triangles over the frequency, of equal area (Slaney 1998, as librosa). kaldi: over mel, of equal height.
    """
    frequencies = np.linspace(0.0, rate / 2, fft // 2 + 1)
    if scale == "kaldi":
        places = 1127.0 * np.log1p(frequencies / 700.0)
        corners = np.linspace(1127.0 * np.log1p(20.0 / 700.0), places[-1], bands + 2)
    else:  # linear below 1,000 hertz, which is mel 15, then 27 mel for a factor of 6.4
        places, knee = frequencies, 15.0
        highest = knee + 27.0 * np.log(rate / 2000.0) / np.log(6.4)
        mels = np.linspace(0.0, highest, bands + 2)
        corners = np.where(mels < knee, mels * 200.0 / 3.0, 1000.0 * 6.4 ** ((mels - knee) / 27.0))
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (places[:, None] - left) / (centre - left)
    falling = (right - places[:, None]) / (right - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    return torch.from_numpy(filters if scale == "kaldi" else filters * 2.0 / (right - left)).float()


def _levelled(wave: Wave, preprocessing: Mapping[str, Any]) -> Wave:
    if preprocessing.get("normalize"):
        return np.asarray((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7), dtype=np.float32)
    if "loudness" in preprocessing:
        level = 10.0 * np.log10(float(np.mean(np.square(wave, dtype=np.float64))) + 1e-12)
        return np.float32(10.0 ** (max(0.0, preprocessing["loudness"] - level) / 20.0)) * wave
    return wave


def _frames(samples: int, preprocessing: Mapping[str, Any]) -> int:
    """Frames that begin in (edges none: that fit into) so many samples, at least one."""
    hop: int = preprocessing["hop"]
    if preprocessing["edges"] == "none":
        window: int = preprocessing["window"]
        return max(1, 1 + (samples - window) // hop)
    return -(-samples // hop) if preprocessing["log"] == "whisper" else 1 + samples // hop


def _mel(wave: Tensor, length: int, preprocessing: Mapping[str, Any]) -> Tensor:
    """Power of a padded wave[N] in bands float32[T, bands], of which `length` frames are no padding."""
    window, fft, kaldi = preprocessing["window"], preprocessing["fft"], preprocessing["log"] == "kaldi"
    if preprocessing["edges"] != "none":
        wave = torch.nn.functional.pad(wave[None], (fft // 2, fft // 2), mode=preprocessing["edges"])[0]
    frames = wave.unfold(0, window, preprocessing["hop"])
    if kaldi:
        frames = frames - frames.mean(1, keepdim=True)
        frames = frames - 0.97 * torch.cat([frames[:, :1], frames[:, :-1]], dim=1)  # pre-emphasis
    spectrum = torch.fft.rfft(frames * torch.hann_window(window, periodic=not kaldi), n=fft)
    filters = mel_filters(preprocessing["sample_rate"], fft, preprocessing["bands"], preprocessing["scale"])
    power: Tensor = spectrum.abs().square() @ filters
    if kaldi:
        bands = power.clamp(min=torch.finfo(torch.float32).eps).log()
        bands[length:] = 0.0
        mean, std = float(preprocessing["mean"]), float(preprocessing["std"])
        return (bands - mean) / std
    if preprocessing["log"] == "whisper":
        bands = power[:-1].clamp(min=FULL_SCALE_FLOOR).log10()
        return (bands.clamp(min=bands.max() - 8.0) + 4.0) / 4.0
    return power


def _read(content: bytes, seconds: float) -> tuple[Wave, int, int]:
    """The mean of the channels, sample rate and number of channels; `seconds` says how much is needed, 0: all."""
    kind = _kind(content)
    if _cut(content, kind):
        raise _UnusableError("truncated")
    reason = f"not {kind} that can be read"
    try:
        with soundfile.SoundFile(BytesIO(content)) as file:
            _refuse_form(file)
            reason = "truncated or damaged"
            wanted = min(file.frames, int(seconds + 1) * file.samplerate) if seconds else file.frames
            wave = _mono(file, wanted)
            if len(wave) < wanted and (kind != "MP3" or _says_length(content)):
                raise _UnusableError(reason)
            return wave, file.samplerate, file.channels
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:  # what damaged bytes make the library raise
        raise ValueError(reason) from error


class _UnusableError(ValueError):
    """The reason is known already."""


def _kind(content: bytes) -> str:
    if not content:
        raise _UnusableError("zero bytes")
    for start, name in _READABLE.items():
        if content.startswith(start):
            return name
    if len(content) > 1 and content[0] == 0xFF and content[1] & 0xE6 == 0xE2:  # noqa: PLR2004 - MPEG layer 3
        return "MP3"
    for start, name in _UNSUPPORTED.items():
        if content.startswith((start, start.rjust(4))) or content.startswith(start, 4):
            raise _UnusableError(f"type {name} is not supported")
    raise _UnusableError("not a sound that can be read")


def _refuse_form(file: soundfile.SoundFile) -> None:
    if not LEAST_RATE <= file.samplerate <= MOST_RATE:
        raise _UnusableError(f"sample rate: {file.samplerate} Hz is not supported")
    if file.channels > MAX_CHANNELS:
        raise _UnusableError(f"channels: {file.channels} are too many")
    if file.frames == _UNKNOWN_FRAMES:  # which the library can't read to its end
        raise _UnusableError("no length in the header: written as a stream")
    most = min(MAX_SECONDS * file.samplerate, MAX_SAMPLES)
    if file.frames > most:
        raise _UnusableError(f"longer than {most // file.samplerate} s: {file.frames / file.samplerate:.0f} s")


def _mono(file: soundfile.SoundFile, wanted: int) -> Wave:
    block = max(1, BLOCK // file.channels)
    parts: list[Wave] = []
    while wanted > 0:
        part = file.read(min(block, wanted), dtype="float32", always_2d=True)
        if not len(part):
            break
        with np.errstate(all="ignore"):  # a float file may hold anything
            parts.append(part.mean(axis=1))
        wanted -= len(part)
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _says_length(content: bytes) -> bool:
    """Whether an MP3 file holds its length; else the library guesses it from the first frame."""
    tag = sum((byte & 0x7F) << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0), strict=True))
    first = 10 + tag if content.startswith(b"ID3") else 0
    return any(mark in content[first : first + 64] for mark in (b"Xing", b"Info", b"VBRI"))


def _cut(content: bytes, kind: str) -> bool:
    """Whether a file ends before its own header or last page says, which the library does not tell."""
    if kind == "WAV" and content.startswith(b"RIFF"):
        size = int.from_bytes(content[4:8], "little")
        return size not in _UNKNOWN_SIZES and 8 + size > len(content) + 1  # an odd last byte may lack its padding
    if kind == "OGG":
        page = content[content.rfind(b"OggS") :]
        table = page[_PAGE_HEADER : _PAGE_HEADER + page[_PAGE_HEADER - 1]] if len(page) >= _PAGE_HEADER else b""
        whole = len(page) >= _PAGE_HEADER + len(table) + sum(table)
        return not (table and whole and page[5] & _ENDS)
    return False


def lstm(sequence: Tensor, weights: list[Tensor]) -> Tensor:
    """One layer of an LSTM over [B, T, F]: its hidden states [B, T, H]; `weights` as torch orders them."""
    start = sequence.new_zeros(1, sequence.shape[0], weights[1].shape[1])
    return torch.lstm(sequence, (start, start), weights, True, 1, 0.0, False, False, True)[0]


def _lstm_shape(sequence: Tensor, weights: list[Tensor]) -> Tensor:
    return sequence.new_empty(*sequence.shape[:2], weights[1].shape[1])


# As an operator of its own it is one node of an exported graph; torch would write out every step of time. The graph can
# be loaded only where it is known, so it is made known on import; a process may hold this file twice.
if not hasattr(torch.ops.thawline, "lstm"):
    torch.library.custom_op("thawline::lstm", lstm, mutates_args=()).register_fake(_lstm_shape)
