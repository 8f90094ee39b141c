"""Explain in one sentence why a Parquet file can't be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

from components.core.errors import ExpectedError, InputError

_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"  # at both ends of a file
_FORMATS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "ZIP",
    b"ORC": "ORC",
    b"ARROW1": "Feather",
    b"SQLite": "SQLite",
    b"\x89HDF": "HDF5",
    b"Obj\x01": "Avro",
    b"{": "JSON",
    b"[": "JSON",
}


@contextmanager
def explained(
    path: Path, hint: str, *, name: str = "", raises: type[ExpectedError] = InputError, what: str = "The file"
) -> Iterator[None]:
    """Turn what reading a damaged file raises into one sentence that names the file and its fault.

    Args:
        path: The file that is read.
        hint: How the user gets a whole one.
        name: What the user calls it; the path if empty.
        raises: The error's class.
        what: The file's role, at the beginning of the sentence.
    """
    try:
        yield
    except (ExpectedError, FileNotFoundError):
        raise
    except Exception as error:  # damaged bytes, and columns of other types, raise almost anything
        if isinstance(error, OSError) and error.errno:  # of the system: pyarrow's own have no number
            found = f"can't be read: {(error.strerror or '').lower()}"
        else:
            with path.open("rb") as file:
                found = fault(file, error)
        raise raises(f"{what} {name or path} {found}.", hint) from error


def fault(file: BinaryIO, error: Exception) -> str:
    """Say what is wrong with a file that pyarrow does not read: `is empty`, `is cut off: …`.

    Args:
        file: Is read at both ends.
        error: What the reader raised.
    """
    file.seek(0)
    start = file.read(16)
    size = file.seek(0, SEEK_END)
    file.seek(max(0, size - len(_MAGIC)))
    end = file.read()
    if not size:
        return "is empty"
    if _ENCRYPTED in (start[:4], end):
        return "is encrypted"
    if not start.startswith(_MAGIC):
        form = next((f": it is {name}" for begin, name in _FORMATS.items() if start.startswith(begin)), "")
        return f"is not a Parquet file{form}"
    if end != _MAGIC or size <= 2 * len(_MAGIC):
        return "is cut off: a Parquet file ends with its index, which is missing"
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return f"is damaged: {reason.strip().rstrip('.')[:200]}"
