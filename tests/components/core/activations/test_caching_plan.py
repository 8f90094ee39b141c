"""Keep or recompute: what is decided, and that both give the same rows."""

import contextlib
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components.core.activations import caching_plan, passes, segments, spaces, store
from components.core.activations.caching_plan import Cost, rows_at
from components.core.activations.requests import CachePolicy, RowRequest, row_key
from components.core.activations.rows import Recomputed, StoredRows
from components.core.compute import determinism
from components.core.compute.engines import Engine, eager
from components.core.contract.listener import Callbacks
from components.core.errors import InputError, StepError
from components.core.networks.network import Network

COUNT = 90
INPUTS = torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(0))
KEYS = [row_key(str(i)) for i in range(COUNT)]


def network() -> Network:
    torch.manual_seed(0)
    stages = [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, stride=2), nn.Flatten()]
    return Network(stages, nn.Linear(36, 2), {}).to(memory_format=torch.channels_last)


def encode(positions: Sequence[int]) -> Tensor:
    return INPUTS[list(positions)]


def asked(lines: dict[int, float], mode: str = "auto", precision: str = "float32", budget: float = 1e9) -> tuple:
    said: list[str] = []
    request = RowRequest(network(), lines, KEYS, encode, CachePolicy(mode, precision, budget))
    return rows_at(request, Callbacks(note=said.append)), said


def expected(line: int) -> Tensor:
    with torch.no_grad():
        return network().below(INPUTS, line)


@pytest.mark.parametrize("mode", ["auto", "keep", "recompute"])
def test_kept_and_recomputed_rows_are_the_same(mode: str, home: Path) -> None:
    """Whatever is decided, the rows at every line are what the frozen stages give."""
    rows, _ = asked({0: 5, 1: 5, 3: 100}, mode)
    picks = torch.tensor([80, 3, 41])
    for line in (0, 1, 3):
        assert len(rows[line]) == COUNT
        torch.testing.assert_close(rows[line][picks], expected(line)[picks], rtol=0, atol=1e-6)


def test_the_user_overrides(home: Path) -> None:
    """Keep keeps, recompute keeps nothing, and neither depends on what was measured."""
    rows, said = asked({3: 1.0}, "recompute")
    assert isinstance(rows[3], Recomputed)
    assert said == []
    assert not store.store().exists()
    rows, [sentence] = asked({3: 1.0}, "keep")
    assert isinstance(rows[3], StoredRows)
    assert "cached below the head" in sentence


def test_the_input_is_never_kept(home: Path) -> None:
    """With everything thawed there is nothing to compute once."""
    rows, said = asked({0: 5.0}, "keep")
    assert isinstance(rows[0], Recomputed)
    assert said == []


def test_the_cheaper_way_is_taken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a row costs more to read than to compute, it is computed again; where it costs less, it is kept."""
    monkeypatch.setattr(caching_plan, "_transfer", lambda _rows: 1.0)
    rows, [sentence] = asked({1: 10.0})
    assert isinstance(rows[1], Recomputed)
    assert "recomputed below 2 thawed stages" in sentence
    assert "would take longer" in sentence
    monkeypatch.setattr(caching_plan, "_transfer", lambda _rows: 0.0)
    rows, [sentence] = asked({1: 10.0})
    assert isinstance(rows[1], StoredRows)
    assert sentence == "Activations cached below 2 thawed stages: 0 MB for 90 new of 90 examples"


def test_costs_are_those_of_the_work() -> None:
    """Keeping computes what is missing once and reads every epoch; recomputing computes all in every epoch."""
    cost = Cost(examples=100, missing=10, row_bytes=4, encode=1.0, engine=2.0, again=6.0, transfer=0.1, uses=3.0)
    assert cost.keep == pytest.approx(10 * 3.1 + 3 * 100 * 0.1)
    assert cost.recompute == 3 * 100 * 6.0


def test_what_caching_gains_is_said_where_it_is_much() -> None:
    """A minute saved is reported as a ratio to computing every epoch anew; seconds are not."""
    cost = Cost(examples=100, missing=100, row_bytes=4, encode=1.0, engine=2.0, again=6.0, transfer=0.0, uses=5.0)
    assert caching_plan._sentence(3, {3: cost}, [3], 0.0) == (
        "Activations cached below the head: 0 MB for 100 new of 100 examples, "
        "10 times faster than computing them in every epoch"
    )
    small = replace(cost, encode=0.01, engine=0.02, again=0.06)
    assert caching_plan._sentence(3, {3: small}, [3], 0.0).endswith("of 100 examples")


def test_recomputing_starts_from_the_records(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a lower line holds the examples, computing again costs what it costs without that line."""
    asked({1: 10.0}, "keep")
    monkeypatch.setattr(caching_plan, "_transfer", lambda _rows: 0.005)

    def slow(positions: Sequence[int]) -> Tensor:
        time.sleep(0.02 * len(positions))
        return encode(positions)

    rows = rows_at(RowRequest(network(), {3: 10.0}, KEYS, slow, CachePolicy("auto", "float32", 1e9)))
    assert isinstance(rows[3], StoredRows)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_time_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be written is computed again in each epoch, and a later run completes what was left."""
    monkeypatch.setattr(caching_plan, "_transfer", lambda _rows: 0.0)
    with largest_file(COUNT * 8 * 8 * 8 * 4 * 3 // 4):  # the second of two batches at line 1 does not fit
        rows, said = asked({1: 10.0})
    assert isinstance(rows[1], Recomputed)
    assert "can't be written (File too large)" in said[-1]
    torch.testing.assert_close(rows[1][0:COUNT], expected(1), rtol=0, atol=1e-6)
    rows, _ = asked({1: 10.0}, "keep")
    assert isinstance(rows[1], StoredRows)
    torch.testing.assert_close(rows[1][0:COUNT], expected(1), rtol=0, atol=1e-6)


def test_a_full_disk_ends_a_run_that_has_to_keep(home: Path) -> None:
    """With --activations keep the run stops, with the reason and the hint."""
    with largest_file(1000), pytest.raises(StepError, match="File too large"):
        asked({1: 10.0}, "keep")


def test_a_store_that_is_a_file_costs_time_only(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no folder can be made, everything is computed again."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("THAWLINE_ACTIVATIONS", str(tmp_path / "file"))
    rows, said = asked({1: 10.0})
    assert isinstance(rows[1], Recomputed)
    assert "can't be written" in said[-1]


def test_the_budget_decides_line_by_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Higher lines come first; a line that does not fit into the budget is recomputed, and the line says so."""
    monkeypatch.setattr(caching_plan, "_transfer", lambda _rows: 0.0)
    size = COUNT * 36 * 4
    rows, [sentence] = asked({1: 10.0, 3: 10.0}, budget=size * 1.5)
    assert isinstance(rows[3], StoredRows)
    assert isinstance(rows[1], Recomputed)
    assert "cached below the head: 0 MB" in sentence
    assert "recomputed below 2 thawed stages: 0 MB, there is no room" in sentence
    assert sum(entry.bytes for entry in store.entries(store.store())) < size * 1.5


def test_keeping_what_does_not_fit_is_refused(home: Path) -> None:
    """Keeping beyond the budget is an error that names the hint, before anything is computed."""
    with pytest.raises(InputError, match="cache-budget"):
        asked({1: 10.0}, "keep", budget=1000)


def test_others_make_room(home: Path) -> None:
    """Activations that nobody asks for now go when the budget needs their place."""
    asked({1: 10.0}, "keep")
    old = store.spaces(store.store())
    asked({3: 10.0}, "keep", budget=COUNT * 36 * 4 + 10_000)
    new = store.spaces(store.store())
    assert (old[0]["line"], [space["line"] for space in new]) == (1, [3])


def test_what_is_there_is_not_planned_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second request measures nothing and says nothing."""
    asked({1: 5.0}, "keep")
    monkeypatch.setattr(caching_plan, "choose", None)
    rows, said = asked({1: 5.0})
    assert isinstance(rows[1], StoredRows)
    assert said == []


def test_a_plan_has_one_clock(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of an engine that leave out what others take of the CPUs are not set against seconds of the clock."""

    def chosen(network_: Network, lines: Sequence[int], *_: object) -> tuple[Engine, str]:
        plain = eager(network_, lines)

        def run(batch: Tensor) -> list[Tensor]:
            time.sleep(0.05)  # as on a busy machine
            return plain.run(batch)

        return Engine("busy", run, seconds=1e-9, eager_seconds=4e-9), ""

    monkeypatch.setattr(caching_plan, "choose", chosen)
    monkeypatch.setattr(caching_plan, "_transfer", lambda _rows: 1e-5)
    rows = rows_at(RowRequest(network(), {3: 10.0}, KEYS, encode, CachePolicy("auto", "float32", 1e9)))
    assert isinstance(rows[3], StoredRows)


def test_one_batch_is_kept_without_a_word(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few new examples are not worth a measurement, whatever it would say; the budget holds for them too."""
    monkeypatch.setattr(caching_plan, "choose", None)
    monkeypatch.setattr(caching_plan, "_transfer", lambda _rows: 0.0)
    monkeypatch.setattr("tests.components.core.activations.test_caching_plan.KEYS", KEYS[:20])
    for budget, kind in ((0.0, Recomputed), (1e9, StoredRows)):
        rows, said = asked({3: 5.0}, budget=budget)
        assert isinstance(rows[3], kind)
        assert said == []


def test_one_batch_is_computed_once(home: Path) -> None:
    """The sample that is measured of a short pass is all of it, and is kept: no example is encoded twice."""
    encoded: list[int] = []

    def noted(positions: Sequence[int]) -> Tensor:
        encoded.extend(positions)
        return encode(positions)

    request = RowRequest(network(), {1: 2.0, 3: 2.0}, KEYS[:20], noted, CachePolicy("keep", "float32", 1e9))
    rows = rows_at(request)
    assert encoded == list(range(20))
    for line in (1, 3):
        torch.testing.assert_close(rows[line][0:20], expected(line)[:20], rtol=0, atol=1e-6)


def test_the_error_of_float16_is_told(home: Path) -> None:
    """Half precision says how much it rounds, relative to the largest activation, and that is what it rounds."""
    rows, [sentence] = asked({3: 5.0}, "keep", "float16")
    told = float(sentence.partition("an error of ")[2].split()[0])
    error = float((rows[3][0:COUNT] - expected(3)).abs().max() / expected(3).abs().max())
    assert 0 < told < 5e-4
    assert 0 < error < 5e-4


def test_the_error_of_float16_is_told_of_a_single_example(home: Path) -> None:
    """A pass that is too short to be measured rounds as well."""
    said: list[str] = []
    request = RowRequest(network(), {3: 5.0}, KEYS[:1], encode, CachePolicy("keep", "float16", 1e9))
    rows_at(request, Callbacks(note=said.append))
    [sentence] = said
    assert "1 new of 1 examples, rounded to float16 with an error of 4.9e-04 of the largest at most" in sentence


def of_two_widths(positions: Sequence[int]) -> Tensor:
    """Inputs that are padded to the widest of their batch, as texts or sounds of any length would be."""
    return nn.functional.pad(encode(positions), (0, 2 if max(positions) >= determinism.BATCH else 0))


def widths(count: int, mode: str) -> tuple[object, list[str]]:
    said: list[str] = []
    request = RowRequest(network(), {1: 1e6}, KEYS[:count], of_two_widths, CachePolicy(mode, "float32", 1e9))
    return rows_at(request, Callbacks(note=said.append))[1], said


@pytest.mark.parametrize("first", [COUNT, 40])
def test_examples_of_different_form_are_never_kept_as_one(
    first: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a pass, or in two of them: they are computed each time, with one sentence that says why."""
    monkeypatch.setattr(caching_plan, "_transfer", lambda _rows: 0.0)
    if first < COUNT:
        assert isinstance(widths(first, "auto")[0], StoredRows)
    rows, said = widths(COUNT, "auto")
    assert isinstance(rows, Recomputed)
    assert said[-1].startswith(
        "Activations recomputed: some examples have the shapes [[8, 8, 8]], others [[8, 8, 10]]."
    )
    assert rows[0:40].shape == (40, 8, 8, 8)
    assert rows[50:90].shape == (40, 8, 8, 10)
    with pytest.raises(InputError, match="can't be cached: some examples") as raised:
        widths(COUNT, "keep")
    assert "one shape" in raised.value.hint


def test_an_export_has_to_fit_into_the_budget(home: Path) -> None:
    """What was used longest ago makes place for it, what is in use does not, and nothing goes if that is too little."""
    asked({1: 5.0}, "keep")
    [space] = [entry.folder.parent for entry in store.entries(store.store())]
    size = sum(entry.bytes for entry in store.entries(store.store()))
    policy = CachePolicy("auto", "float32", size + 1000.0)
    assert caching_plan._room(policy, [space])(1000)
    assert not caching_plan._room(policy, [space])(1001)
    assert not caching_plan._room(policy, [])(size + 1001)
    assert store.entries(store.store())
    assert caching_plan._room(policy, [])(1001)
    assert store.entries(store.store()) == []


def test_a_damaged_store_is_mended(home: Path) -> None:
    """Bytes that changed on the disk are computed again and never trained on."""
    asked({1: 5.0}, "keep")
    [data] = store.store().glob("*/*/0.bin")
    data.write_bytes(bytes(data.stat().st_size))
    segments._VERIFIED.clear()
    rows, [sentence] = asked({1: 5.0}, "keep")
    assert f"{COUNT} new of {COUNT}" in sentence
    torch.testing.assert_close(rows[1][0:COUNT], expected(1), rtol=0, atol=1e-6)


def test_a_lower_line_that_made_room_is_no_fault(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that a first pass evicts are computed from the records where a second pass would have started from them."""
    for line, count in ((1, 60), (2, 20)):
        with monkeypatch.context() as patch:
            patch.setattr("tests.components.core.activations.test_caching_plan.KEYS", KEYS[:count])
            asked({line: 5.0}, "keep")
    starts = [work.start for work in passes.passes(spaces.spaces(network(), "float32"), [3], KEYS)]
    assert starts == [2, 1, 0]
    size = sum(entry.bytes for entry in store.entries(store.store()))
    rows, _ = asked({3: 5.0}, "keep", budget=size + 1000.0)
    assert isinstance(rows[3], StoredRows)
    torch.testing.assert_close(rows[3][0:COUNT], expected(3), rtol=0, atol=1e-6)
    assert 1 not in {space["line"] for space in store.spaces(store.store())}


def test_a_store_that_is_gone_is_no_fault(home: Path) -> None:
    """Removing the store costs computing, nothing else."""
    asked({1: 5.0}, "keep")
    shutil.rmtree(store.store())
    rows, _ = asked({1: 5.0}, "keep")
    torch.testing.assert_close(rows[1][0:COUNT], expected(1), rtol=0, atol=1e-6)
