"""From a picture's bytes to a network's input.

This file travels with a served model and is loaded where Thawline is not installed, so it imports nothing from here.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, JpegImagePlugin, WebPImagePlugin
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

if TYPE_CHECKING:  # torch costs seconds; checking pictures needs none of it
    from torch import Tensor

# Pillow's own limit: a quarter of a gigabyte as RGB.
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3
# Pixels above which half the width and height are more than enough for a network; times the network's input that a
# JPEG's width and height keep when it is decoded for it.
HALVED, DETAIL = 2**25, 2
FULL_SIZE = "full_size"  # of a picture's `info`: width and height of what was decoded, in pixels
WHITE = (255, 255, 255)
_LEAST_SIDE, _STRIP = 1024, 2**20  # of a halved picture; pixels that are converted at a time
_BYTES = {"1": 1, "L": 1, "P": 1, "I": 2}  # of a pixel in memory, where they are not 4
_WEBP_BYTES = {"RGB": 16, "RGBA": 20}  # of a pixel while its library decodes it, measured
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of JPEG
_PROGRESSIVE, _SCAN = {0xC2, 0xC6, 0xCA, 0xCE}, 0xDA

# Readers are called themselves, not through Image.open: that warns about large pictures before their size can be read
# here, and warnings can't be caught safely in threads.
_READERS: tuple[tuple[bytes | tuple[bytes, ...], Callable[..., ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImagePlugin.jpeg_factory),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
    (b"GIF8", GifImagePlugin.GifImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    ((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"), TiffImageFile),  # with a plus: BigTIFF
)
_BITS, _PHOTOMETRIC, _BANDS, _MOST, _FORMAT = 258, 262, 277, 281, 339  # tags of TIFF
_MOST_BANDS = 6  # that Pillow takes, of which the first three are the colour and what is not alpha is left out
_MOST_BITS, _WHITE_OF_16 = 16, 2**16 - 1
_SIGNED, _FLOATS = 2, {3: "float", 5: "complex integer", 6: "complex float"}
_UNSUPPORTED: dict[bytes | tuple[bytes, ...], str] = {  # by the bytes at the start, or behind the first box's length
    b"%PDF": "PDF",
    b"8BPS": "PSD",
    b"<svg": "SVG",
    b"<?xm": "SVG or XML",
    (b"<!DO", b"<htm"): "HTML",
    b"\x89HDF": "HDF5",
    b"\x93NUM": "NumPy",
    b"v/1\x01": "OpenEXR",
    b"\x00\x00\x01\x00": "ICO",
    b"PK\x03\x04": "ZIP",
    b"ftypavif": "AVIF",
    (b"ftyphei", b"ftypmif1"): "HEIC",
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
_SIDEWAYS = {_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}


class Preprocessing(TypedDict):
    """Parameters that turn a decoded picture into the network's input."""

    size: int  # side of the input in pixels
    resize: int  # the shorter side before the centre crop
    mode: str  # crop, squash or pad
    mean: list[float]  # of RGB in 0..1
    std: list[float]
    interpolation: str  # nearest, bilinear, bicubic, lanczos, box or hamming
    sized: NotRequired[bool]  # whether the input tells how large the picture was, as boxes in pixels need it


class _Memory:
    """Bytes that the pictures in work may take together; one that takes all of it waits for the others."""

    def __init__(self, size: int) -> None:
        self.size = self._free = size
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, number: int) -> Iterator[None]:
        """Hold some of it."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= number)
            self._free -= number
        try:
            yield
        finally:
            with self._changed:
                self._free += number
                self._changed.notify_all()


_memory = _Memory(450_000_000)


@contextmanager
def decoded(content: bytes, preprocessing: Mapping[str, Any] | None = None) -> Iterator[Image.Image]:
    """Yield an upright RGB picture: the first frame, alpha composited on white, 16 bits scaled to 8.

    One of more than `HALVED` pixels has half the width and height, unless it is a narrow strip, and its own ones in
    `info[FULL_SIZE]`. Pictures that other threads decode meanwhile wait until together they take no more than 450 MB.

    Args:
        content: The picture's bytes.
        preprocessing: Of `resized`, if the picture is for it alone: then a JPEG is decoded at a half, a quarter or an
            eighth of its width and height where that leaves twice what the network takes.

    Raises:
        ValueError: The bytes are no picture that can be read; the message is the reason, `kind` or `kind: detail`.
    """
    with _refused(content):
        picture = _opened(content)
        halved = picture.width * picture.height > HALVED and min(picture.size) >= 2 * _LEAST_SIDE
        needed = _bytes_of(picture, content, halved=halved)
    if needed > _memory.size:
        raise ValueError(
            f"too large: {picture.width} x {picture.height} pixels as {picture.format} take {needed // 10**6} MB to "
            f"decode, and at most {_memory.size // 10**6} may be used"
        )
    with _memory.taken(needed):
        with _refused(content):
            upright = _decoded(picture, _enough(picture.size, preprocessing), halved=halved)
        yield upright


def decode(content: bytes) -> Image.Image:
    """The picture of `decoded`, for one that is used after others may be decoded again.

    Raises:
        ValueError: The bytes are no picture that can be read; the message is the reason, `kind` or `kind: detail`.
    """
    with decoded(content) as picture:
        return picture


@contextmanager
def _refused(content: bytes) -> Iterator[None]:
    try:
        yield
    except _UnreadableError:
        raise
    except Exception as error:  # damaged bytes make readers fail with almost anything
        raise ValueError(_reason(content, error)) from error


def _enough(size: tuple[int, int], preprocessing: Mapping[str, Any] | None) -> tuple[int, int]:
    """The width and height that a picture needs, whichever way it is turned; all that it has if nobody knows."""
    if preprocessing is None:
        return size
    side = preprocessing["size"] * DETAIL
    if preprocessing["mode"] == "squash":
        return side, side
    whole = preprocessing["mode"] == "pad"
    scale = side / max(size) if whole else max(preprocessing["resize"] * DETAIL, side) / min(size)
    return int(np.ceil(size[0] * scale)), int(np.ceil(size[1] * scale))


def _decoded(picture: ImageFile.ImageFile, enough: tuple[int, int], *, halved: bool) -> Image.Image:
    """A picture as RGB, with at least the width and height that are enough, or half of its own if that is asked for."""
    size = picture.size
    least = [min(few, full // 2 if halved else full) for few, full in zip(enough, size, strict=True)]
    if least != [*size]:
        picture.draft(None, (max(1, least[0]), max(1, least[1])))  # a JPEG's lowest cosines, in a fraction of the time
    drafted = picture.size != size
    picture.load()
    full = size if drafted else picture.size  # TIFF is turned by then
    upright, turned = _upright(_rgb(picture, halved=halved and not drafted), picture)
    upright.info[FULL_SIZE] = full[::-1] if turned else full
    return upright


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
        raise ValueError(f"mode {mode!r} is not crop, squash or pad")
    # As Resize, then CenterCrop, but computes only what is kept: a 1 x 30000 line never grows to millions of pixels.
    shorter = max(preprocessing["resize"], size)
    left, right = _centre(width, int(shorter * width / min(width, height)), size)
    top, bottom = _centre(height, int(shorter * height / min(width, height)), size)
    return picture.resize((size, size), resample, box=(left, top, right, bottom))


def encode(contents: Sequence[bytes], preprocessing: Mapping[str, Any]) -> "Tensor | dict[str, Tensor]":
    """Encoded pictures as normalised float32 [B, 3, size, size].

    If `sized`, they are the `latest` of two tensors, and `size` holds their width and height in pixels, int64 [B, 2].

    Raises:
        ValueError: One of them can't be decoded.
    """
    import torch

    size, workers = preprocessing["size"], min(torch.get_num_threads(), 8)
    mean, std = (np.array(preprocessing[name], np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
    inputs, sizes = np.empty((len(contents), 3, size, size), np.float32), np.empty((len(contents), 2), np.int64)

    def fill(first: int) -> None:
        for i in range(first, len(contents), workers):
            with decoded(contents[i], preprocessing) as picture:
                sizes[i] = picture.info[FULL_SIZE]
                pixels = np.asarray(resized(picture, preprocessing)).transpose(2, 0, 1)
            # by NumPy: torch would wake threads of its own beside those of the network that runs meanwhile
            np.divide(pixels, np.float32(255), out=inputs[i])
            inputs[i] -= mean
            inputs[i] /= std

    with ThreadPoolExecutor(workers) as pool:  # Pillow releases the interpreter lock
        list(pool.map(fill, range(workers)))
    found = torch.from_numpy(inputs)
    return {"latest": found, "size": torch.from_numpy(sizes)} if preprocessing.get("sized") else found


class _UnreadableError(ValueError):
    """The reason is known already."""


def _opened(content: bytes) -> ImageFile.ImageFile:
    """The header is read, the pixels are not."""
    if not content:
        raise _UnreadableError("zero bytes")
    for start, reader in _READERS:
        if content.startswith(start):
            picture = _tiff(content) if reader is TiffImageFile else reader(BytesIO(content))
            if content[24:26] in (b"\x02\x00", b"\x04\x00") and reader is PngImageFile:  # grey of few bits
                _scale_transparency(picture, bits=content[24])
            if picture.width * picture.height > MAX_PIXELS:
                raise _UnreadableError(f"decompression bomb: {picture.width} x {picture.height} pixels")
            return picture
    for start, name in _UNSUPPORTED.items():
        if content.startswith(start) or content.startswith(start, 4):
            raise _UnreadableError(f"type {name} is not supported")
    if content[128:132] == b"DICM":
        raise _UnreadableError("type DICOM is not supported")
    raise _UnreadableError("not a picture that can be read")


def _scale_transparency(picture: ImageFile.ImageFile, bits: int) -> None:
    """Bring the transparent grey to the scale of 8 bits, to which Pillow brings the pixels but not the grey."""
    if isinstance(grey := picture.info.get("transparency"), int):
        picture.info["transparency"] = grey * 255 // (2**bits - 1)


def _tiff(content: bytes) -> ImageFile.ImageFile:
    """A TIFF file; what Pillow would read wrongly, or refuse for a reason of its own, is named by its tags."""
    if content.startswith(b"MM\x00+"):
        raise _UnreadableError("type big-endian BigTIFF is not supported")
    tags = ImageFileDirectory_v2(content[: 16 if b"+" in content[2:4] else 8])
    file = BytesIO(content)
    file.seek(tags.next)
    tags.load(file)
    bands, bits, forms = int(tags.get(_BANDS, 1)), tags.get(_BITS, (1,)), tags.get(_FORMAT, (1,))
    if form := next((_FLOATS[form] for form in forms if form in _FLOATS), ""):
        raise _UnreadableError(f"type {form} is not supported")
    if max(bits) > _MOST_BITS:
        raise _UnreadableError(f"type {max(bits)}-bit integer is not supported")
    if _SIGNED in forms:
        raise _UnreadableError("type signed integer is not supported")
    form = f"type TIFF of {bands} bands of {max(bits)} bits is not supported"
    if bands > _MOST_BANDS:
        raise _UnreadableError(form)
    try:
        return TiffImageFile(BytesIO(content))
    except SyntaxError as error:  # its word for bands and bits that it can't arrange
        raise _UnreadableError(form) from error


def _reason(content: bytes, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "decompression bomb"
    cut = content.startswith(b"RIFF") and len(content) < 8 + int.from_bytes(content[4:8], "little")
    return "truncated" if cut or "truncated" in str(error).lower() else "not a picture that can be read"


def _bytes_of(picture: ImageFile.ImageFile, content: bytes, *, halved: bool) -> int:
    """The most that decoding a picture takes at once, in bytes, beside its content."""
    pixels, own = picture.width * picture.height, _BYTES.get(picture.mode.partition(";")[0], 4)
    if picture.format == "WEBP":
        return pixels * _WEBP_BYTES.get(picture.mode, 20)
    jpeg = picture.format in ("JPEG", "MPO")
    known = picture.format != "PNG" or "exif" in picture.info  # asking a PNG would load it
    turned = known and _orientation(picture) in _UPRIGHT
    result = pixels // (4 if halved else 1) * 4
    source = pixels // (4 if halved and jpeg else 1) * own
    fresh = picture.mode != "RGB" or picture.has_transparency_data or (halved and not jpeg)
    if isinstance(picture, TiffImageFile):
        source, turned = source * (1 + turned) + _block(picture), False  # turned when it is loaded
    return source + result * (fresh + turned) + (2 * _buffered(content, pixels) if jpeg else 0)


def _buffered(content: bytes, pixels: int) -> int:
    """Cosines that a JPEG's decoder holds: all of a progressive one, and of one whose colours come one by one."""
    place, samples, progressive, components = 2, 0.0, False, 0
    while place + 4 <= len(content):
        if content[place] != 0xFF:  # noqa: PLR2004 - a marker begins with it
            break
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4])
        if marker == 0xFF:  # noqa: PLR2004 - filled up
            place += 1
            continue
        if marker in _FRAMES:
            progressive, components = marker in _PROGRESSIVE, content[place + 9]
            factors = content[place + 11 : place + 10 + 3 * components : 3]
            areas = [(factor >> 4) * (factor & 15) for factor in factors]
            most = max((factor >> 4 for factor in factors), default=1) * max((f & 15 for f in factors), default=1)
            samples = sum(areas) / max(1, most)
        if marker == _SCAN:
            progressive |= content[place + 4] < components
            break
        place += 2 + length
    return int(samples * pixels) if progressive else 0


def _block(picture: TiffImageFile) -> int:
    """Bytes of a strip or tile of a TIFF, which its library unpacks at once."""
    tags = picture.tag_v2
    width = tags.get(322, picture.width)
    rows = tags.get(323, min(tags.get(278, picture.height), picture.height))
    return int(width * rows * max(tags.get(_BITS, (1,))) * int(tags.get(_BANDS, 1)) // 8)


def _rgb(picture: Image.Image, *, halved: bool) -> Image.Image:
    """A picture as RGB, in strips: a large one is never held a third time."""
    if picture.mode == "I":  # any range: of 32 bits or with a sign
        raise _UnreadableError("type 32-bit integer is not supported")
    if picture.mode == "F":
        raise _UnreadableError("type float is not supported")
    if picture.mode == "RGB" and not picture.has_transparency_data:
        return picture.reduce(2) if halved else picture
    width, height, divisor = *picture.size, 2 if halved else 1
    convert = _wide_grey(picture) if picture.mode.startswith("I") else _rgb_of_strip
    rows = max(2, _STRIP // width // 2 * 2)
    if height <= rows and not halved:
        return convert(picture)
    found = Image.new("RGB", (-(-width // divisor), -(-height // divisor)))
    for top in range(0, height, rows):
        strip = convert(picture.crop((0, top, width, min(top + rows, height))))
        found.paste(strip.reduce(2) if halved else strip, (0, top // divisor))
    return found


def _rgb_of_strip(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, (*WHITE, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def _wide_grey(picture: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return what makes RGB of strips of a picture of 16-bit grey."""
    tags = picture.tag_v2 if isinstance(picture, TiffImageFile) else {}
    top = 4095 if tags.get(_BITS) == (12,) else (tags.get(_MOST) or (_WHITE_OF_16,))[0]
    if not top <= _WHITE_OF_16 or (top < _WHITE_OF_16 and np.asarray(picture).max() > top):
        top = _WHITE_OF_16  # the tag says less than the picture holds
    transparent = picture.info.get("transparency")

    def convert(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip)
        # Pillow's own conversion clips at 255 instead
        grey = ((values.astype(np.uint32) * 255 + top // 2) // max(1, top)).astype(np.uint8)
        if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow heeds in 8 bits only
            grey = 255 - grey
        if isinstance(transparent, int):
            grey[values == transparent] = 255
        return Image.fromarray(grey).convert("RGB")

    return convert


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(0x0112, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF data cost the orientation, not the picture
        return 1


def _upright(rgb: Image.Image, source: Image.Image) -> tuple[Image.Image, bool]:
    """A picture turned by its EXIF data, and whether its width has become its height."""
    turn = _UPRIGHT.get(_orientation(source))  # behind load(), which applies it for TIFF itself
    return (rgb, False) if turn is None else (rgb.transpose(turn), turn in _SIDEWAYS)


def _centre(length: int, resized_length: int, size: int) -> tuple[float, float]:
    start = round((resized_length - size) / 2)
    scale = length / resized_length
    return start * scale, min((start + size) * scale, length)
