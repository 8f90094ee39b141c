"""The report as a browser lays it out, on a phone, a tablet and a desktop, in the light and the dark."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from components.core.reporting.page import render
from tests.components.core.reporting.test_page import sample
from tests.support.browser import Page, browser

pytestmark = pytest.mark.slow
OPEN = "#numbers .scroll, #classes .scroll, #data .scroll, #cost .scroll"  # tables that are not folded
WIDER = f"[...document.querySelectorAll('{OPEN}')].filter(one => one.scrollWidth > one.clientWidth + 1)"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a sample whose first class is always right: its cell has the strongest shade."""
    path, data = tmp_path_factory.mktemp("report") / "report.html", sample()
    assert data.evaluation.confusion is not None
    counts = data.evaluation.confusion.copy()
    counts[0] = np.eye(len(counts))[0] * counts[0].sum()
    data = replace(data, evaluation=replace(data.evaluation, confusion=counts))
    made_by = "thawline run /srv/photos/of/stamps --model stamps --weights package:efficientnet-lite0 --image-size 160"
    path.write_text(render(replace(data, model={"made by": made_by})))
    return path.as_uri()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as found:
        yield found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1400])
def test_nothing_is_cut_off(width: int, *, dark: bool, page: Page, address: str) -> None:
    """Nothing is wider than the window, no open table has to be scrolled, and the paper follows the scheme."""
    page.open(address, width=width, height=900, dark=dark)
    assert page.value("document.documentElement.scrollWidth") == width
    assert page.value(f"{WIDER}.map(one => one.closest('section').id)") == []
    red = page.value("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert (red < 60) == dark


def test_decisions_have_the_width_of_a_phone(page: Page, address: str) -> None:
    """The notes of a step stand below its seconds instead of in a narrow column of their own."""
    page.open(address, width=390, height=900)
    assert page.value("document.querySelector('.costs td.break').clientWidth") > 300
    page.open(address, width=1400, height=900)
    assert page.value("document.querySelector('.costs td.break').clientWidth") < 800


def test_an_option_is_not_divided(page: Page, address: str) -> None:
    """On a phone a command breaks between its words, never behind the hyphens of an option."""
    page.open(address, width=390, height=900)
    assert page.value("document.querySelectorAll('#model .option').length") > 0
    assert page.value("[...document.querySelectorAll('.option')].every(one => one.getClientRects().length <= 1)")


def test_a_figure_is_not_larger_than_it_is_read(page: Page, address: str) -> None:
    """Alone in its row, a figure does not fill it."""
    page.open(address, width=820, height=900)
    widths = page.value("[...document.querySelectorAll('.chart svg')].map(one => one.getBoundingClientRect().width)")
    assert widths
    assert max(widths) <= 620


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_keyboards_and_screen_readers_reach_everything(width: int, *, dark: bool, page: Page, address: str) -> None:
    """axe-core finds nothing: names, contrast, headings, landmarks, and what has to be scrolled takes the focus."""
    page.open(address, width=width, height=900, dark=dark)
    assert page.violations() == []


def test_a_table_is_sorted_by_keyboard(page: Page, address: str) -> None:
    """Enter on a column's heading sorts the rows, and says so to screen readers; again, the other way round."""
    page.open(address, width=1400, height=900)
    rows = "[...document.querySelectorAll('#classes table.full tbody tr:not(.sum)')]"
    enter = {"key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13}
    found = []
    for way in ("ascending", "descending"):
        page.value("document.querySelector('#classes table.full th button').focus()")
        for kind in ("keyDown", "keyUp"):
            page.ask("Input.dispatchKeyEvent", type=kind, **enter)
        assert page.value("document.querySelector('#classes th[aria-sort]').ariaSort") == way
        found.append(page.value(f"{rows}.map(row => row.cells[0].innerText)"))
    assert found[0] == sorted(found[0])
    assert found[1] == found[0][::-1]
