"""Examples: what is written is read back, row by row, with bounded memory."""

import hashlib
import json
import pickle
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.core.data import examples as module
from components.core.data.examples import (
    Example,
    Examples,
    Rejected,
    dataset_digest,
    kinds,
    shard_writer,
    write_index,
    write_rejected,
)
from components.core.errors import StepError


def write(folder: Path, number: int = 100, size: int = 50) -> dict[str, bytes]:
    """A dataset of `number` contents of growing size; gives the contents by id."""
    contents, rows = {}, []
    with shard_writer(folder) as writer:
        for i in range(number):
            content = f"{i} ".encode() * (size + i)
            id_ = hashlib.sha256(content).hexdigest()
            contents[id_] = content
            label, split = ("a", "b")[i % 2], ("train", "validation", "test")[i % 3]
            place = writer.add(id_, content)
            rows.append(Example(id_, label, split, "", f"/data/{i}.png", {"n": str(i)}, {"width": i}, place))
    write_index(folder, rows)
    write_rejected(folder, [Rejected("/data/bad.png", "a", "truncated")])
    info = {"classes": ["a", "b"], "digest": dataset_digest(rows)}
    (folder / "dataset.json").write_text(json.dumps(info))
    return contents


def test_every_content_comes_back_in_any_order(tmp_path: Path) -> None:
    """Rows in any order, with repeats, give the contents that their ids are the digests of."""
    contents = write(tmp_path)
    examples = Examples(tmp_path)
    rows = [*reversed(range(100)), 3, 3]
    assert examples.contents(rows) == [contents[id_] for id_ in examples.ids(rows)]
    assert examples.contents([]) == []


def test_rows_of_a_split_are_ordered_by_id(tmp_path: Path) -> None:
    """The splits cover all rows once, each in the order of the ids, with labels and uris beside them."""
    write(tmp_path)
    examples = Examples(tmp_path)
    rows = {split: examples.rows(split) for split in ("train", "validation", "test", "calibrate")}
    assert sorted(row for of_split in rows.values() for row in of_split) == list(range(100))
    assert rows["calibrate"] == []
    for of_split in rows.values():
        assert examples.ids(of_split) == sorted(examples.ids(of_split))
    numbers = [int(Path(uri).stem) for uri in examples.uris(rows["test"])]
    assert all(number % 3 == 2 for number in numbers)
    assert examples.labels(rows["test"]) == [("a", "b")[number % 2] for number in numbers]
    assert examples.column("width", rows["test"]) == numbers
    assert [json.loads(text)["n"] for text in examples.column("metadata", rows["test"])] == [str(n) for n in numbers]


def test_shards_and_row_groups_end_by_rows_and_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group is never more than its rows, nor much more than its bytes; a shard neither."""
    monkeypatch.setattr(module, "GROUP_BYTES", 1000)
    monkeypatch.setattr(module, "SHARD_ROWS", 40)
    contents = write(tmp_path, size=1)
    files = [pq.ParquetFile(path) for path in sorted((tmp_path / "shards").iterdir())]
    assert len(files) > 2
    for file in files:
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        assert max(group.num_rows for group in groups) <= 16
        assert max(len(b"".join(file.read_row_group(i)["content"].to_pylist())) for i in range(len(groups))) < 1500
        assert file.metadata.num_rows < 40 + 16
    examples = Examples(tmp_path)
    assert examples.contents(range(100)) == [contents[id_] for id_ in examples.ids(range(100))]


def test_a_reader_keeps_few_shards_and_groups_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are read, the open files and kept groups stay bounded."""
    monkeypatch.setattr(module, "SHARD_ROWS", 16)
    monkeypatch.setattr(module, "OPEN_SHARDS", 2)
    monkeypatch.setattr(module, "KEPT_GROUPS", 3)
    contents = write(tmp_path)
    examples = Examples(tmp_path)
    for row in range(100):
        assert examples.contents([row]) == [contents[id_] for id_ in examples.ids([row])]
    assert (len(examples._shards), len(examples._groups)) == (2, 3)


def test_a_reader_travels_to_another_process_as_its_folder(tmp_path: Path) -> None:
    contents = write(tmp_path, number=5)
    examples = Examples(tmp_path)
    examples.contents([0])
    copy = pickle.loads(pickle.dumps(examples))  # noqa: S301 - our own bytes, as multiprocessing does it
    assert copy.contents(range(5)) == [contents[id_] for id_ in copy.ids(range(5))]


def test_a_footer_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that was closed is opened again by the footer that is known, and gives the same records."""
    monkeypatch.setattr(module, "SHARD_ROWS", 20)
    monkeypatch.setattr(module, "OPEN_SHARDS", 1)
    monkeypatch.setattr(module, "KEPT_GROUPS", 1)
    contents = write(tmp_path)
    examples, known = Examples(tmp_path), list[bool]()
    opened = pq.ParquetFile

    def noted(path: Path, *, memory_map: bool, metadata: pq.FileMetaData | None) -> pq.ParquetFile:
        known.append(metadata is not None)
        return opened(path, memory_map=memory_map, metadata=metadata)

    monkeypatch.setattr(pq, "ParquetFile", noted)
    for _ in range(2):
        assert examples.contents(range(100)) == [contents[id_] for id_ in examples.ids(range(100))]
    assert known == 4 * [False] + 4 * [True]


def test_shards_of_an_earlier_attempt_are_removed(tmp_path: Path) -> None:
    """Writing again into the folder of a cut-off attempt leaves no stale shard."""
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "00007.parquet").write_bytes(b"old")
    write(tmp_path, number=3)
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["00000.parquet"]


def test_the_digest_depends_on_ids_labels_and_splits_only(tmp_path: Path) -> None:
    """Order, uri and place don't change the digest; a label or a split does."""
    place = module.Location(0, 0, 0)
    first = Example("1", "a", "train", "", "/x", {}, {}, place)
    second = Example("2", "b", "test", "", "/y", {}, {}, place)
    digest = dataset_digest([first, second])
    moved = Example("2", "b", "test", "g", "/z", {"k": "v"}, {"width": 3}, module.Location(5, 5, 5))
    assert dataset_digest([moved, first]) == digest
    assert dataset_digest([first, Example("2", "a", "test", "", "/y", {}, {}, place)]) != digest
    assert dataset_digest([first, Example("2", "b", "train", "", "/y", {}, {}, place)]) != digest


def test_rejected_records_are_listed_and_counted_by_kind(tmp_path: Path) -> None:
    """Details stand in the table; the counts go by what stands before the colon."""
    write(tmp_path, number=3)
    assert Examples(tmp_path).rejected() == [{"uri": "/data/bad.png", "label": "a", "reason": "truncated"}]
    reasons = ["zero bytes", "decompression bomb: 9 x 9 pixels", "decompression bomb: 8 x 8 pixels"]
    assert kinds([Rejected("", "", reason) for reason in reasons]) == {"decompression bomb": 2, "zero bytes": 1}


def test_an_empty_rejected_table_can_be_read(tmp_path: Path) -> None:
    write(tmp_path, number=3)
    write_rejected(tmp_path, [])
    assert Examples(tmp_path).rejected() == []


@pytest.mark.parametrize("name", ["index.parquet", "rejected.parquet", "shards/00000.parquet"])
def test_a_damaged_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    """Which file of a dataset is damaged, and how to go on."""
    write(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-30])
    with pytest.raises(StepError, match=f"The file .*{name} is cut off") as caught:
        (Examples(tmp_path).rejected(), Examples(tmp_path).contents([0]))
    assert "--force" in caught.value.hint
