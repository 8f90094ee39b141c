"""An MLflow server that is stopped and started again while a step works: a real one, which its own signals stop."""

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from components.core import run_folder
from components.core.errors import InputError, OutageError
from components.core.settings import Settings
from components.core.tracking import runs
from components.core.tracking.service import connection, outbox
from tests.support.command import wait_for

if TYPE_CHECKING:
    from tests.services.servers import Mlflow

pytest_plugins = ["tests.services.servers"]


@pytest.fixture
def settings(mlflow_server: "Mlflow", home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a model of its own on the server, which is given up after a second."""
    for name, value in mlflow_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(outbox, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(outbox, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(runs, "FAILED_SECONDS", 1.0)
    return Settings(task="tests.fakes.toy", model=f"toy-{secrets.token_hex(4)}").to_json()


@contextmanager
def stopped(server: "Mlflow") -> Iterator[None]:
    """Let the server's processes answer nothing meanwhile."""
    os.killpg(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(server.process.pid, signal.SIGCONT)


def notes() -> list[str]:
    return [event["text"] for event, _ in run_folder.events("k") if event["event"] == "note"]


@pytest.mark.slow  # the server needs seconds to start
def test_figures_wait_for_a_server_that_comes_back(mlflow_server: "Mlflow", settings: str) -> None:
    """The work goes on meanwhile and the progress says so; then all figures are there, and the run is finished."""
    with runs.step("train_head", "k", settings) as run, stopped(mlflow_server):
        for epoch in range(5):
            run.metrics({f"loss{epoch}": 0.5})
        run.params({"head_epochs": 5})
        wait_for(lambda: any("waiting for MLflow" in text for text in notes()))
    wait_for(lambda: "The MLflow server answers again" in notes())
    found = connection.client().get_run(run.run_id)
    assert {f"loss{epoch}" for epoch in range(5)} < found.data.metrics.keys()
    assert found.data.params == {"head_epochs": "5"}
    assert found.info.status == "FINISHED"


@pytest.mark.slow
def test_a_server_that_stays_away_ends_the_step_with_one_sentence(
    mlflow_server: "Mlflow", settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the work is done it is waited for as long as the patience says; the run's folder has the reason."""
    sentence = rf"^The MLflow server {mlflow_server.uri} did not answer for 2 s\."
    with ExitStack() as outage, pytest.raises(OutageError, match=sentence):  # noqa: PT012, SIM117 - a step's work
        with runs.step("train_head", "k", settings) as run:
            monkeypatch.setattr(run._outbox, "_patience", 2.0)
            outage.enter_context(stopped(mlflow_server))
            run.metrics({"loss": 0.5})
            worked = True
    assert worked
    assert run_folder.read_errors("k")["train_head"]["kind"] == "failure"


@pytest.mark.slow
def test_a_server_that_is_away_when_a_step_begins_is_waited_for(
    mlflow_server: "Mlflow", settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step does not begin its work, and names the server."""
    monkeypatch.setenv(outbox.PATIENCE, "1")
    with stopped(mlflow_server), pytest.raises(OutageError, match="did not answer for 1 s"):  # noqa: SIM117
        with runs.step("train_head", "k", settings):
            pytest.fail("it must not work")


def test_a_patience_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the variable."""
    monkeypatch.setenv(outbox.PATIENCE, "long")
    with pytest.raises(InputError, match="THAWLINE_TRACKING_PATIENCE can't be 'long'"):
        outbox.patience()
