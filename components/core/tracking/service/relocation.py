"""Repair the store of a home that was moved or copied: MLflow keeps absolute addresses of artifacts."""

import sqlite3
from contextlib import closing
from pathlib import Path

ADDRESSES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


def relocate(home: Path) -> list[str]:
    """Point the local store to the artifacts that lie beside it; return the addresses of the homes it named before.

    An experiment whose artifacts are not in this home, since they are kept elsewhere, stays as it is.

    Args:
        home: A home folder whose `mlflow.db` has the schema of the installed MLflow.
    """
    with closing(sqlite3.connect(home / "mlflow.db")) as database, database:
        known = database.execute("SELECT name, artifact_location FROM experiments").fetchall()
        # an experiment's folder bears its name, in the address with what is special in it escaped
        here = {name: (home / "artifacts" / name).as_uri() for name, _ in known}
        moved = {
            place.removesuffix(here[name].removeprefix(home.as_uri()))
            for name, place in known
            if (home / "artifacts" / name).is_dir()
            and place.endswith(here[name].removeprefix(home.as_uri()))
            and place != here[name]
        }
        for old in moved:
            for table, columns in ADDRESSES.items():
                for column in columns:
                    _replace(database, table, column, f"{old}/artifacts/", f"{home.as_uri()}/artifacts/")
    return sorted(moved)


def _replace(database: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    statement = (
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 - names of ADDRESSES
        f"WHERE substr({column}, 1, ?) = ?"
    )
    database.execute(statement, (new, len(old) + 1, len(old), old))
