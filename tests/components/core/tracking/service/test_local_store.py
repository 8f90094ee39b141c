"""The SQLite store of a home is made and migrated whole, or not at all."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from components.core.errors import InputError
from components.core.settings import Settings
from components.core.storage import home_folder
from components.core.tracking import runs
from components.core.tracking.service import connection, local_store


@pytest.mark.slow
def test_a_store_whose_making_was_cut_short_is_made_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the tables never lie under the store's name, where no later command could migrate them."""

    def half(uri: str) -> mlflow.MlflowClient:
        with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
            database.execute("CREATE TABLE experiments (experiment_id INTEGER)")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "MlflowClient", half)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # as after a kill
        with pytest.raises(KeyboardInterrupt):
            local_store.migrate()
    assert [path.name for path in home.glob("*mlflow.db*")] == [".mlflow.db.part"]
    local_store.migrate()
    assert home_folder.store_is_ready()
    assert connection.client().search_experiments()
    assert not list(home.glob(".*"))


@pytest.mark.slow
def test_a_store_of_another_version_keeps_its_runs(tracked_home: Path) -> None:
    """A store that no command of this version has seen is migrated with what it holds."""
    connection.client().create_experiment("toy")
    (tracked_home / "mlflow.version").write_text("1.0.0 elsewhere")
    local_store.migrate()
    assert home_folder.store_is_ready()
    assert connection.client().get_experiment_by_name("toy")


@pytest.mark.slow
def test_a_store_that_can_not_be_migrated_stays_as_it_is(home: Path) -> None:
    """The sentence has MLflow's reason, and what to do with the file."""
    home.mkdir()
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER)")
    before = (home / "mlflow.db").read_bytes()
    with pytest.raises(InputError, match=r"can't migrate the store .*Error: ") as error:
        local_store.migrate()
    assert "another folder" in error.value.hint
    assert (home / "mlflow.db").read_bytes() == before


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _first_page_lost(content: bytes) -> bytes:
    return bytes(4096) + content[4096:]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_half, "malformed"),
        (_first_page_lost, "file is not a database"),
        (lambda _content: b"", "it is empty"),
    ],
)
def test_a_damaged_store_is_one_sentence(damage: Callable[[bytes], bytes], why: str, tracked_home: Path) -> None:
    """It names the file, and what to do with it, in a command as in a step; MLflow begins no new one in its place."""
    database = tracked_home / "mlflow.db"
    database.write_bytes(damaged := damage(database.read_bytes()))
    with pytest.raises(InputError, match=f"{database} can't be used: .*{why}. Restore it from a backup"):  # noqa: PT012
        connection.open_store()
        with connection.explained():
            connection.client().search_experiments()
    if damaged:  # an empty one is found before any step: the DAG begins with `migrate`
        with pytest.raises(InputError, match=why), runs.step("search", "key", Settings().to_json()):
            pass
    assert database.read_bytes() == damaged


@pytest.mark.slow  # a migration is a process of MLflow's
def test_a_damaged_stamp_has_the_store_migrated(tracked_home: Path) -> None:
    """A stamp that can't be read is as one of another version."""
    (tracked_home / "mlflow.version").write_bytes(b"\xff\x00")
    assert not home_folder.store_is_ready()
    local_store.migrate()
    assert home_folder.store_is_ready()
