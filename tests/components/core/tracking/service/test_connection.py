"""Where runs are logged, and the way that files take."""

import os
from pathlib import Path
from typing import Any

import pytest

from components.core import run_folder
from components.core.errors import InputError
from components.core.settings import Settings
from components.core.tracking import runs
from components.core.tracking.service import connection
from tests.fakes.webhook import listening, status

WAYS = ("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD")


@pytest.mark.parametrize("chosen", [None, "true"])
def test_files_pass_through_the_server(home: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None) -> None:
    """MLflow's shortcut to S3, past the server, is off unless it is asked for: often only the server reaches S3."""
    for way in WAYS:
        monkeypatch.setenv(way, chosen or "")
        if chosen is None:
            del os.environ[way]
    connection.client()
    assert {os.environ[way] for way in WAYS} == {chosen or "false"}


def test_an_address_with_a_password_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pod too, where no command line has looked at it; the sentence does not repeat it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:private@127.0.0.1:9")
    with (
        pytest.raises(InputError, match="maybe a password") as error,
        runs.step("search", "k", Settings().to_json()),
    ):
        pass
    assert "private" not in str(error.value)
    assert "private" not in str(run_folder.read_errors("k"))


FULL = b'{"error_code": "INTERNAL_ERROR", "message": "The store is full\\nTraceback"}'


def test_a_server_that_fails_is_not_called_out_of_reach(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers 500 again and again is told as that, with where to look; one that is silent is out of reach."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with listening(status(500, FULL)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address := f"http://127.0.0.1:{server.port}")
        with pytest.raises(InputError) as error, connection.explained():
            connection.client().get_run("a")
        assert len(server.requests) == 2
    assert error.value.sentence == f"The MLflow server {address} answers with the error 500."
    assert "log" in error.value.hint
    with pytest.raises(InputError, match="can't be reached"), connection.explained():
        connection.client().get_run("a")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (status(500, FULL), "answers with the error 500: The store is full."),
        (status(502, b"<html>Bad Gateway</html>"), "answers with the error 502."),
        (status(404, b"Not here."), "answers with the error 404: Not here."),
    ],
)
def test_what_a_server_answers_is_told_before_a_run(
    answer: Any, told: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked before anything starts, a server that can't do its work, or is none, is told with its own first line."""
    with listening(answer) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.port}")
        with pytest.raises(InputError) as error:
            connection.check_server()
    assert error.value.sentence.endswith(told)
