"""Fixed seeds, a home folder of its own for every test, and runs of the DAG that several tests look at."""

import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from components.core import home_folder

if TYPE_CHECKING:
    from tests.support.plain import PlainRun

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before mlflow is imported anywhere: tests reach no network
os.environ["GIT_PYTHON_REFRESH"] = "quiet"
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side; threads that wait for each other cost minutes


@pytest.fixture(autouse=True)
def _seeds_fixed() -> None:
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - seeds what libraries draw from the global generator
    torch.manual_seed(0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty THAWLINE_HOME."""
    folder = tmp_path / "home"
    use_home(folder, monkeypatch)
    return folder


def use_home(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make a folder THAWLINE_HOME and forget the store of the test before: mlflow keeps it in the environment."""
    patch.setenv("THAWLINE_HOME", str(folder))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        patch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty MLflow store: copied into a home, it saves the seconds of a migration."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        use_home(folder, patch)
        from components.core.tracking import connection

        connection.migrate()
    return folder


@pytest.fixture
def tracked_home(home: Path, store: Path) -> Path:
    """A home whose MLflow store is ready."""
    copy_store(store, home)
    return home


TOY = {
    "task": "tests.fakes.toy",
    "model": "toy",
    "head_epochs": 12,
    "head_learning_rate": 0.05,
    "thaw_learning_rate": 0.01,
}


@pytest.fixture(scope="session")
def toy_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 180 points in three classes."""
    from tests.fakes.toy import write_points

    return write_points(tmp_path_factory.mktemp("points"), per_class=60)


@pytest.fixture(scope="session")
def toy_dataset(toy_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The points, prepared."""
    from components.core.data.lineage import Lineage
    from components.core.data.preparation import prepare
    from components.core.settings import Settings

    folder = tmp_path_factory.mktemp("dataset")
    prepare(str(toy_source), Settings(**TOY), folder, Lineage("0"), lambda _done, _total, _text: None)
    return folder


def copy_store(store: Path, home: Path) -> None:
    """Give a home a ready MLflow store."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(store / "mlflow.db", home)
    home_folder.mark_store_current(home / "mlflow.db")


@pytest.fixture(scope="session")
def _toy_run(toy_source: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "PlainRun"]:
    from components.core.settings import Settings
    from tests.support.plain import run_steps

    folder = tmp_path_factory.mktemp("toy-run")
    home = folder / "home"
    copy_store(store, home)
    with pytest.MonkeyPatch.context() as patch:
        use_home(home, patch)
        return home, run_steps(toy_source, Settings(**TOY, trials=3, search_workers=1), folder / "artifacts")


@pytest.fixture
def toy_run(_toy_run: tuple[Path, "PlainRun"], monkeypatch: pytest.MonkeyPatch) -> "PlainRun":
    """A finished run of all steps on the toy task, THAWLINE_HOME set to its home. Not to be changed by a test."""
    home, run = _toy_run
    use_home(home, monkeypatch)
    return run


@pytest.fixture
def toy_home(_toy_run: tuple[Path, "PlainRun"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "PlainRun":
    """A copy of that run's home that a test may change."""
    from components.core.tracking.relocation import relocate

    home, run = _toy_run
    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    relocate(copy)
    home_folder.mark_store_current(copy / "mlflow.db")
    use_home(copy, monkeypatch)
    return run
