"""What activations and exports take on the disk, and what goes first."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from components.core.activations import segments
from components.core.activations import store as cache
from components.core.activations.segments import Writer
from components.core.compute.onnx_exports import exported
from components.core.errors import InputError

NOW = 1_700_000_000.0


def write(store: Path, space: str, age: float, rows: int = 100) -> Path:
    """A segment of `rows` times 1,000 bytes that was last used `age` seconds ago."""
    folder = store / space
    Writer(folder, "eager").append([f"{i:032}".encode() for i in range(rows)], torch.zeros(rows, 250))
    [segment] = folder.glob("*/segment.json")
    os.utime(segment, (NOW - age, NOW - age))
    (folder / "space.json").write_text('{"line": 1, "stages": 3, "weights_digest": "abc", "precision": "float32"}')
    return segment.parent


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    """Room is made by age, and only as much as is needed."""
    old, newer, newest = (write(tmp_path, name, age) for name, age in (("a", 300), ("b", 200), ("c", 100)))
    size = cache.entries(tmp_path)[0].bytes
    removed = cache.make_room(tmp_path, needed=size, budget=3 * size)
    assert [entry.folder for entry in removed] == [old]
    assert not old.exists()
    assert newer.exists()
    assert newest.exists()


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    """Spaces of the running step are never evicted, however old their rows are."""
    mine, other = write(tmp_path, "mine", 300), write(tmp_path, "other", 100)
    cache.make_room(tmp_path, needed=1e6, budget=1e5, protected=[tmp_path / "mine"])
    assert mine.exists()
    assert not other.exists()


def test_free_room_counts_what_could_be_evicted(tmp_path: Path) -> None:
    """What others hold is room; what is protected is not."""
    write(tmp_path, "mine", 300)
    write(tmp_path, "other", 100)
    size = cache.entries(tmp_path)[0].bytes
    assert cache.free_for(tmp_path, 10 * size, [tmp_path / "mine"]) == 9 * size
    assert cache.free_for(tmp_path, 10 * size, []) == 10 * size


def test_exports_count_too(tmp_path: Path) -> None:
    """An exported network takes its share of the budget and goes when it was not used for longest."""
    export = tmp_path / cache.ENGINES / "abc"
    export.mkdir(parents=True)
    (export / "model.onnx").write_bytes(bytes(5000))
    (export / "facts.json").write_text("{}")
    os.utime(export / "facts.json", (NOW - 500, NOW - 500))
    kept = write(tmp_path, "a", 100)
    assert [entry.folder for entry in cache.make_room(tmp_path, 0, budget=104_000)] == [export]
    assert kept.exists()


def test_pruning_by_age_and_by_size(tmp_path: Path) -> None:
    """What was not used for long goes, then the oldest beyond the budget; empty spaces go with their last segment."""
    written = [write(tmp_path, name, 0) for name in ("a", "b", "c")]
    for segment, age in zip(written, (40, 20, 0), strict=True):
        os.utime(segment / "segment.json", (time.time() - age * 86_400,) * 2)
    size = cache.entries(tmp_path)[0].bytes
    would = cache.prune(tmp_path, budget=size * 1.5, older_than=30 * 86_400, dry_run=True)
    assert all(segment.exists() for segment in written)
    removed = cache.prune(tmp_path, budget=size * 1.5, older_than=30 * 86_400)
    assert [entry.folder for entry in removed] == [entry.folder for entry in would] == written[:2]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_listing_tells_what_is_there(tmp_path: Path) -> None:
    """Each space with its line, its examples, counted once, its bytes and its engine; the latest first."""
    write(tmp_path, "a", 300, rows=10)
    Writer(tmp_path / "a", "onnxruntime").append([f"{i:032}".encode() for i in range(5, 12)], torch.zeros(7, 250))
    write(tmp_path, "b", 100)
    rows = cache.spaces(tmp_path)
    assert [(row["space"], row["examples"], row["line"]) for row in rows] == [("a", 12, 1), ("b", 100, 1)]
    assert rows[0]["engines"] == ["eager", "onnxruntime"]
    assert rows[0]["bytes"] > 17_000


def test_an_empty_store_is_no_fault(tmp_path: Path) -> None:
    """Where nothing was kept yet there is nothing to list or to remove."""
    assert cache.spaces(tmp_path / "none") == []
    assert cache.prune(tmp_path / "none", 0, 0) == []


def test_a_listing_bears_what_is_damaged(tmp_path: Path) -> None:
    """Half a record, a description that is no JSON and an unknown space cost their own facts only."""
    first, second = write(tmp_path, "a", 300, rows=10), write(tmp_path, "b", 100, rows=20)
    (first / "index").write_bytes((first / "index").read_bytes()[:-5])
    (tmp_path / "b" / "space.json").unlink()
    (second / "segment.json").write_text("{")
    rows = {row["space"]: row for row in cache.spaces(tmp_path)}
    assert (rows["a"]["examples"], rows["a"]["line"]) == (9, 1)
    assert (rows["b"]["examples"], rows["b"]["stages"], rows["b"]["engines"]) == (20, 0, ["?"])


def test_keys_are_read_as_they_were_written(tmp_path: Path) -> None:
    """The index that is read here without torch is the one that segments write."""
    folder = write(tmp_path, "a", 0)
    [segment] = segments.segments(tmp_path / "a")
    assert list(cache.keys_in((folder / "index").read_bytes())) == segment.keys


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    """While a pass holds its lock, segments that grew just now are not removed under it; afterwards they are."""
    segment, old = write(tmp_path, "a", 100), write(tmp_path, "b", 100)
    os.utime(old / "index", (NOW, NOW))
    with FileLock(tmp_path / "a.lock"):
        assert [entry.folder for entry in cache.prune(tmp_path, -1)] == [old]
        assert segment.exists()
    assert [entry.folder for entry in cache.prune(tmp_path, -1)] == [segment]


SPACE, GONE = "a" * 32, "0" * 32


def age(*paths: Path) -> None:
    for path in paths:
        for one in (*path.rglob("*"), path):
            os.utime(one, (NOW, NOW))


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    """Half removals, half downloads, half exports, measurements and locks of what is gone; nothing else."""
    kept = write(tmp_path, SPACE, 100)
    engines = tmp_path / cache.ENGINES
    left = [tmp_path / SPACE / ".0123.abcd", engines / ".0123.abcd", tmp_path / "measurement.abc"]
    left.append(engines / f"{GONE}.part")
    for folder in left:
        folder.mkdir(parents=True)
        (folder / "file").touch()
        age(folder)
    for name in (f"{SPACE}.lock", f"{GONE}.lock", f"engines/{GONE}.lock"):
        (tmp_path / name).touch()
    left += [tmp_path / f"{GONE}.lock", engines / f"{GONE}.lock"]
    assert cache.sweep(tmp_path, dry_run=True) == 4
    assert all(path.exists() for path in left)
    assert cache.sweep(tmp_path) == 4
    assert not any(path.exists() for path in left)
    assert (tmp_path / f"{SPACE}.lock").exists()
    assert kept.exists()
    assert cache.sweep(tmp_path) == 0


def test_what_is_not_ours_is_not_swept(tmp_path: Path) -> None:
    """THAWLINE_ACTIVATIONS may name a folder that holds a project, or other people's temporary files."""
    for name in ("poetry.lock", "tmp/notes", "app/.eslintrc.json", "engines/car.part", "engines/car.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    age(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert cache.sweep(tmp_path) == 0
    assert cache.prune(tmp_path, -1) == []
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"line": "3", "stages": null, "precision": [], "space": 1, "bytes": "x"}']
)
def test_damaged_facts_are_left_out(tmp_path: Path, content: str) -> None:
    """What space.json can't mean is unknown; the rest is listed."""
    write(tmp_path, SPACE, 100)
    (tmp_path / SPACE / "space.json").write_text(content)
    [row] = cache.spaces(tmp_path)
    assert (row["space"], row["line"], row["stages"], row["precision"]) == (SPACE, 0, 0, "")
    assert row["bytes"] > 100


def test_what_somebody_works_in_is_not_swept(tmp_path: Path) -> None:
    """A download that goes on, and what a held lock protects, stay."""
    download, export = tmp_path / SPACE / ".0123.abcd" / "0123", tmp_path / cache.ENGINES / f"{GONE}.part"
    download.mkdir(parents=True)
    export.mkdir(parents=True)
    age(tmp_path)
    (download / "0.bin").touch()
    with FileLock(export.with_suffix(".lock")), FileLock(tmp_path / f"{GONE}.lock"):
        assert cache.sweep(tmp_path) == 0
        assert (tmp_path / f"{GONE}.lock").exists()
    assert download.exists()
    assert export.exists()


def test_what_somebody_begins_to_write_just_now_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes a lock between our look at it and our removal keeps what it protects."""
    export = tmp_path / cache.ENGINES / f"{GONE}.part"
    export.mkdir(parents=True)
    lock, real = FileLock(export.with_suffix(".lock")), Path.glob

    def late(self: Path, pattern: str) -> list[Path]:
        found = list(real(self, pattern))
        if pattern == "*.part":
            lock.acquire()
        return found

    monkeypatch.setattr(Path, "glob", late)
    assert cache.sweep(tmp_path) == 0
    assert export.exists()
    lock.release()
    monkeypatch.undo()
    assert cache.sweep(tmp_path) == 1
    assert not export.exists()
    assert not export.with_suffix(".lock").exists()


def test_a_measurement_is_no_entry(tmp_path: Path) -> None:
    """What the plan writes to measure the disk is neither listed nor removed under it."""
    write(tmp_path, "measurement.abc", 100)
    assert cache.entries(tmp_path) == []
    assert cache.spaces(tmp_path) == []


def test_what_is_removed_while_it_is_listed_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may remove a measurement, a space or a segment between two looks."""
    write(tmp_path, SPACE, 100)
    (tmp_path / "file").touch()
    real = Path.iterdir

    def late(self: Path) -> Iterator[Path]:
        return iter([*real(self), self / "gone"])

    monkeypatch.setattr(Path, "iterdir", late)
    assert [entry.folder.parent.name for entry in cache.entries(tmp_path)] == [SPACE]
    assert len(segments.segments(tmp_path / SPACE)) == 1
    assert segments.segments(tmp_path / "gone") == []


def test_using_an_export_counts_as_use(tmp_path: Path) -> None:
    """An export that is used again is not the one that was used longest ago."""
    place = tmp_path / cache.ENGINES / "abc"
    place.mkdir(parents=True)
    (place / "model.onnx").write_bytes(b"model")
    sha256 = hashlib.sha256(b"model").hexdigest()
    facts = {"way": "torchscript", "seconds": 1.0, "modules": 1, "error": "", "sha256": sha256}
    (place / "facts.json").write_text(json.dumps(facts))
    age(place)
    unused: Any = None  # what is kept is not exported again
    assert exported(unused, "torchscript", place) == (b"model", "export kept")
    assert cache.entries(tmp_path)[0].last_used > NOW


@pytest.mark.parametrize("address", ["s3://", "s3:///", "s3:/bucket", "gs://bucket/prefix", "https://host/x"])
def test_an_address_that_is_no_prefix_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a bucket can be shared; anything else is named."""
    monkeypatch.setenv("THAWLINE_ACTIVATIONS", address)
    with pytest.raises(InputError, match="s3://bucket/prefix"):
        cache.shared_prefix()


def test_a_folder_is_no_prefix(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """THAWLINE_ACTIVATIONS names the store itself, or the prefix that a store in the home is shared through."""
    for given, store, prefix in (
        ("", home / "activations", ""),
        ("/mnt/volume", Path("/mnt/volume"), ""),
        ("~/volume", Path.home() / "volume", ""),
        ("s3://bucket/a/", home / "activations", "s3://bucket/a"),
    ):
        monkeypatch.setenv("THAWLINE_ACTIVATIONS", given)
        assert (cache.store(), cache.shared_prefix()) == (store, prefix)
