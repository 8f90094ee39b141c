"""The command `thawline ui`: where the tracking page opens, and what the command prints."""

import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from pipelines.commands import ui
from tests.services.servers import free_port
from tests.support import command

RUNS = "runs?workflowType=machine_learning"


@pytest.mark.parametrize(
    ("name", "last", "place"),
    [
        ("", "3", f"experiments/3/{RUNS}"),
        ("stamps", "3", f"experiments/2/{RUNS}"),
        ("stmaps", "3", f"experiments/3/{RUNS}"),
        ("", "", "experiments"),
    ],
)
def test_the_page_opens_on_runs(
    name: str, last: str, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It opens on the named model, else on that of the last run, and on all experiments where there is no run."""

    def asked(_base: str, what: str, **conditions: Any) -> dict[str, Any]:
        if what == "experiments":
            named = [("Default", "0"), ("stamps", "2"), ("birds", "3")]
            return {"experiments": [{"name": name, "experiment_id": id_} for name, id_ in named]}
        assert conditions["experiment_ids"] == ["0", "2", "3"]
        assert conditions["order_by"] == ["attributes.start_time DESC"]
        return {"runs": [{"info": {"experiment_id": last}}]} if last else {}

    monkeypatch.setattr(ui, "_asked", asked)
    assert ui._place("http://127.0.0.1:5000", name) == place
    assert ("no run of a model 'stmaps'" in capsys.readouterr().err) == (name == "stmaps")


@pytest.mark.slow
def test_nothing_is_printed_but_the_address(tracked_home: Path) -> None:
    """Until Ctrl-C it prints two lines, and none of MLflow's own about its start."""
    port = free_port()
    server = command.start("ui", "--port", str(port), home=tracked_home, cwd=tracked_home)
    try:
        assert server.stderr
        printed = [server.stderr.readline(), server.stderr.readline()]
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=60)
    finally:
        command.end_all(tracked_home)
    assert printed[0] == "Starting the tracking page ...\n"
    assert printed[1].startswith(f"The tracking page is ready: http://127.0.0.1:{port}/#/experiments")
    assert (server.returncode, out, err) == (0, "", "")


def test_errors_of_the_server_are_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """What MLflow prints at each start is left out; everything else is passed on as it comes."""
    notice = b"[MLflow] Security middleware enabled with default settings (localhost-only).\n"
    ui._pass_on(iter([notice, b"2026/11/30 ERROR: the disk is full\n"]))
    assert capfd.readouterr().err == "2026/11/30 ERROR: the disk is full\n"


def test_a_port_that_is_taken_is_refused(
    tracked_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence names the port and the option, before MLflow starts."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = command.call(capsys, monkeypatch, "ui", "--port", str(port), "--home", str(tracked_home))
    assert answer.status == 2
    assert command.is_one_sentence(answer)
    sentence = f"The tracking page can't use port {port}: address already in use."
    assert answer.err == f"Error: {sentence} Choose another one with --port.\n"
