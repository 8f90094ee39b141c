"""What activations and exports take on the disk, and what goes first."""

import os
from pathlib import Path

import torch

from components.core import cache
from components.core.segments import Writer

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
    segments = [write(tmp_path, name, 0) for name in ("a", "b", "c")]
    import time

    for segment, age in zip(segments, (40, 20, 0), strict=True):
        os.utime(segment / "segment.json", (time.time() - age * 86_400,) * 2)
    size = cache.entries(tmp_path)[0].bytes
    removed = cache.prune(tmp_path, budget=size * 1.5, older_than=30 * 86_400)
    assert [entry.folder for entry in removed] == segments[:2]
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
