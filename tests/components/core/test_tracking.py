"""Where runs are logged, and the way that files take."""

import os
from pathlib import Path

import pytest

from components.core import runs, tracking
from components.core.errors import InputError
from components.core.settings import Settings

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


def test_an_address_with_a_password_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pod too, where no command line has looked at it; the sentence does not repeat it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:private@127.0.0.1:9")
    with (
        pytest.raises(InputError, match="maybe a password") as error,
        tracking.step("search", "k", Settings().to_json()),
    ):
        pass
    assert "private" not in str(error.value)
    assert "private" not in str(runs.read_errors("k"))
