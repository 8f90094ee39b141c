"""MLflow's pages in a real browser, behind `thawline ui`: what they show without a click."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import copy_home
from tests.services.servers import free_port
from tests.support import command
from tests.support.browser import Page, browser
from tests.support.plain import PlainRun

pytestmark = pytest.mark.slow
SHOWN = "document.body.innerText.includes('{}')"


@pytest.fixture(scope="module")
def address(_toy_run: tuple[Path, PlainRun], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `thawline ui` says that the page opens."""
    home = tmp_path_factory.mktemp("ui") / "home"
    copy_home(_toy_run[0], home)
    server = command.start("ui", "--port", str(free_port()), home=home, cwd=home)
    try:
        assert server.stderr
        ready = next(line for line in server.stderr if "is ready: " in line)
        started = [Path(f"/proc/{process}/cmdline").read_text() for process in command.processes(home)]
        assert not [one for one in started if "huey" in one]  # MLflow's processes for jobs that nothing here gives
        yield ready.partition("is ready: ")[2].split()[0]
    finally:
        command.end_all(home)
        server.communicate()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as found:
        yield found


def read(page: Page, address: str, shown: str) -> str:
    """The text of a page, once it shows something."""
    page.open(address, width=1400, height=900, until=SHOWN.format(shown))
    return str(page.value("document.body.innerText"))


def test_the_runs_and_the_champion_are_seen_at_once(page: Page, address: str) -> None:
    """It opens on the runs in machine-learning mode: names say what they came to, and above them is the champion."""
    text = read(page, address, "version 1, champion")
    assert re.search(r"Champion: toy version 1, accuracy 0\.\d{3} on its test rows", text)


def test_a_run_says_what_it_came_to(page: Page, address: str) -> None:
    """The page of a run begins with the decision, its reason and the figures, and groups its metrics."""
    read(page, address, "version 1, champion")
    run = page.value("[...document.querySelectorAll('a')].find(one => one.innerText.startsWith('version 1')).href")
    text = read(page, run, "Metrics (")
    page.wait(SHOWN.format("test/accuracy"))
    assert "✓ toy version 1 is champion" in text
    assert "95% interval" in text
    assert "First version: " in text


def test_a_model_says_which_version_is_champion(page: Page, address: str) -> None:
    """The pages of the model and of its version have the decision, with the figures that led to it."""
    base = address.partition("#")[0]
    read(page, f"{base}#/models/toy", "Champion: toy version 1")
    text = read(page, f"{base}#/models/toy/versions/1", "First version: ")
    assert "95% interval" in text
