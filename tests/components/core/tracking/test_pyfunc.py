"""Served models in MLflow's format."""

import pytest
from mlflow.utils import requirements_utils

from components.core.tracking.pyfunc import load_pyfunc
from tests.support.plain import PlainRun


def test_loading_does_not_scan_all_packages(toy_run: PlainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model loads without a look at the files of every installed package, and leaves MLflow as it was."""
    metadata = requirements_utils.importlib_metadata
    monkeypatch.setattr(requirements_utils, "_MODULES_TO_PACKAGES", None)
    monkeypatch.setattr(metadata, "packages_distributions", lambda: pytest.fail("all packages are read"))
    assert load_pyfunc(toy_run.folder / "served") is not None
    assert requirements_utils._MODULES_TO_PACKAGES is None
