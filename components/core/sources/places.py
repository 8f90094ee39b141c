"""Folders on disk and on S3 read alike, as the formats of annotations need them."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from components.core.errors import RejectedRecord

AT_ONCE = 32  # files that are fetched from S3 together


class Place(Protocol):
    """A folder whose files are named by their paths below it, with slashes."""

    def uri(self, path: str) -> str:
        """Return where a file is."""

    def holds(self, path: str) -> bool:
        """Return whether a file is there."""

    def has_folder(self, folder: str) -> bool:
        """Return whether there is such a folder; `.` is the place itself."""

    def files(self, folder: str) -> list[str]:
        """Return the names of the files right in a folder, sorted; none if it can't be listed."""

    def read(self, path: str) -> bytes:
        """Return the content of a file.

        Raises:
            OSError: It can't be read.
            InputError: It can't be read from S3.
        """

    def read_each(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes | RejectedRecord]]:
        """Yield each path with its content, or with why it can't be read."""


def place(source: str) -> Place:
    """Return the folder of a source."""
    return (
        Bucket(source.rstrip("/") + "/") if source.startswith("s3://") else Disk(Path(source).expanduser().absolute())
    )


@dataclass(frozen=True)
class Disk:
    """A local folder."""

    root: Path

    def uri(self, path: str) -> str:
        """Return the path of a file."""
        return str(self.root / path)

    def holds(self, path: str) -> bool:
        """Return whether a file is there."""
        return (self.root / path).is_file()

    def has_folder(self, folder: str) -> bool:
        """Return whether there is such a folder."""
        return (self.root / folder).is_dir()

    def files(self, folder: str) -> list[str]:
        """Return the names of the files right in a folder, sorted."""
        try:
            with os.scandir(self.root / folder) as items:
                return sorted(item.name for item in items if not item.is_dir())
        except OSError:
            return []

    def read(self, path: str) -> bytes:
        """Return the content of a file; raises OSError if it can't be read."""
        return (self.root / path).read_bytes()

    def read_each(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes | RejectedRecord]]:
        """Yield each path with its content, or with why it can't be read."""
        for path in paths:
            try:
                yield path, self.read(path)
            except OSError as error:
                yield path, RejectedRecord(f"unreadable: {(error.strerror or 'input/output error').lower()}")


@dataclass(frozen=True)
class Bucket:
    """A folder on S3."""

    root: str  # s3://BUCKET/PREFIX/

    def uri(self, path: str) -> str:
        """Return the address of an object."""
        return self.root + path

    def holds(self, path: str) -> bool:
        """Return whether an object is there."""
        from components.core.storage import s3

        first = next(s3.list_objects(self.root + path), None)  # in the order of the keys it would come first
        return first is not None and first[0] == self.root + path

    def has_folder(self, folder: str) -> bool:
        """Return whether any key begins with it."""
        from components.core.storage import s3

        return next(s3.list_objects(self._inner(folder)), None) is not None

    def files(self, folder: str) -> list[str]:
        """Return the names of the objects right in a folder, sorted."""
        from components.core.storage import s3

        inner = self._inner(folder)
        names = (uri.removeprefix(inner) for uri, _, _ in s3.list_objects(inner))
        return sorted(name for name in names if name and "/" not in name)

    def read(self, path: str) -> bytes:
        """Return the content of an object; raises InputError if it can't be read."""
        from components.core.storage import s3

        return s3.read_bytes(self.root + path)

    def read_each(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes | RejectedRecord]]:
        """Yield each path with its content, or with why it can't be read; some are fetched at once."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            waiting = iter(paths)
            while some := [*islice(waiting, AT_ONCE)]:
                yield from zip(some, pool.map(self._content, some), strict=True)

    def _inner(self, folder: str) -> str:
        return self.root if folder == "." else f"{self.root}{folder}/"

    def _content(self, path: str) -> bytes | RejectedRecord:
        from components.core.storage import s3

        try:
            return self.read(path)
        except s3.ObjectError as error:
            return RejectedRecord(f"unreadable: {error.sentence}")
