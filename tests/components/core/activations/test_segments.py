"""Rows of tensors on disk."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from components.core.activations import rows, segments, store
from components.core.activations.rows import StoredRows, open_rows
from components.core.activations.segments import FormError, Writer, find
from components.core.activations.segments import segments as open_segments
from components.core.networks.network import Pytree
from tests.support import forks

COUNT = 40
KEYS = [bytes([i]) * 32 for i in range(COUNT)]
ROWS = {
    "maps": torch.randn(COUNT, 3, 4, 5, generator=torch.Generator().manual_seed(0)),
    "pair": (torch.arange(COUNT), torch.arange(2.0 * COUNT, dtype=torch.float64).view(COUNT, 2)),
}


def some(rows: Pytree, picks: slice | Tensor) -> Pytree:
    return {"maps": rows["maps"][picks], "pair": tuple(leaf[picks] for leaf in rows["pair"])}


def same(found: Pytree, expected: Pytree) -> bool:
    pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def write(space: Path, start: int = 0, stop: int = COUNT, engine: str = "eager", batch: int = 8) -> None:
    writer = Writer(space, engine)
    for i in range(start, stop, batch):
        writer.append(KEYS[i : min(stop, i + batch)], some(ROWS, slice(i, min(stop, i + batch))))


def read(space: Path, keys: list[bytes] = KEYS) -> StoredRows:
    opened = open_segments(space)
    return open_rows(opened, *find(opened, keys))


def missing(space: Path) -> list[int]:
    return (find(open_segments(space), KEYS)[0] < 0).nonzero().squeeze(1).tolist()


@pytest.fixture(autouse=True)
def _nothing_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_VERIFIED", {})


def test_rows_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    """Out of one segment or several, by slice or by numbers, with types and shapes as written."""
    write(tmp_path, 20)
    write(tmp_path, 0, 20)
    rows = read(tmp_path, KEYS[::-1])
    picks = torch.tensor([39, 0, 17, 22, 5])
    assert same(rows[picks], some(ROWS, COUNT - 1 - picks))
    assert same(rows[3:30], some(ROWS, torch.arange(COUNT - 1, -1, -1)[3:30]))
    assert len(rows) == COUNT


def test_rows_too_large_for_memory_stay_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches out of several segments are the same where these are not gathered into memory."""
    monkeypatch.setattr(rows, "IN_MEMORY", 0)
    write(tmp_path, 0, 7)
    write(tmp_path, 7, 30)
    write(tmp_path, 30)
    picks = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    assert same(read(tmp_path)[picks], some(ROWS, picks))


def test_layout_is_kept(tmp_path: Path) -> None:
    """Maps that were computed channels last come back channels last: no copy is made for each batch."""
    last = ROWS["maps"].contiguous(memory_format=torch.channels_last)
    Writer(tmp_path, "eager").append(KEYS, last)
    found = read(tmp_path)[torch.tensor([4, 2])]
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, last[[4, 2]])


def test_half_precision_is_for_the_disk(tmp_path: Path) -> None:
    """float16 rows take half the bytes and come back as float32."""
    Writer(tmp_path, "eager").append(KEYS, ROWS["maps"].half())
    rows = read(tmp_path)
    assert rows.bytes == COUNT * 3 * 4 * 5 * 2
    assert torch.equal(rows[0:COUNT], ROWS["maps"].half().float())


def test_writing_into_a_batch_never_reaches_the_store(tmp_path: Path) -> None:
    """An operation in place harms its own batch only, neither the file nor the next epoch."""
    write(tmp_path)
    rows = read(tmp_path)
    for batch in (rows[0:COUNT], rows[torch.arange(COUNT)]):
        for leaf in tree_leaves(batch):
            leaf.zero_()
    assert same(rows[0:COUNT], ROWS)
    assert same(read(tmp_path)[0:COUNT], ROWS)


def test_a_kill_keeps_what_was_appended(tmp_path: Path) -> None:
    """Bytes behind the last record, or half a record, are as if they had not been written."""
    write(tmp_path, 0, 16)
    [folder] = tmp_path.iterdir()
    for path in folder.glob("*.bin"):
        path.write_bytes(path.read_bytes() + b"half a row")
    assert missing(tmp_path) == list(range(16, COUNT))
    (folder / "index").write_bytes((folder / "index").read_bytes()[:-5])
    assert missing(tmp_path) == list(range(15, COUNT))


@pytest.mark.parametrize("name", ["0.bin", "1.bin", "2.bin"])
def test_a_flipped_bit_is_found(name: str, tmp_path: Path) -> None:
    """A row whose bytes changed is missing, and so it is computed again; its neighbours stay."""
    write(tmp_path)
    [folder] = tmp_path.iterdir()
    content = bytearray((folder / name).read_bytes())
    content[len(content) * 5 // COUNT] ^= 1
    (folder / name).write_bytes(content)
    assert missing(tmp_path) == [5]
    write(tmp_path, 5, 6)
    assert missing(tmp_path) == []
    assert same(read(tmp_path)[0:COUNT], ROWS)


@pytest.mark.parametrize("damage", ["truncate", "index", "facts", "gone"])
def test_damaged_segments_cost_their_rows_only(damage: str, tmp_path: Path) -> None:
    """A file that is cut, empty or unreadable never fails a run: its rows are missing."""
    write(tmp_path, 0, 10)
    [folder] = tmp_path.iterdir()
    write(tmp_path, 10)
    if damage == "truncate":
        (folder / "0.bin").write_bytes((folder / "0.bin").read_bytes()[:-1])
    elif damage == "gone":
        (folder / "1.bin").unlink()
    else:
        (folder / {"index": "index", "facts": "segment.json"}[damage]).write_bytes(b"")
    assert missing(tmp_path) == ([9] if damage == "truncate" else list(range(10)))


def test_rows_that_exchanged_their_keys_are_missing(tmp_path: Path) -> None:
    """A checksum belongs to its key too, so that no row is taken for another's, whichever way they were exchanged."""
    write(tmp_path)
    [folder] = tmp_path.iterdir()
    content = (folder / "index").read_bytes()
    records = [bytearray(content[i : i + store.RECORD]) for i in range(0, len(content), store.RECORD)]
    records[3][: store.KEY], records[7][: store.KEY] = records[7][: store.KEY], records[3][: store.KEY]
    (folder / "index").write_bytes(b"".join(records))
    assert missing(tmp_path) == [3, 7]
    write(tmp_path, 3, 4)
    write(tmp_path, 7, 8)
    assert same(read(tmp_path)[0:COUNT], ROWS)


def test_no_flipped_bit_of_a_description_goes_unnoticed(tmp_path: Path) -> None:
    """Whatever bit of segment.json flips, rows are missing or right; each fifth bit is tried."""
    write(tmp_path, batch=COUNT)
    [facts] = tmp_path.glob("*/segment.json")
    sound = facts.read_bytes()
    for bit in range(0, 8 * len(sound), 5):
        content = bytearray(sound)
        content[bit // 8] ^= 1 << bit % 8
        facts.write_bytes(content)
        segments._VERIFIED.clear()
        assert missing(tmp_path) == list(range(COUNT)) or same(read(tmp_path)[0:COUNT], ROWS)


def test_a_damaged_row_is_mended_whatever_the_clock_says(tmp_path: Path) -> None:
    """A row that was computed again counts even if the damaged one bears a later time."""
    write(tmp_path)
    [folder] = tmp_path.iterdir()
    facts = json.loads((folder / "segment.json").read_text())
    (folder / "segment.json").write_text(json.dumps(facts | {"created": facts["created"] + 10**15}))
    content = bytearray((folder / "1.bin").read_bytes())
    content[5 * 8] ^= 1
    (folder / "1.bin").write_bytes(content)
    assert missing(tmp_path) == [5]
    write(tmp_path, 5, 6)
    assert missing(tmp_path) == []
    assert same(read(tmp_path)[0:COUNT], ROWS)


def test_rows_of_another_user_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the time of last use can't be noted, as on a disk that is mounted read-only, rows are read without."""

    def refuse(self: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    write(tmp_path)
    monkeypatch.setattr(Path, "touch", refuse)
    assert same(read(tmp_path)[0:COUNT], ROWS)


@pytest.mark.slow  # four processes
def test_several_processes_write_at_the_same_time(tmp_path: Path) -> None:
    """Four processes append overlapping rows; every row is there and right."""
    context = forks.context()
    workers = [context.Process(target=write, args=(tmp_path, 5 * i, 5 * i + 25, "eager", 3)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert missing(tmp_path) == []
    assert same(read(tmp_path)[0:COUNT], ROWS)


def test_a_segment_ends_at_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large spaces are made of several segments, each of which can be evicted or copied by itself."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 3000)
    write(tmp_path)
    assert len(list(tmp_path.iterdir())) > 1
    assert same(read(tmp_path)[0:COUNT], ROWS)


def test_engines_are_told_apart(tmp_path: Path) -> None:
    """A segment names the engine that computed it, so that rows of others can be refused."""
    write(tmp_path, 0, 10, "fast")
    write(tmp_path, 10, 20)
    opened = open_segments(tmp_path, lambda engine: engine == "eager")
    assert (find(opened, KEYS)[0] >= 0).nonzero().squeeze(1).tolist() == list(range(10, 20))


def test_rows_that_were_removed_meanwhile_are_missing(tmp_path: Path) -> None:
    """A segment that another process evicts between opening and looking holds nothing; others are as they were."""
    write(tmp_path, 0, 20)
    opened = open_segments(tmp_path)
    write(tmp_path, 20)
    store.remove(opened[0].folder)
    opened = [*opened, *open_segments(tmp_path)]
    assert (find(opened, KEYS)[0] < 0).nonzero().squeeze(1).tolist() == list(range(20))


def test_what_is_open_survives_removal(tmp_path: Path) -> None:
    """Removing a segment frees its name at once, and who reads it goes on reading."""
    write(tmp_path)
    rows = read(tmp_path)
    [folder] = tmp_path.iterdir()
    store.remove(folder)
    store.remove(folder)  # another process was faster
    assert list(tmp_path.iterdir()) == []
    assert same(rows[0:COUNT], ROWS)


def test_facts_hold_no_code(tmp_path: Path) -> None:
    """What describes a segment is JSON."""
    write(tmp_path)
    [folder] = tmp_path.iterdir()
    facts = json.loads((folder / "segment.json").read_text())
    assert facts["engine"] == "eager"
    assert [leaf["dtype"] for leaf in facts["leaves"]] == ["float32", "int64", "float64"]


def test_a_writer_takes_rows_of_one_form_only(tmp_path: Path) -> None:
    """Rows of another shape would be written to be never read: they are refused, and what is there stays."""
    writer = Writer(tmp_path, "eager")
    writer.append(KEYS[:4], torch.ones(4, 3))
    with pytest.raises(FormError, match=r"shapes \[\[3\]\], others \[\[5\]\]"):
        writer.append(KEYS[4:8], torch.ones(4, 5))
    writer.append(KEYS[8:10], torch.ones(2, 3))
    assert len(read(tmp_path, [*KEYS[:4], *KEYS[8:10]])) == 6


def test_rows_of_different_forms_are_no_rows(tmp_path: Path) -> None:
    """What two processes wrote in two shapes is refused in one sentence, not at some batch of the training."""
    Writer(tmp_path, "eager").append(KEYS[:4], torch.ones(4, 3))
    Writer(tmp_path, "eager").append(KEYS[4:8], torch.ones(4, 5))
    assert len(read(tmp_path, KEYS[4:8])) == 4
    with pytest.raises(FormError):
        read(tmp_path, KEYS[:8])
