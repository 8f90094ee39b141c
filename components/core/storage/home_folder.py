"""The home folder, which holds everything that Thawline writes, and the local MLflow store in it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from components.core.errors import UnavailableError
from components.core.storage import disk_space


def home() -> Path:
    """The folder that holds everything Thawline writes: `THAWLINE_HOME`, else `.thawline` here."""
    return Path(os.environ.get("THAWLINE_HOME", ".thawline")).resolve()


def tracking_uri() -> str:
    """Return the address of the tracking store: `MLFLOW_TRACKING_URI`, else the SQLite store in the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


@contextmanager
def writable() -> Iterator[None]:
    """Say in one sentence that the home can't be written to; it is what a step writes to first.

    Raises:
        UnavailableError: It is read-only, or another user's.
        FullDiskError: Its disk is full.
    """
    try:
        yield
    except OSError as error:
        if disk_space.is_full(error):
            raise disk_space.full(home(), error) from error
        read_only = error.errno == errno.EROFS
        user = f"Give {home()} to this process's user, {os.geteuid()}"
        first = "Mount that file system for writing" if read_only else user
        hint = f"{first}, or choose another folder with --home or THAWLINE_HOME."
        raise UnavailableError(f"{error.filename or home()} can't be written to: {error.strerror}.", hint) from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file of the home.

    Raises:
        UnavailableError: The home can't be written to.
        FullDiskError: Its disk is full.
    """
    with writable():
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path).acquire()
    with held:
        yield


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader or a kill never sees half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def store_is_current(database: Path) -> bool:
    """Return whether the local MLflow store has the installed version's schema and the paths of its present place."""
    return has_current_schema(database) and _stamped(database).endswith(f" {database}")


def has_current_schema(database: Path) -> bool:
    """Return whether the installed version of MLflow made or migrated a local store (read without importing it)."""
    filled = database.exists() and database.stat().st_size > 0  # MLflow would begin anew in an empty one
    return filled and _stamped(database).split(" ")[0] == version("mlflow")


def store_is_ready() -> bool:
    """Return whether steps can log at once: the local store is current, or another server has its own."""
    uri = tracking_uri()
    return not uri.startswith("sqlite:///") or store_is_current(Path(uri.removeprefix("sqlite:///")))


def mark_store_current(database: Path) -> None:
    """Remember that the local MLflow store has the installed version's schema, and where it lies."""
    write_text(_stamp(database), f"{version('mlflow')} {database}")


def _stamped(database: Path) -> str:
    """The text of the stamp; empty without one, and for a damaged one: the store is then looked at as an old one is."""
    try:
        return _stamp(database).read_text()
    except (OSError, ValueError):
        return ""


def _stamp(database: Path) -> Path:
    return database.with_suffix(".version")
