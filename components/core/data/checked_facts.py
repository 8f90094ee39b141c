"""A task's findings about each content, kept line by line during the check, so that a killed step can go on."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

Facts = Mapping[str, int | str]


class CheckedFacts:
    """Facts of contents by their digest, or why one is rejected; with a file, those of an earlier process too."""

    def __init__(self, known: dict[str, Facts | str], file: TextIO | None) -> None:
        self._known = known
        self._file = file
        self._writing = threading.Lock()

    def get(self, sha256: str) -> Facts | str | None:
        """Return the findings about a content."""
        return self._known.get(sha256)

    def add(self, sha256: str, found: Facts | str) -> None:
        """Take what was found out about a content."""
        self._known[sha256] = found
        if self._file:
            with self._writing:
                self._file.write(json.dumps([sha256, found]) + "\n")


@contextmanager
def kept(path: Path | None) -> Iterator[CheckedFacts]:
    """Facts in a file that is made on demand; without one they are forgotten with the process.

    Args:
        path: Names all that facts depend on beside the content: the task, its code and its options.
    """
    if path is None:
        yield CheckedFacts({}, None)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    known = dict(_read(path))
    with path.open("a", buffering=1) as file:  # a line is the system's as soon as it is whole
        file.write("\n")  # behind one that a kill has cut
        yield CheckedFacts(known, file)


def _read(path: Path) -> Iterator[tuple[str, Facts | str]]:
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            sha256, found = json.loads(line)
        except (ValueError, TypeError):  # cut off, damaged, or empty
            continue
        yield sha256, found
