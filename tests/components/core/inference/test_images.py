"""Pictures: what is read, what is refused, and what the network sees."""

import io
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2

from components.core.inference import images
from components.core.inference.images import Preprocessing, decode, decoded, encode, resized

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def preprocessing(**changes: Any) -> Preprocessing:
    values: Any = {"size": 8, "resize": 10, "mode": "crop", "mean": [0.5] * 3, "std": [0.5] * 3}
    return cast("Preprocessing", {**values, "interpolation": "bicubic", **changes})


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def close(picture: Image.Image, place: tuple[int, int], colour: tuple[int, int, int], tolerance: int = 0) -> bool:
    found = picture.getpixel(place)
    assert isinstance(found, tuple)
    return all(abs(a - b) <= tolerance for a, b in zip(found, colour, strict=True))


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("PNG", 0), ("BMP", 0), ("TIFF", 0), ("JPEG", 4), ("WEBP", 8), ("GIF", 0), ("MPO", 4)]
)
def test_decodes_every_supported_type_as_rgb(kind: str, tolerance: int) -> None:
    """Every supported type becomes RGB with the colour that was saved."""
    picture = decode(encoded(Image.new("RGB", (6, 4), RED), kind))
    assert (picture.mode, picture.size) == ("RGB", (6, 4))
    assert close(picture, (3, 2), RED, tolerance)


@pytest.mark.parametrize(("mode", "value", "grey"), [("L", 77, 77), ("1", 1, 255), ("LA", (77, 255), 77)])
def test_grey_becomes_rgb(mode: str, value: Any, grey: int) -> None:
    """Grey, black and white, and grey with alpha become RGB of the same brightness."""
    assert close(decode(encoded(Image.new(mode, (3, 3), value), "PNG")), (1, 1), (grey,) * 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    """A 16-bit grey ramp keeps its shape in 8 bits."""
    ramp = np.array([[0, 257, 1000, 32896, 65535]], dtype=np.uint16)
    picture = decode(encoded(Image.fromarray(ramp), kind))
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 1, 4, 128, 255]
    assert picture.mode == "RGB"


def test_sixteen_bit_transparent_grey_is_white() -> None:
    """The grey value that a 16-bit PNG declares transparent becomes white."""
    content = encoded(Image.fromarray(np.array([[500, 1000]], dtype=np.uint16)), "PNG")
    header_end = 8 + 25
    chunk = b"tRNS" + struct.pack(">H", 500)
    chunk = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    picture = decode(content[:header_end] + chunk + content[header_end:])
    assert close(picture, (0, 0), WHITE)
    assert close(picture, (1, 0), (4, 4, 4))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_colour(kind: str) -> None:
    """Magenta and yellow ink make red."""
    picture = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), kind))
    assert close(picture, (4, 4), RED, 4)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_composited_on_white(kind: str) -> None:
    """Transparent black is white, half transparent red is pink, opaque red stays."""
    picture = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    picture.putpixel((1, 0), (*RED, 128))
    picture.putpixel((2, 0), (*RED, 255))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = decode(encoded(picture, kind, **options))
    assert close(found, (0, 0), WHITE)
    assert close(found, (1, 0), (255, 127, 127), 1)
    assert close(found, (2, 0), RED)


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_transparent_palette_entries_are_white(transparency: Any) -> None:
    """A palette with a transparent entry, or with alpha for each, is composited on white."""
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([*BLUE, *GREEN])
    picture.putpixel((1, 0), 1)
    found = decode(encoded(picture, "PNG", transparency=transparency))
    assert close(found, (0, 0), WHITE)
    assert close(found, (1, 0), GREEN)


def test_the_transparent_colour_of_rgb_is_white() -> None:
    """An RGB picture whose one colour is declared transparent is composited on white."""
    picture = Image.new("RGB", (2, 1), RED)
    picture.putpixel((1, 0), BLUE)
    found = decode(encoded(picture, "PNG", transparency=RED))
    assert close(found, (0, 0), WHITE)
    assert close(found, (1, 0), BLUE)


def test_only_the_first_frame_counts() -> None:
    """An animated GIF is its first frame."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN, BLUE)]
    for kind in ("GIF", "WEBP"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=10)
        assert close(decode(content), (2, 2), RED, 8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(kind: str, orientation: int) -> None:
    """A picture stored in any of the eight orientations is decoded upright."""
    upright = Image.new("RGB", (32, 16), WHITE)
    upright.paste(Image.new("RGB", (8, 8), RED), (0, 0))
    upright.paste(Image.new("RGB", (8, 8), BLUE), (24, 0))
    forwards = {5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turns = {2: 0, 3: 3, 4: 1, 7: Image.Transpose.TRANSVERSE, **forwards}
    stored = upright.transpose(Image.Transpose(turns[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode(encoded(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})))
    assert picture.size == (32, 16)
    assert close(picture, (4, 4), RED, 8)
    assert close(picture, (28, 4), BLUE, 8)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow tells the user, who may want to know
def test_damaged_exif_costs_only_the_orientation() -> None:
    """A picture whose EXIF block is garbage is still decoded."""
    content = encoded(Image.new("RGB", (8, 8), RED), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage")
    assert decode(content).size == (8, 8)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "zero bytes"),
        (b"just a text", "not a picture that can be read"),
        (b"BMP of nothing", "not a picture that can be read"),
        (b"\x89PNG\r\n\x1a\n", "not a picture that can be read"),
        (b"%PDF-1.7 and so on", "type PDF is not supported"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00", "type HEIC is not supported"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "type SVG is not supported"),
        (b"<!DOCTYPE html><title>404</title>", "type HTML is not supported"),
        (bytes(128) + b"DICM" + bytes(64), "type DICOM is not supported"),
        (b"\x93NUMPY\x01\x00", "type NumPy is not supported"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_reason(content: bytes, reason: str) -> None:
    """Bytes that are no supported picture raise ValueError with a reason for people."""
    with pytest.raises(ValueError, match=rf"^{reason}$"):
        decode(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_picture_is_refused(kind: str) -> None:
    """Half a picture is told to be truncated."""
    content = encoded(noise(64, 64), kind)
    with pytest.raises(ValueError, match=r"^truncated$"):
        decode(content[: len(content) // 2])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_no_cut_of_a_picture_raises_anything_but_value_error(kind: str) -> None:
    """Wherever a file is cut, decoding gives a picture or ValueError."""
    content = encoded(noise(16, 16), kind)
    for end in range(0, len(content), 7):
        try:
            assert decode(content[:end]).size == (16, 16)
        except ValueError:
            continue


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_no_damage_of_a_picture_raises_anything_but_value_error(kind: str) -> None:
    """Whatever bytes are overwritten, decoding gives a picture or ValueError."""
    content, random = encoded(noise(16, 16), kind), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        for place in random.integers(0, len(content), 4):
            damaged[place] = random.integers(256)
        try:
            decode(bytes(damaged))
        except ValueError:
            continue


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(b"")
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, pixels)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    """A picture above the limit is refused with its size before a pixel is decoded (here there is none)."""
    with pytest.raises(ValueError, match=rf"^decompression bomb: {side} x {side} pixels$"):
        decode(png_header(side, side))


def test_the_limit_allows_large_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly the limit is allowed, a pixel more is not."""
    monkeypatch.setattr(images, "MAX_PIXELS", 64)
    assert decode(encoded(Image.new("RGB", (8, 8)), "PNG")).size == (8, 8)
    with pytest.raises(ValueError, match="bomb: 13 x 5"):
        decode(encoded(Image.new("RGB", (13, 5)), "PNG"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("halved", [False, True])
def test_strips_give_the_pixels_of_the_whole(mode: str, halved: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - a parameter
    """Converted and halved in strips, a picture is the same in every pixel as converted and halved at once."""
    if mode == "I;16":
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (41, 33), dtype=np.uint16))
    else:
        picture = noise(33, 41).convert("RGBA" if mode == "PA" else mode)
        picture = picture.quantize(16) if mode == "PA" else picture
    content = encoded(picture, "PNG", **({"transparency": 3} if mode == "P" else {}))
    monkeypatch.setattr(images, "HALVED", 64 if halved else 10**6)
    monkeypatch.setattr(images, "_LEAST_SIDE", 4)
    whole = decode(content)
    monkeypatch.setattr(images, "_STRIP", 100)
    found = decode(content)
    assert found.size == ((17, 21) if halved else (33, 41))
    assert np.array_equal(np.asarray(found), np.asarray(whole))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_large_picture_is_halved_and_keeps_its_size(
    kind: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit width and height are halved, the true ones are told upright; what is seen stays the same."""
    picture = noise(16, 12).resize((160, 120), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(picture, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    whole = decode(content)
    monkeypatch.setattr(images, "HALVED", 160 * 120 - 1)
    monkeypatch.setattr(images, "_LEAST_SIDE", 61)
    assert decode(content).size == whole.size
    monkeypatch.setattr(images, "_LEAST_SIDE", 60)
    halved = decode(content)
    assert halved.info[images.FULL_SIZE] == whole.info[images.FULL_SIZE] == whole.size
    assert halved.size == (whole.width // 2, whole.height // 2)
    seen = [np.asarray(resized(some, preprocessing(mode="squash")), dtype=int) for some in (whole, halved)]
    assert np.abs(seen[0] - seen[1]).max() <= 6


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("mode", "size", "least"), [("squash", 15, 30), ("crop", 15, 60), ("pad", 20, 30), ("squash", 61, 120)]
)
def test_a_jpeg_is_decoded_no_larger_than_the_input_needs(mode: str, size: int, least: int, orientation: int) -> None:
    """Of a JPEG much larger than the input, a fraction is decoded that leaves twice the input; its size is told."""
    picture = noise(16, 12).resize((160, 120), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(picture, "JPEG", exif=exif, quality=95)
    settings = preprocessing(mode=mode, size=size, resize=20)
    with decoded(content) as whole, decoded(content, settings) as found:
        assert min(found.size) == least
        assert found.info[images.FULL_SIZE] == whole.info[images.FULL_SIZE] == whole.size
        seen = [np.asarray(resized(some, settings), dtype=int) for some in (whole, found)]
    assert np.abs(seen[0] - seen[1]).max() <= 8
    inputs = cast("torch.Tensor", encode([content], settings))[0] * 127.5 + 127.5
    assert np.abs(inputs.permute(1, 2, 0).round().int().numpy() - seen[1]).max() == 0


def test_other_forms_are_decoded_whole() -> None:
    """Only a JPEG can be decoded in part; a PNG is resized from all of its pixels."""
    with decoded(encoded(noise(160, 120), "PNG"), preprocessing()) as found:
        assert found.size == (160, 120)


@pytest.mark.parametrize(
    ("kind", "options"), [("WEBP", {}), ("JPEG", {"progressive": True}), ("TIFF", {"compression": "tiff_lzw"})]
)
def test_what_takes_too_much_memory_is_refused_with_its_numbers(
    kind: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of a form that is decoded as a whole has another limit than its number of pixels."""
    content = encoded(noise(1000, 1000), kind, **options)
    decode(content)
    monkeypatch.setattr(images, "_memory", images._Memory(3_000_000))
    with pytest.raises(ValueError, match=rf"^too large: 1000 x 1000 pixels as {kind} take \d+ MB .*at most 3 may"):
        decode(content)


def test_large_pictures_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads hold no more pictures at once than fit into the memory for them, and all of them end."""
    held, most, lock = 0, 0, threading.Lock()
    monkeypatch.setattr(images, "_memory", images._Memory(1_000_000))
    content = encoded(noise(300, 300), "PNG")  # 360,000 bytes

    def use(_number: int) -> None:
        nonlocal held, most
        with decoded(content):
            with lock:
                held += 1
                most = max(most, held)
            time.sleep(0.01)
            with lock:
                held -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, range(18)))
    assert most == 2


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("PNG", "RGB"), ("PNG", "RGBA"), ("TIFF", "RGB")])
def test_the_largest_pictures_take_less_than_600_mb(kind: str, mode: str, tmp_path: Path) -> None:
    """A picture just under the limit of pixels is decoded and resized within the memory that is promised."""
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    Image.new(mode, (9400, 9400), 0).save(tmp_path / "large", kind, **options)
    code = (
        "import re, sys; from pathlib import Path; from components.core.inference import images\n"
        # of this process alone: what `resource` tells begins with the parent's
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "content = open(sys.argv[1], 'rb').read(); before = peak()\n"
        "with images.decoded(content) as picture: picture.resize((64, 64))\n"
        "print((peak() - before) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "large"], check=True, capture_output=True, text=True)
    assert 0 < float(done.stdout) < 500


def test_floats_and_wide_integers_are_refused() -> None:
    """Pixels without a known range are not guessed at."""
    for mode, reason in (("F", "type float"), ("I", "type 32-bit integer")):
        with pytest.raises(ValueError, match=reason):
            decode(encoded(Image.new(mode, (2, 2), 100_000), "TIFF"))


@pytest.mark.parametrize("size", [(40, 25), (25, 40), (33, 33), (7, 5), (101, 11)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_equals_torchvision(size: tuple[int, int], interpolation: str) -> None:
    """Crop is torchvision's Resize and CenterCrop, within the rounding of one grey level."""
    picture = noise(*size)
    reference = v2.Compose([v2.Resize(10, InterpolationMode(interpolation)), v2.CenterCrop(8)])(picture)
    found = resized(picture, preprocessing(interpolation=interpolation))
    assert np.abs(np.asarray(found, dtype=int) - np.asarray(reference, dtype=int)).max() <= 1


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1), (3, 200)])
def test_any_shape_becomes_square(mode: str, size: tuple[int, int]) -> None:
    """Lines and single pixels end at size x size in every mode."""
    picture = resized(Image.new("RGB", size, RED), preprocessing(mode=mode))
    assert (picture.mode, picture.size) == ("RGB", (8, 8))


def test_pad_keeps_the_shape_on_white() -> None:
    """Pad fits the whole picture inside and leaves a white border."""
    picture = resized(Image.new("RGB", (40, 20), RED), preprocessing(mode="pad"))
    rows = [close(picture, (4, y), RED) for y in range(8)]
    assert rows == [False, False, True, True, True, True, False, False]
    assert close(picture, (4, 0), WHITE)


def test_squash_keeps_everything() -> None:
    """Squash shows both ends of a wide picture, crop shows neither."""
    picture = Image.new("RGB", (80, 10), WHITE)
    picture.paste(Image.new("RGB", (20, 10), RED), (0, 0))
    assert close(resized(picture, preprocessing(mode="squash")), (0, 4), RED)
    assert close(resized(picture, preprocessing(mode="crop")), (0, 4), WHITE)


def test_an_unknown_mode_is_an_error() -> None:
    with pytest.raises(ValueError, match="stretch"):
        resized(Image.new("RGB", (8, 8)), preprocessing(mode="stretch"))


def test_encode_equals_torchvision_bit_for_bit() -> None:
    """Scaling and normalisation give the bits of torchvision's ToTensor and Normalize, in order and contiguous."""
    settings = preprocessing(size=16, resize=16, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    photos = [noise(16, 16), Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)]
    found = encode([encoded(photo, "PNG") for photo in photos], settings)
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize(settings["mean"], settings["std"])])
    expected = torch.stack([steps(photo) for photo in photos])
    assert found.is_contiguous()
    assert torch.equal(found, expected)


def test_encode_names_a_bad_picture() -> None:
    """One bad picture in a batch is an error, never a blank input."""
    with pytest.raises(ValueError, match="zero bytes"):
        encode([encoded(noise(8, 8), "PNG"), b""], preprocessing())


def tiff(
    bits: list[int],
    photometric: int,
    pixels: bytes,
    *,
    width: int = 2,
    extra: list[int] | None = None,
    form: list[int] | None = None,
    most: int = 0,
    big: bool = False,
    order: str = "<",
) -> bytes:
    """An uncompressed TIFF of one row, with the tags as they are given."""
    slot, counts, offsets = (8, "Q", "Q") if big else (4, "H", "I")
    tags = {256: [width], 257: [1], 258: bits, 259: [1], 262: [photometric], 273: [0], 277: [len(bits)], 278: [1]}
    tags |= {
        279: [len(pixels)],
        284: [1],
        **({338: extra} if extra else {}),
        **({339: form} if form else {}),
        **({281: [most]} if most else {}),
    }
    head = (b"II" if order == "<" else b"MM") + struct.pack(
        *((order + "HHHQ", 43, 8, 0, 16) if big else (order + "HI", 42, 8))
    )
    behind = len(head) + struct.calcsize(order + counts) + len(tags) * (4 + 2 * slot) + slot
    raw = {tag: struct.pack(f"{order}{len(values)}H", *values) for tag, values in sorted(tags.items())}
    long = b"".join(value for value in raw.values() if len(value) > slot)
    raw[273] = struct.pack(order + "H", behind + len(long))
    entries, place = b"", behind
    for tag, value in raw.items():
        entries += struct.pack(order + "HH" + offsets, tag, 3, len(value) // 2)
        entries += value.ljust(slot, b"\0") if len(value) <= slot else struct.pack(order + offsets, place)
        place += len(value) if len(value) > slot else 0
    return head + struct.pack(order + counts, len(tags)) + entries + bytes(slot) + long + pixels


def row(picture: Image.Image) -> list[list[int]]:
    found: list[list[int]] = np.asarray(picture)[0].tolist()
    return found


def test_big_tiff_is_read() -> None:
    """BigTIFF, which large scanners and microscopes write, says what TIFF says."""
    pixels = bytes([*RED, *BLUE])
    assert row(decode(tiff([8] * 3, 2, pixels, big=True))) == row(decode(tiff([8] * 3, 2, pixels))) == [[*RED], [*BLUE]]
    with pytest.raises(ValueError, match="^type big-endian BigTIFF is not supported$"):
        decode(tiff([8] * 3, 2, pixels, big=True, order=">"))


@pytest.mark.parametrize("bands", [5, 6])
def test_bands_beside_the_colour_are_left_out(bands: int) -> None:
    """Of RGB with bands that the file says are something else, the colour is read."""
    pixels = bytes([*RED, *[7] * (bands - 3), *BLUE, *[9] * (bands - 3)])
    assert row(decode(tiff([8] * bands, 2, pixels, extra=[0] * (bands - 3)))) == [[*RED], [*BLUE]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff([8] * 5, 2, bytes(10)), "type TIFF of 5 bands of 8 bits is not supported"),
        (tiff([8] * 4, 1, bytes(8), extra=[0] * 3), "type TIFF of 4 bands of 8 bits is not supported"),
        (tiff([8] * 8, 2, bytes(16), extra=[0] * 5), "type TIFF of 8 bands of 8 bits is not supported"),
        (tiff([16] * 13, 1, bytes(52), extra=[0] * 12), "type TIFF of 13 bands of 16 bits is not supported"),
        (tiff([32] * 3, 2, struct.pack("<6f", *[0.5] * 6), form=[3] * 3), "type float is not supported"),
        (tiff([64], 1, struct.pack("<2d", 0.5, 0.5), form=[3]), "type float is not supported"),
        (tiff([16], 1, struct.pack("<2h", -5, 5), form=[2]), "type signed integer is not supported"),
        (tiff([8], 1, b"\x80\x05", form=[2]), "type signed integer is not supported"),
        (tiff([32], 1, struct.pack("<2I", 7, 200)), "type 32-bit integer is not supported"),
    ],
)
def test_a_tiff_that_is_not_read_says_why(content: bytes, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Bands, floats and integers without a known range are named, and Pillow writes nothing to the terminal."""
    with pytest.raises(ValueError, match=rf"^{reason}$"):
        decode(content)
    assert capfd.readouterr().err == ""


def test_grey_of_twelve_bits_and_grey_whose_white_is_zero_keep_their_brightness() -> None:
    """Neither becomes nearly black, nor its own negative."""
    assert [p[0] for p in row(decode(tiff([12], 1, b"\xff\xf8\x00")))] == [255, 128]
    twelve_in_sixteen = struct.pack("<2H", 4095, 2048)
    assert [p[0] for p in row(decode(tiff([16], 1, twelve_in_sixteen, most=4095)))] == [255, 128]
    assert [p[0] for p in row(decode(tiff([16], 1, struct.pack("<2H", 65535, 257), most=4095)))] == [255, 1]
    for bits, values in ((16, struct.pack("<2H", 0, 65535)), (8, bytes([0, 255]))):
        assert [p[0] for p in row(decode(tiff([bits], 0, values)))] == [255, 0]


def png(depth: int, colour: int, pixels: bytes, width: int, transparent: bytes, palette: bytes = b"") -> bytes:
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)]
    chunks += [b"PLTE" + palette] if palette else []
    chunks += [b"tRNS" + transparent, b"IDAT" + zlib.compress(b"\0" + pixels), b"IEND"]
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("depth", "pixels", "transparent", "greys"),
    [
        (1, 0b01000000, 0, [255, 255]),
        (2, 0b00011011, 2, [0, 85, 255, 255]),
        (2, 0b00011011, 0, [255, 85, 170, 255]),
        (4, 0x5A, 5, [255, 170]),
        (8, 0x5A, 0x5A, [255]),
    ],
)
def test_one_grey_is_transparent_at_any_depth(depth: int, pixels: int, transparent: int, greys: list[int]) -> None:
    """The transparent grey of a PNG of 1, 2 or 4 bits becomes white, and no other grey does."""
    content = png(depth, 0, bytes([pixels]), len(greys), struct.pack(">H", transparent))
    assert [p[0] for p in row(decode(content))] == greys


@pytest.mark.parametrize(("depth", "pixels"), [(1, b"\x40"), (2, b"\x10"), (4, b"\x01"), (8, b"\x00\x01")])
def test_palettes_have_transparency_at_any_depth(depth: int, pixels: bytes) -> None:
    """Of a palette the colours that are transparent become white, half transparent ones lighter."""
    palette = bytes([*RED, *BLUE])
    assert row(decode(png(depth, 3, pixels, 2, b"\x00", palette))) == [[*WHITE], [*BLUE]]
    assert row(decode(png(depth, 3, pixels, 2, b"\xff\x80", palette))) == [[*RED], [127, 127, 255]]
