"""What kept activations save, as a number."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from components.core.activations import caching_plan, spaces
from components.core.activations import rows as rows_module
from components.core.activations.caching_plan import rows_at
from components.core.activations.requests import CachePolicy, RowRequest
from components.core.activations.rows import Counted, Reuse
from tests.components.core.activations.test_caching_plan import COUNT, KEYS, encode, network


def request() -> RowRequest:
    return RowRequest(network(), {3: 2.0}, KEYS, encode, CachePolicy("keep", "float32", 1e9))


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by 0.01 s whenever somebody looks at it."""
    looks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(looks) / 100)
    for module in (rows_module, caching_plan):
        monkeypatch.setattr(module, "time", clock)


def test_every_reading_saves_what_the_row_would_have_cost() -> None:
    """Rows asked for by slice or by position count each time that they are read, less the time that reading takes."""
    reuse = Reuse()
    rows = Counted(torch.zeros(10, 2), 2.0, reuse)
    assert rows[2:5].shape == (3, 2)
    assert rows[torch.tensor([1, 1])].shape == (2, 2)
    assert len(rows[8:20]) == 2
    assert reuse.seconds == pytest.approx(7 * 2.0 - 3 * 0.01)


def test_what_is_computed_once_is_read_often(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first use pays for computing, later ones only gain; a row's seconds are measured once for each space."""
    measured: list[int] = []
    real = caching_plan._row_seconds

    def counted(*arguments: object) -> dict[int, float]:
        measured.append(1)
        return dict.fromkeys(real(*arguments), 0.5)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(caching_plan, "_row_seconds", counted)
    for gain in (None, COUNT * 0.5):
        reuse = Reuse()
        rows = rows_at(request(), reuse=reuse)[3]
        assert reuse.seconds < 0
        before = reuse.seconds
        assert rows[:].shape == (COUNT, 36)
        assert reuse.seconds - before == pytest.approx(COUNT * 0.5 - 0.01)
        assert gain is None or reuse.seconds > 0.9 * gain
    space = spaces.spaces(network(), "float32")[3]
    assert spaces.row_seconds(space) > 0
    assert spaces.row_seconds(space / "none") == 0.0


def test_seconds_of_a_row_are_kept_with_its_space(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process takes what the first one measured."""
    rows_at(request(), reuse=Reuse())
    monkeypatch.setattr(spaces, "describe", lambda *_: pytest.fail("measured again"))
    rows_at(request(), reuse=Reuse())


def test_one_measurement_serves_all_lines(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of a row at a higher line include those at a lower one, and stages run once for both."""
    ran: list[int] = []
    asked = RowRequest(network(), {1: 2.0, 3: 2.0}, KEYS, encode, CachePolicy("keep", "float32", 1e9))
    rows_at(asked)
    asked.network.stages[0].register_forward_hook(lambda *_: ran.append(1))
    rows_at(asked, reuse=Reuse())
    lower, higher = (spaces.row_seconds(spaces.spaces(network(), "float32")[line]) for line in (1, 3))
    assert 0 < lower < higher
    assert len(ran) == 2  # one of them to prepare
