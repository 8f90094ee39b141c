"""Make the SQLite store of a home, and bring it to the schema of the installed MLflow."""

import functools
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import mlflow

from components.core.errors import InputError, chain
from components.core.storage import disk_space, home_folder
from components.core.tracking.service.relocation import relocate

UNREADABLE = (  # what SQLite says of a file that is damaged, or none of its own
    *("file is not a database", "database disk image is malformed"),
    *("unable to open database file", "disk I/O error"),
)
ANEW = "move the file to another folder; the next run makes a new one."


def migrate() -> None:
    """Bring the local store to this version's schema and to where it lies, once: steps that start together would race.

    A home that was moved or copied has this version's schema, and the paths of where it was. The tables are made and
    changed in a copy that takes the store's place when it is complete: SQLite can't roll a migration back, and half of
    one can't be migrated again.

    Raises:
        InputError: The store is empty, or MLflow can't migrate it.
    """
    uri = home_folder.tracking_uri()
    if not uri.startswith("sqlite:///"):
        return
    database = Path(uri.removeprefix("sqlite:///"))
    with home_folder.locked(database.with_suffix(".lock")):
        if home_folder.store_is_current(database):
            return
        if database.exists() and not database.stat().st_size:
            raise _unusable(database, "it is empty")
        if not home_folder.has_current_schema(database):
            part = database.with_name(f".{database.name}.part")
            part.unlink(missing_ok=True)  # of a command that was killed
            try:
                _upgrade(database, part) if database.exists() else _make(part)
                part.replace(database)
            finally:
                part.unlink(missing_ok=True)
        if database == home_folder.home() / "mlflow.db":
            relocate(home_folder.home())
        home_folder.mark_store_current(database)


def _make(part: Path) -> None:
    mlflow.MlflowClient(f"sqlite:///{part}").search_experiments(max_results=1)  # it creates what is not there


def _upgrade(database: Path, part: Path) -> None:
    with closing(sqlite3.connect(database)) as old, closing(sqlite3.connect(part)) as new:
        old.backup(new)
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{part}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        lines = ["no reason given", *done.stdout.splitlines(), *done.stderr.splitlines()]
        reason = next((line for line in reversed(lines) if "Error: " in line), lines[-1])
        raise InputError(
            f"MLflow {version('mlflow')} can't migrate the store {database}: {reason}",
            ANEW.capitalize(),
        )


@functools.cache
def check(database: Path) -> None:
    """Check a store's tables, once, before MLflow does, which would try for minutes to read a damaged one.

    Raises:
        InputError: SQLite can't read them.
    """
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(database)) as opened:
            opened.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.DatabaseError as error:  # any other, as of a locked one, is MLflow's to deal with
        if known := damage(error):
            raise known from error


def damage(error: BaseException) -> InputError | None:
    """The sentence for a local store that SQLite can't read; None for every other error."""
    uri = home_folder.tracking_uri()
    said = (words for one in chain(error) for words in UNREADABLE if words in str(one))
    words = next(said, "") if uri.startswith("sqlite:///") and not disk_space.is_full(error) else ""
    return _unusable(Path(uri.removeprefix("sqlite:///")), words) if words else None


def _unusable(database: Path, why: str) -> InputError:
    return InputError(f"The MLflow store {database} can't be used: {why}.", f"Restore it from a backup, or {ANEW}")
