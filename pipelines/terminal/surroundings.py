"""Protect a run from the user's environment: leftover variables, unusable folders, a closed pipe."""

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from components.core.errors import InputError

LEFT_OVER = (
    *("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"),  # of another run: ours would go there
    *("MLFLOW_REGISTRY_URI", "MLFLOW_ACTIVE_MODEL_ID", "MLFLOW_WORKSPACE"),  # a registry apart from its runs
    "MLFLOW_ENABLE_ASYNC_LOGGING",  # a step could end before its figures are logged
    "THAWLINE_RUN_KEY",  # of a pod
    "CLUSTER_SPEC",  # kfp writes no outputs in what it takes for a worker
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),  # torchrun's: a step would wait for the other ranks
)
STORES = ("http", "https", "sqlite", "postgresql", "mysql")
TEMPORARY_BYTES = 2**20  # that a usable folder for temporary files takes
UNSAFE = "%?#"  # a database's address reads them as its own


def drop_left_over() -> list[str]:
    """Remove the variables of other runs from this process and all that it starts; return their names."""
    return [name for name in LEFT_OVER if os.environ.pop(name, None) is not None]


def check_store(address: str) -> None:
    """Check that a tracking address is of a kind that this project works with; the empty one is the home's own.

    Raises:
        InputError: It is not, such as `databricks` or a folder.
    """
    kind, colon, _ = address.partition(":")
    if address and not (colon and kind.partition("+")[0] in STORES):
        shown = f"{kind}:…" if colon else address  # what follows may hold a password
        raise InputError(
            f"MLFLOW_TRACKING_URI={shown} is not supported.",
            "Unset it to track in the home folder, or use a server: --tracking-uri http://HOST:PORT.",
        )


def check_home(folder: str) -> None:
    """Check that a home's path can be part of its database's address.

    Raises:
        InputError: It can't.
    """
    found = sorted({character for character in folder if character in UNSAFE})
    if found:
        raise InputError(
            f"The home folder {folder} can't be used: its path contains {' and '.join(found)}.",
            "Rename that folder, or choose another one with --home.",
        )


def check_name(source: str) -> None:
    """Check that a source's name can be written down: parameters of a run are JSON and tags of MLflow, in UTF-8.

    Raises:
        InputError: It can't.
    """
    try:
        source.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(source).decode(errors="backslashreplace")
        raise InputError(f"The name {shown} is not UTF-8.", "Rename it, or use a link to it.") from None


def near(path: str) -> str:
    """A path as a reader in the working folder would type it."""
    return path.removeprefix(f"{Path.cwd()}{os.sep}")


def check_temporary_folder() -> None:
    """Check the folder for temporary files by a small one: Python does without `TMPDIR`, the shells of the steps don't.

    Raises:
        InputError: It is not there, read-only, full or no folder.
    """
    folder = os.environ.get("TMPDIR", "")
    try:
        with tempfile.TemporaryFile(dir=folder or None) as file:
            file.write(bytes(TEMPORARY_BYTES))
    except OSError as error:
        name = f"TMPDIR={folder}" if folder else tempfile.tempdir or "/tmp, /var/tmp and /usr/tmp"  # noqa: S108 - told
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "Free space there, or set" if full else "Create it, or set"
        reason = (error.strerror or "input/output error").lower()
        raise InputError(
            f"There is no usable folder for temporary files: {name} ({reason}).",
            f"{hint} TMPDIR to a folder that can be written to.",
        ) from error


def ensure_home() -> None:
    """Set HOME for a user without a home folder: some libraries fail without a place for their caches."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()


class Enduring:
    """A text stream that drops its text once its reader is gone, so that the work continues."""

    def __init__(self, stream: IO[str], note: str) -> None:
        self._stream, self._note = stream, note

    def write(self, text: str) -> int:
        """Write, or drop the text if nobody reads any more."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush what was written."""
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the stream's own, whatever they are
        return getattr(self._stream, name)

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BrokenPipeError:
            # what is buffered goes there too, else the interpreter complains at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if self._note and sys.stderr is not self:
                sys.stderr.write(self._note + "\n")


@contextmanager
def enduring(note: str) -> Iterator[None]:
    """Continue when the reader of the output is gone, and report it once on stderr."""
    before = sys.stdout, sys.stderr
    sys.stdout = Enduring(sys.stdout, note)
    sys.stderr = Enduring(sys.stderr, "")
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before
