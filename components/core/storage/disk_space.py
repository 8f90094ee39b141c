"""A full disk in one sentence: which folder, how much is free, how to go on; and the room that a step needs.

Libraries report a full disk each in its own way, so what they raise is searched for the words. A small file in the home
is given up when the disk is full: with its space the run can be closed, and the reason written down.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from components.core.errors import ExpectedError, StepError, chain

FULL = (errno.ENOSPC, errno.EDQUOT)
RESERVE, RESERVE_BYTES = ".reserve", 4 * 2**20  # what closing a run writes is less
_WORDS = (  # of safetensors and shutil, SQLite, quotas, and torch.save, which knows only that it came to write less
    *("No space left on device", "database or disk is full", "Disk quota exceeded"),
    *("inline_container.cc", "PytorchStreamWriter failed writing"),
)
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class FullDiskError(StepError):
    """A disk is full, or has less room than a step needs."""


@contextmanager
def explained(home: Callable[[], Path]) -> Iterator[None]:
    """Turn a full disk into one sentence, and give up the reserve, so that the run can be closed.

    Args:
        home: Returns the home folder.

    Raises:
        FullDiskError: The disk of the home, or that of temporary files, is full.
    """
    try:
        yield
    except ExpectedError as error:
        if isinstance(error, FullDiskError):
            release(home())
        raise
    except Exception as error:
        if not is_full(error):
            raise
        found = full(home(), error)  # before there is room again
        release(home())
        raise found from error


def full(home: Path, error: BaseException | None = None) -> FullDiskError:
    """Return the error that names the full folder: that of the file that was written, else the one with least room."""
    names = (getattr(error, name, None) for name in ("filename2", "filename"))
    written = [Path(name).parent for name in names if isinstance(name, str) and Path(name).parent.is_dir()]
    folders = {folder: _free(folder) for folder in (home, _temporary(), *written)}
    found = min(folders, key=folders.__getitem__)
    return FullDiskError(f"The disk is full: {size(folders[found])} are free in {found}.", _hint(home, found))


def check(home: Path, needed: Mapping[Path, float], what: str) -> None:
    """Check that a step's files fit before the step begins its work.

    Args:
        home: The home folder.
        needed: Bytes by the folder where they will lie; folders of one disk share its room.
        what: What needs them, at the beginning of the sentence.

    Raises:
        FullDiskError: They don't.
    """
    disks: dict[int, float] = {}
    for folder, number in needed.items():
        disk = _existing(folder).stat().st_dev
        disks[disk] = disks.get(disk, 0) + number
        if disks[disk] > (free := _free(folder)):
            sentence = f"{what} needs {size(disks[disk])}, and {size(free)} are free in {folder}."
            raise FullDiskError(sentence, _hint(home, folder))


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or what it came from, says that a disk is full."""
    return any(getattr(one, "errno", None) in FULL or any(word in str(one) for word in _WORDS) for one in chain(error))


def reserve(home: Path) -> None:
    """Take the space that closing a run needs, before the run begins."""
    path = home / RESERVE
    if not path.exists() or path.stat().st_size < RESERVE_BYTES:
        home.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(RESERVE_BYTES))


def release(home: Path) -> None:
    """Give it up; the next run takes it again."""
    with suppress(OSError):
        (home / RESERVE).unlink()


def size(number: float) -> str:
    """Return bytes for people: 3.2 GB."""
    unit, name = next(((unit, name) for unit, name in _UNITS if number >= unit), (1, "bytes"))
    return f"{number / unit:.3g} {name}"


def _temporary() -> Path:
    """The folder of temporary files; Python chooses another one where it is full."""
    return Path(os.environ.get("TMPDIR") or tempfile.gettempdir())


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _free(folder: Path) -> float:
    return float(shutil.disk_usage(_existing(folder)).free)


def _hint(home: Path, folder: Path) -> str:
    if folder == home or home in folder.parents:
        return "Free space there, or use another folder with --home or THAWLINE_HOME; then run the same command again."
    if folder == _temporary():
        return "Free space there, or set TMPDIR to another folder; then run the same command again."
    return "Free space there; then run the same command again."
