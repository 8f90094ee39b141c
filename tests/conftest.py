"""Fixed seeds, a home folder of its own for every test, and runs of the DAG that several tests look at."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before mlflow is imported anywhere: tests reach no network
os.environ["GIT_PYTHON_REFRESH"] = "quiet"


@pytest.fixture(autouse=True)
def _seeds_fixed() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - seeds what libraries draw from the global generator
    torch.manual_seed(0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty THAWLINE_HOME."""
    folder = tmp_path / "home"
    monkeypatch.setenv("THAWLINE_HOME", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty MLflow store: copied into a home, it saves the seconds of a migration."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_HOME", str(folder))
        from components.core import tracking

        tracking.migrate()
    return folder


@pytest.fixture
def tracked_home(home: Path, store: Path) -> Path:
    """A home whose MLflow store is ready."""
    import shutil

    home.mkdir()
    for name in ("mlflow.db", "mlflow.version"):
        shutil.copy(store / name, home / name)
    return home


TOY = {"task": "tests.toy", "model": "toy", "head_epochs": 12, "head_learning_rate": 0.05, "thaw_learning_rate": 0.01}


@pytest.fixture(scope="session")
def toy_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 180 points in three classes."""
    from tests.toy import write_points

    return write_points(tmp_path_factory.mktemp("points"), per_class=60)


@pytest.fixture(scope="session")
def toy_dataset(toy_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The points, prepared."""
    from components.core.settings import Settings
    from components.prepare_data import prepare

    folder = tmp_path_factory.mktemp("dataset")
    prepare(str(toy_source), Settings(**TOY), folder, {}, "0", lambda _done, _total, _text: None)
    return folder
