"""Real speech: what Tux Paint's stamps are called, spoken in nine languages by one voice each (a Debian package).

`python -m tests.data.spoken FOLDER` writes FOLDER/voices.csv (uri, label, group: whose voice it is) and
FOLDER/speech.csv (uri, label, group: the Spanish words) with the sound files beside them, and FOLDER/speaker.pt, the
weights of a real speaker encoder out of the package resemblyzer, which is read without being installed.
"""

import csv
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from pipelines.local.demo import PACKAGE, extract

LANGUAGES = ("be", "bg", "ca", "da", "el", "es", "fr", "ro", "ru")
TRANSCRIBED = "es"
WEIGHTS = "resemblyzer==0.1.4 --hash=sha256:8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f"
MOST = 60  # of each voice
LONGEST = 40  # characters of a transcript: names of things, not sentences on them


def write_spoken(folder: Path) -> dict[str, int]:
    """Fill the folder unless it is there, for one process at a time; return the number of rows of both manifests."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            part = folder.with_name(f".{folder.name}.part")  # complete or absent, also after a kill
            shutil.rmtree(part, ignore_errors=True)
            with tempfile.TemporaryDirectory() as temporary:
                stamps = extract(PACKAGE, Path(temporary)) / "usr/share/tuxpaint/stamps"
                write_manifests(stamps, part)
                fetch_speaker(Path(temporary), part / "speaker.pt")
            part.replace(folder)
    counts = {}
    for name in ("voices", "speech"):
        with (folder / f"{name}.csv").open(newline="") as file:
            counts[name] = sum(1 for _ in csv.DictReader(file))
    return counts


def fetch_speaker(folder: Path, target: Path) -> None:
    """Fetch the package into a folder and write its weights to a file; what it depends on is not needed."""
    (folder / "requirements.txt").write_text(WEIGHTS)
    options = ["--no-deps", "--require-hashes", "-r", str(folder / "requirements.txt"), "-d", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *options], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        target.write_bytes(wheel.read("resemblyzer/pretrained.pt"))


def write_manifests(stamps: Path, folder: Path) -> None:
    """Copy the sounds of a folder of stamps, and write both manifests."""
    folder.mkdir(parents=True)
    voices = [(file, lang, stamp) for lang in LANGUAGES for file, stamp in sorted_files(stamps, lang)[:MOST]]
    texts = ((file, transcript(file, TRANSCRIBED)) for file, _ in sorted_files(stamps, TRANSCRIBED))
    # what says the same words keeps to one split
    speech = [(file, text, text.casefold().strip(" .")) for file, text in texts if 0 < len(text) <= LONGEST]
    for name, rows in (("voices", voices), ("speech", speech)):
        with (folder / f"{name}.csv").open("w", newline="") as target:
            writer = csv.writer(target)
            writer.writerow(("uri", "label", "group"))
            for file, label, group in rows:
                copy = folder / "-".join(file.relative_to(stamps).parts)
                if not copy.exists():
                    shutil.copy(file, copy)
                writer.writerow((copy.name, label, group))


def sorted_files(stamps: Path, language: str) -> list[tuple[Path, str]]:
    """Files of a voice and the stamps that they belong to, in the order of the stamps' hashes."""

    def found() -> Iterator[tuple[Path, str]]:
        for file in stamps.rglob(f"*_desc_{language}.ogg"):
            yield file, str(file.relative_to(stamps)).removesuffix(f"_desc_{language}.ogg")

    return sorted(found(), key=lambda row: hashlib.sha256(row[1].encode()).hexdigest())


def transcript(file: Path, language: str) -> str:
    """What a file says, from the stamp's text beside it; empty where that has no such language."""
    text = file.with_name(file.name.removesuffix(f"_desc_{language}.ogg") + ".txt")
    lines = text.read_text(errors="replace").splitlines() if text.exists() else []
    return next((line.partition("=")[2].strip() for line in lines if line.startswith(f"{language}.utf8=")), "")


if __name__ == "__main__":
    sys.stderr.write(f"{write_spoken(Path(sys.argv[1]))} rows in {sys.argv[1]}\n")
