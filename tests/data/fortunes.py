"""Real short texts in 16 topics: the Debian packages fortunes and fortunes-min, read without being installed.

`python -m tests.data.fortunes FILE.csv` writes a manifest of text,label: of each topic the 120 texts with the least
hash.
"""

import csv
import hashlib
import sys
import tempfile
from pathlib import Path

from pipelines.local.demo import extract

TOPICS = (
    *("computers", "definitions", "drugs", "education", "food", "kids", "law", "linux"),
    *("literature", "love", "medicine", "people", "pets", "politics", "science", "sports"),
)
MOST = 120


def write_fortunes(target: Path) -> int:
    """Write the manifest unless it is there; return the number of texts."""
    if not target.exists():
        with tempfile.TemporaryDirectory() as folder:
            for package in ("fortunes", "fortunes-min"):
                games = extract(package, Path(folder)) / "usr/share/games/fortunes"
            rows = [(text, topic) for topic in TOPICS for text in texts(games / topic)]
        part = target.with_suffix(".part")
        with part.open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
        part.replace(target)
    with target.open(newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def texts(path: Path) -> list[str]:
    """The texts of a file, which lines with a percent sign part."""
    found = [text.strip("\n") for text in path.read_text(errors="replace").split("\n%\n")]
    real = [text for text in found if text.strip("% \n")]
    return sorted(real, key=lambda text: hashlib.sha256(text.encode()).hexdigest())[:MOST]


if __name__ == "__main__":
    sys.stderr.write(f"{write_fortunes(Path(sys.argv[1]))} texts in {sys.argv[1]}\n")
