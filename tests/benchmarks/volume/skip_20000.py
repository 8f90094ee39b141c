"""How long `thawline run` takes to find that none of 20,000 files has changed.

    python -m tests.benchmarks.volume.skip_20000

Runs the pipeline once on 20,000 points in ten class folders, with the smallest network there is, and then five times
again, each time as a new process. A skip reads no file, so their size does not matter; their number does.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.fakes.toy import write_points

CLASSES, FILES = 10, 20_000
REPEATS = 5
OPTIONS = [
    "--task",
    "tests.fakes.toy",
    "--model",
    "points",
    "--trials",
    "0",
    "--thaw",
    "0",
    "--head-epochs",
    "1",
    "--search-workers",
    "1",
    "--json",
]


def run(source: Path, home: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of the whole command, Python's start included, and its result."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "run", str(source), *OPTIONS],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "THAWLINE_HOME": str(home)},
    )
    return time.perf_counter() - begin, json.loads(done.stdout)


def main() -> None:
    """Print the seconds."""
    with tempfile.TemporaryDirectory() as name:
        source = write_points(Path(name) / "points", FILES // CLASSES, CLASSES)
        seconds, result = run(source, Path(name) / "home")
        print(f"{FILES} files: {seconds:.1f} s to train ({result['status']})")
        taken, looking = [], []
        for _ in range(REPEATS):
            seconds, result = run(source, Path(name) / "home")
            if result["status"] != "skipped":
                sys.exit(f"It was not skipped: {result['reason']}")
            taken.append(seconds)
            looking.append(result["steps"]["detect_changes"])
        spread = f"[{min(taken):.2f}, {max(taken):.2f}]"
        print(f"{FILES} files: {statistics.median(taken):.2f} s to skip, of {REPEATS} {spread}; ", end="")
        print(f"{statistics.median(looking):.2f} s of it list, compare and ask MLflow")


if __name__ == "__main__":
    main()
