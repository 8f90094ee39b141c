"""Equal values give equal text and equal digests, in every process and on every machine."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """The sha256 of the canonical JSON of `value`, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def of_rows(rows: Iterable[Any]) -> str:
    """The sha256 of the canonical JSON of each row, a line for each, 64 hexadecimal digits."""
    total = hashlib.sha256()
    for row in rows:
        total.update(canonical_json(row).encode() + b"\n")
    return total.hexdigest()


def of_file(path: Path) -> str:
    """The sha256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_tree(path: Path) -> str:
    """The sha256 of a file, or of a folder's files with their names; empty where there is neither."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return digest([(file.relative_to(path).as_posix(), of_file(file)) for file in files])
    return of_file(path) if path.is_file() else ""
