"""From a sound file's bytes to a network's input.

This file travels with a served model and is loaded where Thawline is not installed, so it imports nothing from here.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
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

_READABLE = {b"FORM": "AIFF", b".snd": "AU", b"caff": "CAF", b"fLaC": "FLAC", b"OggS": "OGG", b"ID3": "MP3"}
_READABLE |= dict.fromkeys((b"RIFF", b"RIFX", b"RF64", b"BW64"), "WAV")
_UNSUPPORTED = {  # what people have beside them, by their first bytes or those behind the fourth
    b"ftyp": "M4A or MP4",
    b"riff": "Wave64",
    b"\xff\xf1": "AAC",
    b"\xff\xf9": "AAC",
    b"<!DO": "HTML",
    b"<htm": "HTML",
    b"MThd": "MIDI",
    b"#!AMR": "AMR",
    b"\x30\x26\xb2\x75": "WMA",
    b"\x1a\x45\xdf\xa3": "WebM or Matroska",
    b"PK\x03\x04": "ZIP",
}
_ENDS, _PAGE_HEADER = 4, 27  # of an OGG page: the flag of the last one, bytes before the table of its segments
_UNKNOWN_SIZE = 2**31 - 2**20  # a size from here on stands for none: what writes a stream does not know it yet
_UNKNOWN_FRAMES = 2**63 - 1  # of a FLAC file that was written as a stream
_BEYOND = 0.01  # share of float samples that may lie beyond full scale: what is cut off there is heard by nobody


class Preprocessing(TypedDict):
    """Parameters that turn a sound file into the network's input."""

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
        raise ValueError("samples that are not numbers")
    if np.abs(wave).max() < SILENCE:
        raise ValueError("silent" if channels == 1 else f"silent: the mean of {channels} channels is")
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
    with ThreadPoolExecutor(min(torch.get_num_threads(), 8)) as pool:  # both libraries release the interpreter lock
        waves = list(pool.map(lambda content: decode(content, rate, seconds), contents))
    return encode_waves(waves, preprocessing)


def encode_waves(waves: Sequence[Wave], preprocessing: Mapping[str, Any]) -> dict[str, Tensor]:
    """Encode sounds that are already decoded; see `encode`."""
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
    content = _without_tag(content)
    kind = _kind(content)
    content = _repaired(content, kind)
    if kind == "OGG":
        _refuse_pages(content)
    reason = f"not {kind} that can be read"
    try:
        with soundfile.SoundFile(_Memory(content)) as file:
            _refuse_form(file)
            reason = "truncated or damaged"
            wanted = min(file.frames, int(seconds + 1) * file.samplerate) if seconds else file.frames
            wave = _mono(file, wanted)
            if len(wave) < wanted and (kind != "MP3" or _says_length(content)):
                raise _UnusableError(reason)
            if file.subtype in ("FLOAT", "DOUBLE"):
                _refuse_scale(wave)
            return wave, file.samplerate, file.channels
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:  # what damaged bytes make the library raise
        raise ValueError(reason) from error


class _Memory(BytesIO):
    """A file in memory; a place before its beginning, which damaged bytes lead to, is no exception in the library."""

    def seek(self, place: int, whence: int = 0, /) -> int:
        try:
            return super().seek(place, whence)
        except (ValueError, OverflowError):
            return self.tell()


class _UnusableError(ValueError):
    """The reason is known already."""


def _kind(content: bytes) -> str:
    if not content:
        raise _UnusableError("zero bytes")
    name = next((name for start, name in _READABLE.items() if content.startswith(start)), "")
    form = {"WAV": (b"WAVE",), "AIFF": (b"AIFF", b"AIFC")}.get(name, ())
    if form and content[8:12] not in form and len(content) > 12:  # noqa: PLR2004 - the containers hold other things too
        raise _UnusableError(f"type {content[8:12].decode('ascii', 'replace').strip()} is not supported")
    if name:
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
    """Return whether an MP3 file holds its length; otherwise the library guesses it from the first frame."""
    tag = sum((byte & 0x7F) << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0), strict=True))
    first = 10 + tag if content.startswith(b"ID3") else 0
    return any(mark in content[first : first + 64] for mark in (b"Xing", b"Info", b"VBRI"))


def _refuse_scale(wave: Wave) -> None:
    """Refuse floats on the scale of integers: nearly all of them would be cut off at full scale."""
    loud = np.abs(wave[np.isfinite(wave) & (np.abs(wave) > SILENCE)])
    if len(loud) and (loud > 1.0).mean() > _BEYOND:
        raise _UnusableError(f"scale of floats: up to {loud.max():.4g}, divide them so that full scale is 1")


def _repaired(content: bytes, kind: str) -> bytes:
    """A file whose header says how much sound there is, where what wrote it as a stream did not know or was wrong.

    Raises:
        ValueError: The header says more than there is: the file was cut off.
    """
    if kind == "FLAC":
        return _with_length(content)
    place = _data_chunk(content, kind)
    if place is None:
        return content
    field, layout, size, start = place
    there = len(content) - start
    behind = content[start + size :] if 0 < size < there else b""
    if size in (len(content), len(content) - 8) or not 0 < size < _UNKNOWN_SIZE:
        size, behind = there, b""  # not known, or counted with the header
    if size > there + 1:  # the last byte of the last sample is often missing
        raise _UnusableError("truncated")
    size = min(size, there)
    if behind.strip(b"\0") and not behind.startswith((b"ID3", b"TAG")) and not _is_chunk(behind, kind):
        size = there
    repaired = content[:field] + struct.pack(layout, size) + content[field + struct.calcsize(layout) :]
    if content[:4] in (b"RF64", b"BW64"):
        return b"RIFF" + repaired[4:12] + b"JUNK" + repaired[16:]
    return content if repaired == content else repaired


def _data_chunk(content: bytes, kind: str) -> tuple[int, str, int, int] | None:
    """Of the chunk with the samples: where its size is written and how, the size, and where its content begins."""
    if kind == "AU" and len(content) >= 24:  # noqa: PLR2004 - its header
        start, size = struct.unpack(">II", content[4:12])
        return (8, ">I", size, start) if start <= len(content) else None
    if kind not in ("WAV", "AIFF", "CAF"):
        return None
    layout = ">q" if kind == "CAF" else ">I" if kind == "AIFF" or content.startswith(b"RIFX") else "<I"
    long_size = 0
    for name, field, size, start in _chunks(content, 8 if kind == "CAF" else 12, layout):
        if name == b"ds64" and len(content) >= start + 16:
            (long_size,) = struct.unpack("<Q", content[start + 8 : start + 16])
        if name in (b"data", b"SSND"):
            return field, layout, long_size if content[:4] in (b"RF64", b"BW64") else size, start
    return None


def _chunks(content: bytes, place: int, layout: str) -> Iterator[tuple[bytes, int, int, int]]:
    """Name, place of the size, size and start of each chunk; those of WAV and AIFF begin at even places."""
    width = struct.calcsize(layout)
    while place + 4 + width <= len(content):
        (size,) = struct.unpack(layout, content[place + 4 : place + 4 + width])
        start = place + 4 + width
        yield content[place : place + 4], place + 4, size, start
        place = start + max(size, 0) + (size % 2 if width == 4 else 0)  # noqa: PLR2004 - bytes


def _is_chunk(behind: bytes, kind: str) -> bool:
    """Return whether another chunk may follow the samples, or a padding byte before one."""
    for start in (0, 1):
        name, size = behind[start : start + 4], behind[start + 4 : start + (12 if kind == "CAF" else 8)]
        length = int.from_bytes(size, "big" if kind in ("CAF", "AIFF") else "little")
        if name.isascii() and name.decode("ascii").isprintable() and length <= len(behind):
            return True
    return len(behind) < 8  # noqa: PLR2004 - no chunk is shorter


def _with_length(content: bytes) -> bytes:
    """A FLAC file with its number of samples in the header, found by its last frame where a stream does not say it."""
    if len(content) < 42 or content[21] & 15 or any(content[22:26]):  # noqa: PLR2004 - as far as its first block
        return content
    place = len(content)
    while (place := max(content.rfind(mark, 0, place) for mark in (b"\xff\xf8", b"\xff\xf9"))) > 0:
        if samples := _samples_up_to(content, place):
            return content[:21] + (content[21] << 32 | samples).to_bytes(5, "big") + content[26:]
    return content


def _samples_up_to(content: bytes, place: int) -> int:
    """Samples of a FLAC file to the end of the frame that begins here; 0: none does."""
    header = content[place : place + 16]
    if len(header) < 7:  # noqa: PLR2004 - the shortest header
        return 0
    code, ones = header[2] >> 4, 8 - (header[4] ^ 0xFF).bit_length()  # of the number's first byte, as in UTF-8
    number, end = header[4] & (0x7F >> ones), 5 + max(0, ones - 1)
    for byte in header[5:end]:
        number = number << 6 | byte & 0x3F
    size = (0, 192, 576, 1152, 2304, 4608, 0, 0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)[code]
    if code in (6, 7):  # it is written behind the number
        size = int.from_bytes(header[end : end + code - 5], "big") + 1
        end += code - 5
    end += {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    if not size or end >= len(header) or _crc8(header[:end]) != header[end]:
        return 0
    return size + (number if header[1] & 1 else number * int.from_bytes(content[10:12], "big"))


def _crc8(data: bytes) -> int:
    found = 0
    for byte in data:
        found ^= byte
        for _ in range(8):
            found = (found << 1 ^ 0x07) & 0xFF if found & 0x80 else found << 1
    return found


def _without_tag(content: bytes) -> bytes:
    """A file without the ID3 tag that some programs put before other formats than MP3."""
    if not content.startswith(b"ID3") or len(content) < 10:  # noqa: PLR2004 - the tag's header
        return content
    rest = content[
        10 + sum((byte & 0x7F) << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0), strict=True)) :
    ]
    return rest if rest.startswith(tuple({*_READABLE} - {b"ID3"})) else content


def _refuse_pages(content: bytes) -> None:
    """Refuse an OGG file of several streams, of which the library reads the first, and one that ends too early.

    It ends before its last page does, or without one, which the library does not tell.
    """
    if content.find(b"OggS\0\x02", 1) > 0:
        raise _UnusableError("several streams: only one is read")
    page = content[content.rfind(b"OggS") :]
    table = page[_PAGE_HEADER : _PAGE_HEADER + page[_PAGE_HEADER - 1]] if len(page) >= _PAGE_HEADER else b""
    whole = len(page) >= _PAGE_HEADER + len(table) + sum(table)
    if not (table and whole and page[5] & _ENDS):
        raise _UnusableError("truncated")


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
