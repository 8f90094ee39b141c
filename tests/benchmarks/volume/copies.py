"""How long a manifest takes whose rows all name a few contents, and that memory holds the rows only.

    python -m tests.benchmarks.volume.copies

Each row of the table is a process of its own: the index that `detect_changes` takes and what `prepare_data` does, over
N rows that name 24 pictures of 640 x 480 in 3 classes (`one label`), the same with a fourth class whose rows contradict
the others (`two labels`), with another label in every row (`labels`), and another group in every row (`groups`).
Measured for one label on 2 cores (Zen 3) with much other work on them: index 0.5, 5 and 36 s, preparation 1, 7 and
80 s, peak 169, 264 and 1,119 MB.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.errors import InputError
from components.core.settings import Settings
from components.core.sources import source_index

NUMBERS = (10_000, 100_000, 1_000_000)
CLASSES, PICTURES = 3, 24
LABELS: dict[str, Callable[[int], str]] = {  # label and group of row i
    "one label": lambda i: f"{i % CLASSES},",
    "two labels": lambda i: f"{i % CLASSES if i % 1000 else 'other'},",
    "labels": lambda i: f"{i},",
    "groups": lambda i: f"{i % CLASSES},g{i}",
}


def generate(folder: Path) -> None:
    """Write the pictures, all different."""
    random = np.random.default_rng(0)
    for i in range(PICTURES):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")


def timed(folder: Path, kind: str, number: int) -> dict[str, float]:
    """Seconds of the index and of the preparation, and the peak in MB, in this process."""
    manifest = folder / f"{kind.replace(' ', '-')}-{number}.csv"
    with manifest.open("w") as file:
        file.write("uri,label,group\n")
        file.writelines(f"{i % PICTURES}.jpg,{LABELS[kind](i)}\n" for i in range(number))
    begin = time.perf_counter()
    source_index.take(str(manifest), [])
    indexed = time.perf_counter()
    settings = Settings.model_validate({"task": "tests.benchmarks.volume.prepare_20000", "max_rejected": 1.0})
    with suppress(InputError):  # where all contradict each other nothing is left
        prepare(str(manifest), settings, manifest.with_suffix(""), Lineage("0"), lambda *_: None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"index": indexed - begin, "prepare": time.perf_counter() - indexed, "peak": peak}


def main(numbers: tuple[int, ...] = NUMBERS) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        generate(Path(name))
        print("rows         kind        index s  prepare s  peak MB")
        for kind in LABELS:
            for number in numbers:
                command = [sys.executable, "-m", "tests.benchmarks.volume.copies", "--row", name, kind, str(number)]
                row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                print(
                    f"{number:9,}    {kind:10}{row['index']:9.1f}{row['prepare']:11.1f}{row['peak']:9.0f}", flush=True
                )


if __name__ == "__main__":
    if "--row" in sys.argv:
        where, which, count = sys.argv[2:]
        print(json.dumps(timed(Path(where), which, int(count))))
    else:
        main(tuple(map(int, sys.argv[1:])) or NUMBERS)
