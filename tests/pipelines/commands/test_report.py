"""The command `thawline report`."""

import webbrowser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.core.errors import InputError
from pipelines.cli import app
from tests.support.plain import PlainRun


def test_the_last_report_is_opened(toy_run: PlainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report of the last run opens in the browser, and its path is printed; with --path nothing opens."""
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("BROWSER", "true")
    run = CliRunner().invoke
    for arguments in (["report"], ["report", "toy"], ["report", "toy", "--path"]):
        result = run(app, arguments)
        path = Path(result.stdout.strip())
        assert path.name == "report.html"
        assert "toy" in path.read_text()
    assert opened == [path.as_uri()] * 2


def test_without_a_desktop_no_browser_starts(toy_run: PlainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal alone the path is printed, and no browser takes the terminal over."""
    monkeypatch.setattr(webbrowser, "open", lambda _: pytest.fail("a browser was started"))
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert CliRunner().invoke(app, ["report"]).stdout.endswith("report.html\n")


def test_a_model_without_a_report_is_one_sentence(toy_run: PlainRun) -> None:
    """A name that nobody trained is refused with the nearest one."""
    result = CliRunner().invoke(app, ["report", "tooy"])
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == "There is no model 'tooy'. Did you mean toy?"


def test_without_runs_there_is_no_report(home: Path) -> None:
    """An empty home is named, and nothing is created in it."""
    result = CliRunner().invoke(app, ["report"])
    assert isinstance(result.exception, InputError)
    assert str(result.exception).startswith("There is no report yet.")
    assert not home.exists()
