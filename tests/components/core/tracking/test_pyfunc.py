"""Served models in MLflow's format."""

import shutil
from pathlib import Path

import pytest
from mlflow.utils import requirements_utils

from components.core.tracking.pyfunc import load_pyfunc
from tests.support.plain import PlainRun


@pytest.mark.parametrize("missing", ["", "no-such-package==1.0\n"])
def test_loading_does_not_scan_all_packages(
    missing: str, toy_run: PlainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A model loads without a look at the files of every package, and MLflow still warns of a missing requirement."""
    metadata = requirements_utils.importlib_metadata
    monkeypatch.setattr(requirements_utils, "_MODULES_TO_PACKAGES", None)
    monkeypatch.setattr(metadata, "packages_distributions", lambda: pytest.fail("all packages are read"))
    folder = tmp_path / "served"
    shutil.copytree(toy_run.folder / "served", folder)
    with (folder / "requirements.txt").open("a") as file:
        file.write(missing)
    assert load_pyfunc(folder) is not None
    assert ("no-such-package" in caplog.text) is bool(missing)
