"""From sound files to a network's input: what is read, what is refused, and the front ends against others' own."""

import struct
from typing import Any

import numpy as np
import pytest
import torch

from components.core.inference import sounds
from tests.data.sound_models import sound_file, tone

KINDS: dict[str, dict[str, Any]] = {
    "wav": {"kind": "WAV"},
    "wav24": {"kind": "WAV", "subtype": "PCM_24"},
    "flac": {"kind": "FLAC"},
    "ogg": {"kind": "OGG"},
    "opus": {"kind": "OGG", "subtype": "OPUS"},
    "mp3": {"kind": "MP3"},
    "aiff": {"kind": "AIFF"},
    "aifc": {"kind": "AIFF", "subtype": "FLOAT"},
    "au": {"kind": "AU"},
    "caf": {"kind": "CAF"},
    "rf64": {"kind": "RF64"},
    "rifx": {"kind": "WAV", "endian": "BIG"},
}
WHISPER = {"front": "mel", "sample_rate": 16_000, "samples": 16_000, "window": 400, "fft": 400, "hop": 160}
WHISPER |= {"bands": 80, "scale": "slaney", "edges": "reflect", "log": "whisper"}
SPEAKER = {**WHISPER, "bands": 40, "edges": "constant", "log": "none"}
KALDI = {
    **WHISPER,
    "fft": 512,
    "bands": 128,
    "scale": "kaldi",
    "edges": "none",
    "log": "kaldi",
    "mean": -4.0,
    "std": 9.0,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_read(kind: str) -> None:
    """A sound says the same whatever it is kept in."""
    wave = tone(440.0)
    content = sound_file(wave, **KINDS[kind])
    assert sounds.facts(content) == {"milliseconds": 1000, "sample_rate": 16_000, "channels": 1}
    found = sounds.decode(content, 16_000)
    assert found.dtype == np.float32
    peak = np.abs(np.fft.rfft(found[:16_000])).argmax()  # a second: the number is hertz
    assert abs(int(peak) - 440) <= 1


def test_channels_are_averaged() -> None:
    """What is louder on one side counts half."""
    stereo = np.stack([tone(440.0), np.zeros(16_000, np.float32)], axis=1)
    found = sounds.decode(sound_file(stereo, subtype="FLOAT"), 16_000)
    np.testing.assert_allclose(found, tone(440.0) / 2, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_rates_are_changed(rate: int) -> None:
    """A tone keeps its pitch and its length at another rate, and what the new rate can't hold is filtered out."""
    found = sounds.decode(sound_file(tone(440.0, rate=rate), rate), 16_000)
    assert abs(len(found) - 16_000) <= 1
    assert abs(int(np.abs(np.fft.rfft(found, 16_000)).argmax()) - 440) <= 1
    if rate == 44_100:
        high = sounds.decode(sound_file(tone(12_000.0, rate=rate), rate), 16_000)
        assert np.abs(high).max() < 0.1


def test_only_what_is_needed_is_read() -> None:
    """The beginning of a long sound is the beginning of what reading it whole gives."""
    content = sound_file(tone(440.0, 5.0, 44_100), 44_100)
    short = sounds.decode(content, 16_000, 1.0)
    assert len(short) == 16_000
    np.testing.assert_allclose(short, sounds.decode(content, 16_000)[:16_000], atol=1e-4)


def flac_that_says(samples: int) -> bytes:
    """A FLAC file of a second whose header says another length."""
    content = bytearray(sound_file(tone(440.0), kind="FLAC"))
    place = content.index(b"fLaC") + 8 + 13  # of the last 32 bits of the number of samples
    content[place : place + 5] = bytes([content[place] & 0xF0]) + struct.pack(">I", samples)
    return bytes(content)


HOSTILE = {
    "zero bytes": b"",
    "not a sound that can be read": b"hello, this is no sound at all",
    "type M4A or MP4 is not supported": b"\x00\x00\x00\x20ftypM4A " + bytes(64),
    "type 8SVX is not supported": b"FORM\x00\x00\x10\x008SVX" + bytes(64),
    "type AAC is not supported": b"\xff\xf1\x50\x80" + bytes(64),
    "type HTML is not supported": b"<!DOCTYPE html><title>404</title>",
    "type AVI is not supported": b"RIFF\x00\x00\x10\x00AVI " + bytes(64),
    "not AIFF that can be read": b"FORM\x00\x00\x10\x00AIFF" + bytes(64),
    "not WAV that can be read": b"RIFF\x04\x00\x00\x00WAVE",
    "not MP3 that can be read": b"ID3" + bytes(64),
    "silent": sound_file(np.zeros(16_000, np.float32)),
    "shorter than 0.1 s": sound_file(tone(440.0, 0.05)),
    "longer than 600 s": flac_that_says(2**31),
    "no length in the header: written as a stream": flac_that_says(0).replace(b"\xff\xf8", b"\xff\xf0"),
    "truncated or damaged": flac_that_says(32_000),
    "sample rate: 100 Hz": sound_file(tone(10.0, 5.0, 100), 100),
    "channels: 100 are too many": sound_file(np.repeat(tone(440.0)[:, None], 100, axis=1)),
    "not numbers": sound_file(np.full(16_000, np.nan, np.float32), subtype="FLOAT"),
}


@pytest.mark.parametrize("reason", HOSTILE)
def test_what_can_not_be_used_says_why(reason: str) -> None:
    """Each fault has its own reason, and none ends in another error."""
    with pytest.raises(ValueError, match=reason):
        sounds.facts(HOSTILE[reason])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_what_is_cut_off_is_told(kind: str, share: float) -> None:
    """A file that ends too early is truncated, whatever its format."""
    content = sound_file(tone(440.0, 2.0), **KINDS[kind])
    with pytest.raises(ValueError, match="truncated"):
        sounds.facts(content[: int(share * len(content))])


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_never_crash(kind: str) -> None:
    """Whatever the bytes, there are samples or a reason."""
    generator = np.random.default_rng(0)
    content = sound_file(tone(440.0), **KINDS[kind])
    for round_ in range(60):
        damaged = bytearray(content)
        for place in generator.integers(0, len(damaged) if round_ % 2 else 200, 8):
            damaged[place] = generator.integers(256)
        try:
            found = sounds.decode(bytes(damaged), 16_000, 1.0)
        except ValueError:
            continue
        assert np.isfinite(found).all()
        assert len(found) <= 16_000


def test_a_bomb_is_found_before_it_is_unpacked() -> None:
    """A small file that says hours of sound is refused by its header."""
    content = sound_file(np.zeros(700 * 8_000, np.float32), 8_000, kind="FLAC")
    assert len(content) < 100_000
    with pytest.raises(ValueError, match="longer than 600 s: 700 s"):
        sounds.facts(content)


def test_at_a_high_rate_less_is_too_long() -> None:
    """The limit of memory counts samples; the reason names the seconds that these are."""
    content = sound_file(np.zeros(400 * 192_000, np.int16), 192_000, kind="FLAC")
    with pytest.raises(ValueError, match="longer than 349 s: 400 s"):
        sounds.facts(content)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_32", "DOUBLE", "ULAW"])
def test_samples_of_any_kind_are_read(subtype: str) -> None:
    """Eight bits, 32 bits, floats and telephony."""
    assert np.abs(sounds.decode(sound_file(tone(440.0), subtype=subtype), 16_000) - tone(440.0)).max() < 0.02


def test_rows_have_one_length() -> None:
    """Long sounds lose their end, short ones are padded, and what is no padding is told."""
    batch = sounds.encode(
        [sound_file(tone(440.0, 0.5)), sound_file(tone(440.0, 2.0))],
        {"front": "wave", "sample_rate": 16_000, "samples": 16_000},
    )
    assert batch["sound"].shape == (2, 16_000)
    assert batch["length"].tolist() == [8_000, 16_000]
    assert batch["sound"][0, 8_000:].abs().max() == 0.0


def test_soft_sounds_are_raised() -> None:
    """A sound below the loudness is raised to it, a louder one stays."""
    preprocessing = {"front": "wave", "sample_rate": 16_000, "samples": 16_000, "loudness": -30.0}
    soft, loud = sounds.encode_waves([tone(440.0) / 1000, tone(440.0)], preprocessing)["sound"]
    assert 20 * float(soft.square().mean().sqrt().log10()) == pytest.approx(-30.0, abs=0.01)
    np.testing.assert_array_equal(loud, tone(440.0))


def test_samples_are_normalised_as_wav2vec2_does() -> None:
    """Zero mean and unit variance over the sound without its padding, as transformers' extractor."""
    from transformers import Wav2Vec2FeatureExtractor

    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    waves = [tone(440.0, 0.5) + 0.1, tone(600.0, 1.0)]
    expected = extractor(waves, sampling_rate=16_000, padding=True, return_tensors="pt")
    found = sounds.encode_waves(waves, {"front": "wave", "sample_rate": 16_000, "samples": 16_000, "normalize": True})
    torch.testing.assert_close(found["sound"], expected["input_values"], rtol=0, atol=1e-5)
    assert found["length"].tolist() == expected["attention_mask"].sum(1).tolist()


def test_bands_are_whispers() -> None:
    """The log-mel front end gives what transformers' Whisper extractor gives."""
    from transformers import WhisperFeatureExtractor

    waves = [tone(440.0, 0.6), tone(3000.0, 1.0)]
    extractor = WhisperFeatureExtractor(chunk_length=1)
    expected = extractor(waves, sampling_rate=16_000, return_tensors="pt")["input_features"].transpose(1, 2)
    found = sounds.encode_waves(waves, WHISPER)
    torch.testing.assert_close(found["sound"], expected, rtol=0, atol=1e-4)
    assert found["length"].tolist() == [60, 100]


@pytest.mark.filterwarnings("ignore:At least one mel filter")  # 128 bands are more than the spectrum can tell apart
def test_bands_are_kaldis(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter-bank front end gives what transformers' AST extractor gives without torchaudio, padding and all."""
    from transformers import ASTFeatureExtractor
    from transformers.models.audio_spectrogram_transformer import (
        feature_extraction_audio_spectrogram_transformer as ast,
    )

    monkeypatch.setattr(ast, "is_speech_available", lambda: False)
    waves = [tone(440.0, 0.6), tone(3000.0, 1.015)]
    extractor = ASTFeatureExtractor(max_length=100, mean=-4.0, std=4.5)
    expected = extractor(waves, sampling_rate=16_000, return_tensors="pt")["input_values"]
    found = sounds.encode_waves(waves, {**KALDI, "samples": 99 * 160 + 400})
    torch.testing.assert_close(found["sound"], expected, rtol=0, atol=1e-3)


def test_bands_are_librosas() -> None:
    """The speaker encoder's bands are the power spectrogram that transformers writes after librosa's."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    filters = mel_filter_bank(201, 40, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    wave = tone(440.0)
    expected = spectrogram(
        wave, window_function(400, "hann"), 400, 160, power=2.0, pad_mode="constant", mel_filters=filters
    )
    found = sounds.encode_waves([wave], SPEAKER)["sound"][0]
    np.testing.assert_allclose(found.numpy().T, expected, atol=1e-3, rtol=1e-4)


def test_mp3_without_a_header_is_read() -> None:
    """Without the frame that holds its length, which the library then guesses, an MP3 file is not taken for cut off."""
    content = sound_file(tone(440.0, 2.0, 44_100), 44_100, kind="MP3", bitrate_mode="CONSTANT")
    bare = content.replace(b"Info", bytes(4)).replace(b"Xing", bytes(4))
    assert bare != content
    assert 0 < sounds.facts(bare)["milliseconds"] <= 2100


def with_size(content: bytes, place: int, layout: str, size: int) -> bytes:
    return content[:place] + struct.pack(layout, size) + content[place + struct.calcsize(layout) :]


def streamed(kind: str, size: int) -> bytes:
    """A file of a second as what can't go back to its header writes it; `size` stands for what is not known."""
    content = sound_file(tone(440.0), **KINDS[kind])
    if kind == "caf":
        return with_size(content, content.index(b"data") + 4, ">q", size)
    if kind == "au":
        return with_size(content, 8, ">I", size)
    if kind == "aiff":
        content = with_size(content, content.index(b"COMM") + 10, ">I", size)
        return with_size(with_size(content, 4, ">I", size), content.index(b"SSND") + 4, ">I", size)
    if kind == "rf64":
        content = with_size(content, content.index(b"ds64") + 16, "<Q", size)
        return with_size(content, content.index(b"data") + 4, "<I", min(size, 2**32 - 1))
    return with_size(with_size(content, 4, "<I", size), content.index(b"data") + 4, "<I", size)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *((kind, size) for kind in ("wav", "wav24", "aiff", "au") for size in (0, 2**32 - 1, 2**31 - 1, 0x7FFFF000)),
        *(("rf64", size) for size in (0, 2**64 - 1, 2**32 - 1)),
        *(("caf", size) for size in (-1, 0, 2**40)),
    ],
)
def test_what_was_written_into_a_pipe_is_read_whole(kind: str, size: int) -> None:
    """Sizes in the header that stand for none take nothing away; a FLAC file says the same."""
    assert sounds.facts(streamed(kind, size))["milliseconds"] == 1000
    found = sounds.decode(streamed(kind, size), 16_000)
    np.testing.assert_allclose(found, tone(440.0), atol=1e-3)


@pytest.mark.parametrize("samples", [16_000, 4096, 4097, 8192, 12_345])
def test_flac_that_was_written_into_a_pipe_is_read_whole(samples: int) -> None:
    """Its last frame says how much there is; where it is cut within that frame, it is told."""
    whole = sound_file(tone(440.0)[:samples], kind="FLAC")
    place = 8 + 13
    content = whole[:place] + bytes([whole[place] & 0xF0]) + bytes(4) + whole[place + 5 :]
    np.testing.assert_array_equal(sounds.decode(content, 16_000), sounds.decode(whole, 16_000))
    with pytest.raises(ValueError, match="truncated"):
        sounds.facts(content[:-20])


@pytest.mark.parametrize("wrong", [1000, 31_000])
@pytest.mark.parametrize("kind", ["wav", "au"])
def test_sizes_that_are_wrong_take_nothing_away(kind: str, wrong: int) -> None:
    """Where more samples follow than the header says, and no other chunk, they are read."""
    place, layout = (8, ">I") if kind == "au" else (40, "<I")
    content = with_size(sound_file(tone(440.0), **KINDS[kind]), place, layout, wrong)
    assert sounds.facts(content)["milliseconds"] == 1000


def test_what_follows_on_the_samples_is_no_sound() -> None:
    """Chunks, tags and padding behind the samples stay what they are, also where the header of the file is wrong."""
    content = sound_file(tone(440.0), kind="WAV")
    chunk = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf60.16.100\0"
    for behind in (chunk, b"ID3\x04" + bytes([7] * 200), b"TAG" + bytes([7] * 125), bytes(512), b"abc"):
        for riff in (0, 2**32 - 1, len(content) + len(behind), 36):
            assert sounds.facts(with_size(content + behind, 4, "<I", riff))["milliseconds"] == 1000


def test_a_size_that_counts_the_header_too_is_no_cut() -> None:
    """Some programs write the size of the whole file where that of the samples belongs."""
    content = sound_file(tone(440.0), kind="WAV")
    for size in (len(content), len(content) - 8):
        assert sounds.facts(with_size(content, 40, "<I", size))["milliseconds"] == 1000
    with pytest.raises(ValueError, match="truncated"):
        sounds.facts(with_size(content, 40, "<I", len(content) + 2000))


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "CAF"])
@pytest.mark.parametrize("scale", [2.0**15, 2.0**31, 127.0, 5.0])
def test_floats_on_the_scale_of_integers_are_refused(kind: str, scale: float) -> None:
    """Nearly all of such samples would be cut off at full scale; loud peaks, which a mix may have, are cut off."""
    content = sound_file(tone(440.0) * np.float32(scale), kind=kind, subtype="FLOAT")
    for asked in (sounds.facts, lambda content: sounds.decode(content, 16_000, 0.5)):
        with pytest.raises(ValueError, match=r"scale of floats: up to .*, divide them so that full scale is 1"):
            asked(content)
    peaks = tone(440.0)
    peaks[::500] = 3.0
    assert np.abs(sounds.decode(sound_file(peaks, kind=kind, subtype="FLOAT"), 16_000)).max() == 1.0


def test_damaged_headers_of_streams_never_crash() -> None:
    """Whatever the first bytes of a streamed file are, there are samples or a reason."""
    generator = np.random.default_rng(0)
    for kind in ("wav", "aiff", "au", "caf", "rf64"):
        content = streamed(kind, 0)
        for _ in range(60):
            damaged = bytearray(content)
            for place in generator.integers(4, 100, 6):
                damaged[place] = generator.integers(256)
            try:
                assert np.isfinite(sounds.decode(bytes(damaged), 16_000, 1.0)).all()
            except ValueError:
                continue


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_several_streams_in_one_file_are_refused(kind: str) -> None:
    """Of recordings that were put one after another the library reads the first and says nothing."""
    content = sound_file(tone(440.0), **KINDS[kind])
    with pytest.raises(ValueError, match="several streams: only one is read"):
        sounds.facts(content + content)


def test_the_last_byte_may_be_missing() -> None:
    """A transfer that lost one byte lost no sound."""
    content = sound_file(tone(440.0))
    assert sounds.facts(content[:-1])["milliseconds"] == 1000
    with pytest.raises(ValueError, match="truncated"):
        sounds.facts(content[:-4])


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "aiff", "mp3"])
def test_a_tag_before_the_sound_takes_nothing_away(kind: str) -> None:
    """ID3 belongs before MP3, and some programs put it before other formats."""
    content = sound_file(tone(440.0), **KINDS[kind])
    tag = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10)
    np.testing.assert_array_equal(sounds.decode(tag + content, 16_000), sounds.decode(content, 16_000))


@pytest.mark.parametrize("subtype", ["GSM610", "MS_ADPCM", "IMA_ADPCM", "ALAW"])
def test_compressed_wav_is_read(subtype: str) -> None:
    """What telephones and old recorders write is read to its end, and told where it is cut."""
    content = sound_file(tone(440.0), subtype=subtype)
    assert 1000 <= sounds.facts(content)["milliseconds"] < 1020
    with pytest.raises(ValueError, match="truncated"):
        sounds.facts(content[:-3000])


def test_channels_that_cancel_each_other_out_are_told() -> None:
    """The reason of a sound whose mean is silent says that it is the mean."""
    stereo = np.stack([tone(440.0), -tone(440.0)], axis=1)
    with pytest.raises(ValueError, match="silent: the mean of 2 channels is"):
        sounds.facts(sound_file(stereo, subtype="FLOAT"))
