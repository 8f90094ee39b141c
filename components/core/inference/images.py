"""From a picture's bytes to a network's input.

This file travels with a served model and is loaded where Thawline is not installed, so it imports nothing from here.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

if TYPE_CHECKING:  # torch costs seconds; checking pictures needs none of it
    from torch import Tensor

# Pillow's own limit: a quarter of a gigabyte as RGB.
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3
WHITE = (255, 255, 255)

# Readers are called themselves, not through Image.open: that warns about large pictures before their size can be read
# here, and warnings can't be caught safely in threads.
_READERS: tuple[tuple[bytes, Callable[..., ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", jpeg_factory),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"RIFF", WebPImageFile),
    (b"GIF8", GifImageFile),
    (b"BM", BmpImageFile),
    (b"II*\x00", TiffImageFile),
    (b"MM\x00*", TiffImageFile),
)
_UNSUPPORTED = {  # by the bytes at the start, or behind the length of the first box
    b"%PDF": "PDF",
    b"8BPS": "PSD",
    b"<svg": "SVG",
    b"<?xm": "SVG or XML",
    b"\x00\x00\x01\x00": "ICO",
    b"PK\x03\x04": "ZIP",
    b"ftypavif": "AVIF",
    b"ftyphei": "HEIC",
    b"ftypmif1": "HEIC",
    b"ftyp": "video",
    b"jP  ": "JPEG 2000",
}
_UPRIGHT = {  # EXIF orientation to what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Preprocessing(TypedDict):
    """What turns a decoded picture into the network's input."""

    size: int  # side of the input in pixels
    resize: int  # the shorter side before the centre crop
    mode: str  # crop, squash or pad
    mean: list[float]  # of RGB in 0..1
    std: list[float]
    interpolation: str  # nearest, bilinear, bicubic, lanczos, box or hamming


def decode(content: bytes) -> Image.Image:
    """An upright RGB picture: the first frame, alpha composited on white, 16 bits scaled to 8.

    Raises:
        ValueError: The bytes are no picture that can be read; the message is the reason, `kind` or `kind: detail`.
    """
    try:
        picture = _opened(content)
        picture.load()
        return _upright(_rgb(picture), picture)
    except _UnreadableError:
        raise
    except Exception as error:  # damaged bytes make readers fail with almost anything
        raise ValueError(_reason(content, error)) from error


def resized(picture: Image.Image, preprocessing: Mapping[str, Any]) -> Image.Image:
    """An RGB picture of `size` x `size`, by the `mode` of the `Preprocessing`.

    crop: the shorter side to `resize`, then the centre; squash: stretch; pad: fit inside, white border.
    """
    size, mode = preprocessing["size"], preprocessing["mode"]
    resample = Image.Resampling[preprocessing["interpolation"].upper()]
    width, height = picture.size
    if mode == "squash":
        return picture.resize((size, size), resample)
    if mode == "pad":
        scale = size / max(width, height)
        inner = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), resample)
        canvas = Image.new("RGB", (size, size), WHITE)
        canvas.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
        return canvas
    if mode != "crop":
        raise ValueError(f"mode {mode!r} is none of crop, squash, pad")
    # As Resize, then CenterCrop, but computes only what is kept: a 1 x 30000 line never grows to millions of pixels.
    shorter = max(preprocessing["resize"], size)
    left, right = _centre(width, int(shorter * width / min(width, height)), size)
    top, bottom = _centre(height, int(shorter * height / min(width, height)), size)
    return picture.resize((size, size), resample, box=(left, top, right, bottom))


def encode(contents: Sequence[bytes], preprocessing: Mapping[str, Any]) -> "Tensor":
    """Encoded pictures as normalised float32 [B, 3, size, size].

    Raises:
        ValueError: One of them can't be decoded.
    """
    import torch

    size, workers = preprocessing["size"], min(os.cpu_count() or 1, 8)
    mean, std = (np.array(preprocessing[name], np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
    inputs = np.empty((len(contents), 3, size, size), np.float32)

    def fill(first: int) -> None:
        for i in range(first, len(contents), workers):
            pixels = np.asarray(resized(decode(contents[i]), preprocessing)).transpose(2, 0, 1)
            # by NumPy: torch would wake threads of its own beside those of the network that runs meanwhile
            np.divide(pixels, np.float32(255), out=inputs[i])
            inputs[i] -= mean
            inputs[i] /= std

    with ThreadPoolExecutor(workers) as pool:  # Pillow releases the interpreter lock
        list(pool.map(fill, range(workers)))
    return torch.from_numpy(inputs)


class _UnreadableError(ValueError):
    """The reason is known already."""


def _opened(content: bytes) -> ImageFile.ImageFile:
    """The header is read, the pixels are not."""
    if not content:
        raise _UnreadableError("zero bytes")
    for start, reader in _READERS:
        if content.startswith(start):
            picture = reader(BytesIO(content))
            if picture.width * picture.height > MAX_PIXELS:
                raise _UnreadableError(f"decompression bomb: {picture.width} x {picture.height} pixels")
            return picture
    for start, name in _UNSUPPORTED.items():
        if content.startswith(start) or content.startswith(start, 4):
            raise _UnreadableError(f"type {name} is not supported")
    raise _UnreadableError("not a picture that can be read")


def _reason(content: bytes, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "decompression bomb"
    cut = content.startswith(b"RIFF") and len(content) < 8 + int.from_bytes(content[4:8], "little")
    return "truncated" if cut or "truncated" in str(error).lower() else "not a picture that can be read"


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        return _from_wide_grey(picture)
    if picture.mode == "F":
        raise _UnreadableError("type float is not supported")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, (*WHITE, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def _from_wide_grey(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
        raise _UnreadableError("type 32-bit integer is not supported")
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # Pillow's own conversion clips at 255 instead
    if isinstance(transparent := picture.info.get("transparency"), int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _upright(rgb: Image.Image, source: Image.Image) -> Image.Image:
    try:
        orientation = source.getexif().get(0x0112, 1)  # behind load(), which applies it for TIFF itself
    except Exception:  # noqa: BLE001 - damaged EXIF data cost the orientation, not the picture
        orientation = 1
    turn = _UPRIGHT.get(orientation)
    return rgb if turn is None else rgb.transpose(turn)


def _centre(length: int, resized_length: int, size: int) -> tuple[float, float]:
    start = round((resized_length - size) / 2)
    scale = length / resized_length
    return start * scale, min((start + size) * scale, length)
