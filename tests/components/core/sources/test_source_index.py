"""The index of a source: what is known again without being read, and what counts as a change."""

import csv
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.sources import source_index
from components.core.sources.raw_records import RawRecord
from components.core.sources.source_index import (
    Changes,
    compare,
    data_digest,
    knows_more,
    read_index,
    take,
    write_index,
)
from components.core.storage import s3 as storage

pytest_plugins = ["tests.services.s3"]
LONG_AGO = time.time() - 1000


def write(path: Path, content: str, when: float = LONG_AGO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (when, when))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six records of two classes."""
    for number in range(6):
        write(tmp_path / f"in/{'cat' if number % 2 else 'dog'}/{number}.txt", f"content {number}")
    return tmp_path / "in"


def index(source: Path | str) -> list[source_index.IndexRow]:
    return take(str(source), [])


def manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    names = ["uri", "label", "split", "group", "camera"]
    with path.open("w") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_inline_records_are_known_by_what_they_hold(tmp_path: Path) -> None:
    """A manifest that holds its records is read each time; a text that moved to another row is the same example."""
    path = tmp_path / "texts.csv"
    path.write_text("text,label\nfine,up\ndull,down\n")
    before = index(path)
    assert all(row.sha256 and not row.mark for row in before)
    path.write_text("text,label\ndull,down\nfine,up\n")
    assert data_digest(index(path)) == data_digest(before)
    path.write_text("text,label\ndull,down\nfine!,up\ngood,up\n")
    assert compare(before, take(str(path), before)) == Changes(2, 1, 0, 0)


# --- what is read -----------------------------------------------------------------------------------------------------


def test_known_records_are_not_read(source: Path) -> None:
    """A record of the same path, size and time is taken for what it was; only `verify` sees what hides behind them."""
    before = index(source)
    write(source / "cat/1.txt", "CONTENT 1")
    assert take(str(source), before) == before
    verified = take(str(source), before, verify=True)
    assert compare(before, verified) == Changes(1, 1, 0, 0)


def test_another_time_or_size_is_read(source: Path) -> None:
    """What was touched, has grown or is new is read, and nothing else is."""
    before = index(source)
    write(source / "cat/1.txt", "content 1", LONG_AGO + 1)
    write(source / "cat/3.txt", "content 3 grown")
    write(source / "cat/7.txt", "content 7")
    read: list[tuple[int, int]] = []
    now = take(str(source), before, lambda done, total, _text: read.append((done, total)))
    assert read == [(1, 3), (2, 3), (3, 3)]
    assert compare(before, now) == Changes(2, 1, 0, 0)


def test_a_file_written_just_now_is_not_trusted(source: Path) -> None:
    """A file younger than the clock of a file system is read again: it may change without its time telling."""
    write(source / "cat/1.txt", "content 1", time.time())
    before = index(source)
    write(source / "cat/1.txt", "CONTENT 1", time.time())
    assert compare(before, take(str(source), before)) == Changes(1, 1, 0, 0)


def test_what_could_not_be_read_is_tried_again(source: Path) -> None:
    """A record without content is never known: what was in its way may be gone."""
    (source / "cat/link.txt").symlink_to(source.parent / "later.txt")
    before = index(source)
    assert [row.reason for row in before if row.reason] == ["unreadable: no such file or directory"]
    write(source.parent / "later.txt", "came later")
    assert compare(before, take(str(source), before)) == Changes(1, 0, 0, 0)


def test_an_index_that_knows_more_is_worth_keeping(source: Path) -> None:
    """A touched record makes the new index worth keeping; the same marks, or none, do not."""
    before = index(source)
    assert not knows_more(take(str(source), before, verify=True), before)
    write(source / "cat/1.txt", "content 1", time.time())
    assert not knows_more(take(str(source), before), before)
    write(source / "cat/1.txt", "content 1", LONG_AGO + 1)
    assert knows_more(take(str(source), before), before)


# --- what counts as a change ------------------------------------------------------------------------------------------


def test_names_and_times_do_not_count(source: Path) -> None:
    """Renamed, moved within their class and touched, the data are the same."""
    before = index(source)
    (source / "cat/1.txt").rename(source / "cat/z.txt")
    (source / "dog/deeper").mkdir()
    (source / "dog/2.txt").rename(source / "dog/deeper/2.txt")
    write(source / "cat/3.txt", "content 3", LONG_AGO + 5)
    now = take(str(source), before)
    assert data_digest(now) == data_digest(before)
    assert compare(before, now) == Changes(0, 0, 0, 0)


ROWS = [
    {"uri": "a.txt", "label": "cat", "split": "train", "group": "g", "camera": "x"},
    {"uri": "b.txt", "label": "dog", "split": "val"},
    {"uri": "c.txt", "label": "cat"},
]


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A manifest of three records."""
    for row in ROWS:
        write(tmp_path / row["uri"], row["uri"])
    return manifest(tmp_path / "list.csv", ROWS)


def test_the_order_of_a_manifest_does_not_count(listed: Path) -> None:
    """The same rows in another order, and a split by its other name, are the same data."""
    before = data_digest(index(listed))
    other = [{**row, "split": row["split"].replace("val", "validation")} if "split" in row else row for row in ROWS]
    assert data_digest(index(manifest(listed, other[::-1]))) == before


@pytest.mark.parametrize(
    ("change", "counted"),
    [
        ({"label": "dog"}, Changes(0, 0, 1, 0)),
        ({"split": "test"}, Changes(0, 0, 0, 1)),
        ({"group": "h"}, Changes(0, 0, 0, 1)),
        ({"camera": "y"}, Changes(0, 0, 0, 1)),
        ({"uri": "b.txt", "label": "dog"}, Changes(0, 1, 0, 1)),
    ],
)
def test_what_a_manifest_says_counts(listed: Path, change: dict[str, str], counted: Changes) -> None:
    """Label, split, group, metadata and content each change the digest, and are told apart."""
    before = index(listed)
    now = take(str(manifest(listed, [{**ROWS[0], **change}, *ROWS[1:]])), before)
    assert data_digest(now) != data_digest(before)
    assert compare(before, now) == counted


def test_bytes_count(source: Path) -> None:
    """One changed byte is one example gone and one new."""
    before = index(source)
    write(source / "dog/0.txt", "content X", LONG_AGO + 1)
    now = take(str(source), before)
    assert data_digest(now) != data_digest(before)
    assert str(compare(before, now)) == "1 new, 1 gone examples"


def test_records_that_can_not_be_read_count_by_their_reason(listed: Path) -> None:
    """A missing file, a missing label and an unknown split count by kind, whatever the details and names are."""
    bad = [{"uri": "gone.txt", "label": "cat"}, {"uri": "a.txt"}, {"uri": "a.txt", "label": "cat", "split": "middle"}]
    rows = index(manifest(listed, [*ROWS, *bad]))
    assert [row.described()[0] for row in rows[3:]] == ["unreadable", "no label", "unknown split"]
    bad[0]["uri"] = "elsewhere.txt"
    assert data_digest(index(manifest(listed, [*ROWS, *bad]))) == data_digest(rows)
    assert data_digest(index(manifest(listed, [*ROWS, *bad[1:]]))) != data_digest(rows)


def test_changes_read_as_a_sentence() -> None:
    """Only what is there is told."""
    assert str(Changes(34, 2, 1, 0)) == "34 new, 2 gone, 1 re-labelled examples"
    assert str(Changes(1, 0, 0, 0)) == "1 new example"
    assert str(Changes(0, 0, 0, 3)) == "3 otherwise described examples"
    assert str(Changes(0, 0, 0, 0)) == ""


# --- on disk ----------------------------------------------------------------------------------------------------------


def test_an_index_comes_back_as_it_was(listed: Path, tmp_path: Path) -> None:
    """Parquet keeps every column, sorted by uri; an empty index is one too."""
    rows = index(manifest(listed, [*ROWS, {"uri": "gone.txt", "label": "cät \\udc80"}]))
    write_index(tmp_path / "index.parquet", rows[::-1])
    assert read_index(tmp_path / "index.parquet") == sorted(rows)
    write_index(tmp_path / "index.parquet", [])
    assert read_index(tmp_path / "index.parquet") == []


def test_an_index_of_another_kind_is_none(tmp_path: Path) -> None:
    """What is no index of this version's saves nothing and breaks nothing."""
    pq.write_table(pa.table({"uri": ["a"]}), tmp_path / "other.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for name in ("other", "broken", "missing"):
        assert read_index(tmp_path / f"{name}.parquet") == []


def test_a_name_that_is_no_text_is_kept(tmp_path: Path) -> None:
    """A file name with bytes that are no UTF-8 can be listed, written and known again."""
    write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/in/cat/\xff.txt")), "content")
    write_index(tmp_path / "index.parquet", rows := index(tmp_path / "in"))
    write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/in/cat/\xff.txt")), "CONTENT")
    assert take(str(tmp_path / "in"), read_index(tmp_path / "index.parquet")) == rows


# --- S3 ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(s3: str) -> Iterator[list[str]]:
    """Every call that reaches the server, by name."""
    seen: list[str] = []

    def see(model: Any, **_: object) -> None:
        seen.append(model.name)

    events = storage.client().meta.events
    events.register("before-call.s3.*", see)
    yield seen
    events.unregister("before-call.s3.*", see)


def put(uri: str, content: bytes) -> str:
    bucket, key = storage.split_uri(uri)
    storage.client().put_object(Bucket=bucket, Key=key, Body=content)
    return uri


@pytest.mark.slow
def test_known_objects_are_not_downloaded(s3: str, calls: list[str]) -> None:
    """One listing tells that nothing changed; a replaced and a new object are the only downloads."""
    for number in range(20):
        put(f"{s3}/p/{'cat' if number % 2 else 'dog'}/{number}.txt", b"content %d" % number)
    before = index(f"{s3}/p")
    calls.clear()
    assert take(f"{s3}/p", before) == before
    assert calls == ["ListObjectsV2"]
    put(f"{s3}/p/cat/1.txt", b"CONTENT 1")  # of the same size
    put(f"{s3}/p/cat/99.txt", b"content 99")
    calls.clear()
    assert compare(before, take(f"{s3}/p", before)) == Changes(2, 1, 0, 0)
    assert sorted(calls) == ["GetObject", "GetObject", "ListObjectsV2"]


@pytest.mark.slow
def test_objects_of_a_manifest_are_known_by_a_listing(s3: str, calls: list[str], tmp_path: Path) -> None:
    """Objects that a manifest names are looked up together by what their names have in common."""
    uris = [put(f"{s3}/data/2026/{name}.txt", name.encode()) for name in ("a", "b", "c")]
    rows = [{"uri": uri, "label": "cat"} for uri in uris[:2]] + [{"uri": f"{s3}/data/gone.txt", "label": "cat"}]
    source = str(manifest(tmp_path / "list.csv", rows))
    before = take(source, [])
    assert [bool(row.sha256) for row in before] == [True, True, False]
    calls.clear()
    assert take(source, before) == before
    assert calls.count("ListObjectsV2") == 1
    assert calls.count("GetObject") == 1  # what was gone may be there now


@pytest.mark.slow
def test_objects_far_apart_are_asked_for_one_by_one(
    s3: str, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a listing would tell mostly of other objects, each is asked for, without its content."""
    monkeypatch.setattr(source_index, "SPARSE", -1)
    for name in ("a", "b", "c", "d"):
        put(f"{s3}/data/{name}.txt", name.encode())
    source = str(manifest(tmp_path / "list.csv", [{"uri": f"{s3}/data/{n}.txt", "label": "cat"} for n in "ad"]))
    before = take(source, [])
    calls.clear()
    assert take(source, before) == before
    assert calls == ["ListObjectsV2", "HeadObject"]


def test_records_that_a_task_lists_are_indexed_as_they_are() -> None:
    """Nothing is listed again, so the source may be of a kind that no manifest has."""
    listed = [
        RawRecord("walks.csv#user=u", "{}", "test", content=b"one"),
        RawRecord("walks.csv#row=2", "", fault="no user"),
    ]
    found = take("walks.csv", [], records=listed)
    assert [(row.uri, row.split, row.reason) for row in found] == [
        ("walks.csv#user=u", "test", ""),
        ("walks.csv#row=2", "", "no user"),
    ]
    assert found[0].sha256 == hashlib.sha256(b"one").hexdigest()
