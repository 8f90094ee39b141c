"""Real rated texts: film reviews' snippets and tweets, out of the source distribution of vaderSentiment 2.5.

`python -m tests.data.snippets FILE.csv` writes a manifest of text,label,kind: `positive` where 15 to 99 people rated
a text 0.5 or more on average, `negative` at -0.5 or less; what lies between is left out. The texts carry no sign of
the review that they come from, so only near-duplicates are kept together.
"""

import csv
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FILES = {"film": "movieReviewSnippets_GroundTruth.txt", "tweet": "tweets_GroundTruth.txt"}
SURE = 0.5  # of 4


def write_snippets(target: Path) -> int:
    """Write the manifest unless it is there; return the number of texts."""
    if not target.exists():
        with tempfile.TemporaryDirectory() as folder:
            content = _download(Path(folder))
        rows = [row for kind, name in FILES.items() for row in _rows(content[name], kind)]
        part = target.with_suffix(".part")
        with part.open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label", "kind"), *rows])
        part.replace(target)
    with target.open(newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def _download(folder: Path) -> dict[str, str]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", "--dest", str(folder), "vaderSentiment==2.5"], check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as outer:
        name = next(name for name in outer.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz"))
        inner = outer.extractfile(name)
        archive = io.BytesIO(inner.read() if inner else b"")
    found = {}
    with tarfile.open(fileobj=archive) as members:
        for member in members.getmembers():
            if Path(member.name).name in FILES.values():
                file = members.extractfile(member)
                found[Path(member.name).name] = (file.read() if file else b"").decode("utf-8-sig", "replace")
    return found


def _rows(content: str, kind: str) -> list[tuple[str, str, str]]:
    rated = [line.split("\t", 2) for line in content.splitlines() if line.count("\t") >= 2]
    return [
        (text, "positive" if float(mean) > 0 else "negative", kind)
        for _, mean, text in rated
        if abs(float(mean)) >= SURE and text.strip()
    ]


if __name__ == "__main__":
    sys.stderr.write(f"{write_snippets(Path(sys.argv[1]))} texts in {sys.argv[1]}\n")
