"""A folder of the user's that files are copied to: checked before the work begins, and never mixed with other files."""

import shutil
import tempfile
from pathlib import Path

from components.core.digests import of_file
from components.core.errors import InputError
from components.core.storage import disk_space, home_folder


def check_output(folder: Path, source: Path | None = None) -> None:
    """Make a folder, and check that it can be written to and holds nothing.

    Args:
        folder: What `--output` names.
        source: Files that it may hold already, whole or in part, since a copy was cut off.

    Raises:
        InputError: It can't be written to, or holds something else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = [path for path in sorted(folder.iterdir()) if not (source and _is_copy(path, source))]
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if disk_space.is_full(error):
            raise
        reason = (error.strerror or "input/output error").lower()
        raise InputError(f"{folder} can't be written to: {reason}.", "Choose another folder with --output.") from None
    if others:
        raise InputError(
            f"{folder} is not empty: it holds {others[0].name}.",
            "Choose a new folder with --output, or empty this one.",
        )


def copy_files(source: Path, folder: Path) -> None:
    """Copy the files of one folder into another so that a reader or a kill never sees half of one.

    Raises:
        FullDiskError: They don't fit.
    """
    files = sorted(source.iterdir())
    disk_space.check(home_folder.home(), {folder: sum(path.stat().st_size for path in files)}, "The copy")
    for path in files:
        part = folder / _part(path.name)
        shutil.copyfile(path, part)
        part.replace(folder / path.name)


def _is_copy(path: Path, source: Path) -> bool:
    if path.name in {_part(one.name) for one in source.iterdir()}:
        return True
    return (source / path.name).is_file() and path.is_file() and of_file(path) == of_file(source / path.name)


def _part(name: str) -> str:
    return f".{name}.part"
