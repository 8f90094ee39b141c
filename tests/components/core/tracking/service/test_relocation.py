"""A home that was moved or copied finds its own artifacts."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from components.core.registry import versions
from components.core.storage import home_folder
from components.core.tracking import queries
from components.core.tracking.service import connection
from components.core.tracking.service.relocation import relocate
from tests.conftest import use_home

if TYPE_CHECKING:
    from tests.support.plain import PlainRun


def test_a_moved_home_answers_from_where_it_lies(
    toy_run: "PlainRun", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copied to a path with a blank, a home serves and logs its own files, and the original's stay untouched."""
    original, copy = home_folder.home(), tmp_path / "a new place" / "home"
    before = {path: path.stat().st_mtime_ns for path in original.rglob("*") if path.name != "mlflow.lock"}
    shutil.copytree(original, copy)
    use_home(copy, monkeypatch)
    assert not home_folder.store_is_ready()
    connection.open_store()
    assert home_folder.store_is_ready()
    places = [run.info.artifact_uri for run in queries.find_runs("toy", "")]
    assert places
    assert all(place.startswith(f"{copy.as_uri()}/artifacts/toy/") for place in places)
    path, version = versions.fetch("toy", "champion", tmp_path / "served")
    assert version == "1"
    assert (path / "MLmodel").is_file()
    assert toy_run.accepted
    after = {path: path.stat().st_mtime_ns for path in original.rglob("*") if path.name != "mlflow.lock"}
    assert after == before


def test_artifacts_that_lie_elsewhere_stay_where_they_are(tracked_home: Path, tmp_path: Path) -> None:
    """An experiment whose artifacts are kept outside of the home keeps its address."""
    elsewhere = (tmp_path / "elsewhere" / "artifacts" / "toy").as_uri()
    connection.client().create_experiment("toy", artifact_location=elsewhere)
    assert relocate(tracked_home) == []
    assert connection.client().get_experiment_by_name("toy").artifact_location == elsewhere
