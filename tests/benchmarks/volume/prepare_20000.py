"""How fast pictures are prepared, and that memory does not grow with their number.

    python -m tests.benchmarks.volume.prepare_20000

Each row is a process of its own over the first N of the same generated JPEGs; the peak is what the kernel counted.
Measured on 2 cores (Zen 3) shared with other work: 1,200 to 1,900 pictures of 128 px a second; peak 135, 149 and 180 MB
for 1,000, 5,000 and 20,000 pictures (7, 36 and 146 MB): 2 KB of index a picture grow, the contents don't.
"""

import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.errors import RejectedRecord
from components.core.inference import classification, images
from components.core.settings import Settings

NUMBERS = (1_000, 5_000, 20_000)
CLASSES = 10
serving_code = Path(images.__file__)
encode = images.encode


def build(*_arguments: object) -> None:
    """Nothing: preparing data asks for no network."""


def target(_settings: Settings) -> SimpleNamespace:
    """What preparing data asks of classes as a target, and stand-ins for the rest; the real one needs torch."""
    return SimpleNamespace(
        strata=list,
        names=lambda labels: [[label] for label in labels],
        metrics=[],
        answer=classification.Answer,
        answers=classification.answers,
        **dict.fromkeys(("targets", "loss", "evaluate"), build),
    )


def check(content: bytes) -> Mapping[str, int | str]:
    """The check of image classification without torch's 300 MB: this module is the task."""
    try:
        picture = images.decode(content)
    except ValueError as error:
        raise RejectedRecord(str(error)) from error
    return {"width": picture.width, "height": picture.height}


def generate(folder: Path, number: int) -> None:
    """Write JPEGs of 128 px, all different, into class folders."""
    random = np.random.default_rng(0)
    for i in range(number):
        coarse = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((128, 128), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
        path = folder / f"class{i % CLASSES}" / f"{i:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(buffer.getvalue())


def timed(source: Path, number: int, out: Path) -> dict[str, float]:
    """Prepare the first `number` pictures in this process; pictures a second and peak memory in MB."""
    manifest = out.with_suffix(".csv")
    rows = [f"{path},{path.parent.name}" for path in sorted(source.rglob("*.jpg"), key=lambda p: p.name)[:number]]
    manifest.write_text("\n".join(["uri,label", *rows]))
    begin = time.perf_counter()
    settings = Settings.model_validate({"task": "tests.benchmarks.volume.prepare_20000"})
    info = prepare(str(manifest), settings, out, Lineage("0"), lambda *_: None)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"examples": info.examples, "rate": info.examples / seconds, "peak": peak}


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        generate(folder / "in", max(NUMBERS))
        size = sum(path.stat().st_size for path in (folder / "in").rglob("*.jpg")) / max(NUMBERS)
        print(f"{size / 1024:.1f} KB a picture\n\npictures     MB   pictures/s   peak MB")
        for number in NUMBERS:
            command = [sys.executable, "-m", "tests.benchmarks.volume.prepare_20000", str(folder), str(number)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"{row['examples']:8} {number * size / 2**20:6.0f} {row['rate']:12.0f} {row['peak']:9.0f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        where, count = Path(sys.argv[1]), int(sys.argv[2])
        print(json.dumps(timed(where / "in", count, where / f"out{count}")))
    else:
        main()
