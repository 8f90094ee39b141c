"""What reads bytes of strangers, each as a function that raises nothing but what it does not expect."""

import io
import json
import tempfile
import wave
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from components.core.contract.task import load_task
from components.core.errors import InputError, RejectedRecord
from components.core.inference import archives, images, served_model
from components.core.sources import tables

PICTURES = {"size": 8, "mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
TASKS = {"picture": "image_classification", "sound": "audio_classification", "text": "text_classification"}


class Target(NamedTuple):
    """A function of bytes, and valid inputs for it."""

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]


def check_of(kind: str) -> Callable[[bytes], None]:
    """Return the check of `prepare_data` for one kind of record, which rejects what it can't use."""

    def read(content: bytes) -> None:
        with suppress(RejectedRecord):
            load_task(TASKS[kind]).check(content)

    return read


def manifest(content: bytes) -> None:
    """Read a table in every format, and its cells as text; what is wrong with it is an error of the input."""
    for name in ("rows.csv", "rows.jsonl", "rows.parquet"):
        with suppress(InputError):
            for row in tables.read_rows(io.BytesIO(content), name):
                for value in row.values():
                    tables.as_text(value)


def archive(content: bytes) -> None:
    """Check an exported graph before it is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pt2"
        path.write_bytes(content)
        with suppress(ValueError):
            archives.check_archive(path)


def served(content: bytes) -> None:
    """Decode a request's record as the served model does: JSON to bytes, and these to the network's input."""
    with suppress(ValueError):
        images.encode([content], PICTURES)
    with suppress(ValueError):
        value = json.loads(content)
        for text in (True, False):
            with suppress(ValueError):
                served_model._bytes(value, text)


def pictures() -> list[bytes]:
    """Small pictures in every format and of every mode that is read."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 17, 4), dtype=np.uint8)
    found = []
    for form, mode in [
        (f, m) for f in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF") for m in ("RGB", "L", "RGBA", "P")
    ]:
        buffer = io.BytesIO()
        with suppress(OSError):  # of a mode that the format has not
            Image.fromarray(pixels).convert(mode).save(buffer, form)
            found.append(buffer.getvalue())
    wide = io.BytesIO()
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save(wide, "PNG")
    return [*found, wide.getvalue()]


def sounds() -> list[bytes]:
    """A short sound."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.random.default_rng(0).integers(-9000, 9000, 8000, dtype=np.int16).tobytes())
    return [buffer.getvalue()]


def texts() -> list[bytes]:
    """Words, and nothing."""
    return [b"A sentence of words.", "größer als das Meer".encode(), b""]


def manifests() -> list[bytes]:
    """A table of each format."""
    rows = [{"uri": f"{i}.png", "label": "cat" if i % 2 else "dog", "number": i / 2} for i in range(20)]
    csv = "uri,label,number\n" + "".join(f'{row["uri"]},"{row["label"]}",{row["number"]}\n' for row in rows)
    lines = "".join(json.dumps({**row, "boxes": [{"x": 1, "y": None}]}) + "\n" for row in rows)
    buffer = io.BytesIO()
    pq.write_table(pa.table({name: [row[name] for row in rows] for name in rows[0]}), buffer)
    return [csv.encode(), lines.encode(), buffer.getvalue()]


def exported() -> list[bytes]:
    """An archive of the form that `torch.export` writes."""
    buffer = io.BytesIO()
    members = {
        "archive_format": "pt2",
        "models/model.json": "{}",
        "data/weights/model_weights_config.json": json.dumps({"config": {"weight": {"use_pickle": False}}}),
        "data/weights/weight_0": "x" * 64,
        ".data/version": "6",
    }
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in members.items():
            file.writestr(f"network/{name}", text)
    return [buffer.getvalue()]


def requests() -> list[bytes]:
    """Pictures as they are, and records as JSON."""
    return [*pictures(), b'"QSBzZW50ZW5jZQ=="', b'{"b64": "QSBzZW50ZW5jZQ=="}', b"5", b"[null]"]


TARGETS: Mapping[str, Target] = {
    "picture": Target(check_of("picture"), pictures),
    "sound": Target(check_of("sound"), sounds),
    "text": Target(check_of("text"), texts),
    "manifest": Target(manifest, manifests),
    "archive": Target(archive, exported),
    "served": Target(served, requests),
}
