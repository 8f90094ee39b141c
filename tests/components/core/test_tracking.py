"""Where runs are logged, and the way that files take."""

import os
from pathlib import Path

import pytest

from components.core import tracking

WAYS = ("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD")


@pytest.mark.parametrize("chosen", [None, "true"])
def test_files_pass_through_the_server(home: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None) -> None:
    """MLflow's shortcut to S3, past the server, is off unless it is asked for: often only the server reaches S3."""
    for way in WAYS:
        monkeypatch.setenv(way, chosen or "")
        if chosen is None:
            del os.environ[way]
    tracking.client()
    assert {os.environ[way] for way in WAYS} == {chosen or "false"}
