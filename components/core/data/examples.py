"""Prepared examples on disk: contents in Parquet shards, one index, one `dataset.json`.

- `shards/00000.parquet`, …: `id` and `content`, uncompressed, in row groups so small that one row is cheap to read.
- `index.parquet`: a row for each example, sorted by id: id, label, split, group, uri, metadata (a JSON object), the
  facts that the task found (for pictures width and height), and where the content lies (shard, row_group, row).
- `rejected.parquet`: uri, label and reason of each record that can't be used.
- `assignments.parquet`: every example that the lineage has ever had, see `components/core/data/lineage.py`.
- `label_changes.parquet`: test rows whose label the source changed, which counts only when it is accepted.
- `dataset.json`: written last, see `components/core/data/dataset_info.py`.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.core import digests
from components.core.data.dataset_info import DatasetInfo
from components.core.digests import canonical_json
from components.core.errors import StepError
from components.core.storage import parquet_files

START = "warm_start"  # in a dataset's folder: the checkpoint that training starts from, if it does
GROUP_ROWS, GROUP_BYTES = 16, 2**18  # a row group ends at either: what one random read costs at most
SHARD_ROWS, SHARD_BYTES = 1024, 2**28
OPEN_SHARDS, KEPT_GROUPS = 128, 8  # of one reader
# Rows are in the order of their ids, so a batch reads as many shards as it has rows. A footer takes 0.1 ms, four fifths
# of opening a shard, and 132 KB.
KEPT_FOOTERS = 1024
_SCHEMA = pa.schema([("id", pa.string()), ("content", pa.binary())])


@dataclass(frozen=True, slots=True)
class Location:
    """The location of a content."""

    shard: int
    row_group: int
    row: int  # within its row group


@dataclass(frozen=True, slots=True)
class Example:
    """A checked example; its content is in a shard."""

    id: str
    label: str
    split: str
    group: str
    uri: str
    metadata: Mapping[str, str]
    facts: Mapping[str, int | str]
    location: Location


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that can't be used. The reason is `kind` or `kind: detail`."""

    uri: str
    label: str
    reason: str


class ShardWriter:
    """Appends contents to shards; holds one row group in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "shards"
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob("*.parquet"):  # of an attempt that was cut off
            old.unlink()
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[tuple[str, bytes]] = []
        self._pending_bytes = self._shard = self._group = self._rows = self._bytes = 0

    def add(self, id_: str, content: bytes) -> Location:
        """Append one content; it is on disk after `close`."""
        self._pending.append((id_, content))
        self._pending_bytes += len(content)
        location = Location(self._shard, self._group, len(self._pending) - 1)
        if len(self._pending) >= GROUP_ROWS or self._pending_bytes >= GROUP_BYTES:
            self._write_group()
            if self._rows >= SHARD_ROWS or self._bytes >= SHARD_BYTES:
                self._finish_shard()
        return location

    def close(self) -> None:
        """Write what is pending."""
        if self._pending:
            self._write_group()
        self._finish_shard()

    def _write_group(self) -> None:
        if self._writer is None:
            path = _shard_path(self._folder.parent, self._shard)
            self._writer = pq.ParquetWriter(
                path, _SCHEMA, compression="none", use_dictionary=False, write_statistics=False
            )
        ids, contents = zip(*self._pending, strict=True)
        self._writer.write_table(pa.table([ids, contents], schema=_SCHEMA))
        self._rows += len(self._pending)
        self._bytes += self._pending_bytes
        self._group += 1
        self._pending, self._pending_bytes = [], 0

    def _finish_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._shard += 1
        self._group = self._rows = self._bytes = 0


@contextmanager
def shard_writer(folder: Path) -> Iterator[ShardWriter]:
    """A `ShardWriter` that is closed at the end."""
    writer = ShardWriter(folder)
    try:
        yield writer
    finally:
        writer.close()


def write_index(folder: Path, examples: Sequence[Example]) -> None:
    """Write `index.parquet`, sorted by id."""
    rows = sorted(examples, key=lambda e: e.id)
    facts = dict.fromkeys(name for row in rows for name in row.facts)
    # Column by column: a dict for each row would be most of the step's memory.
    columns = {name: pa.array([row.facts.get(name) for row in rows]) for name in facts}
    columns |= {
        name: pa.array([getattr(row, name) for row in rows]) for name in ("id", "label", "split", "group", "uri")
    }
    columns["metadata"] = pa.array([canonical_json(dict(row.metadata)) for row in rows])
    columns |= {name: pa.array([getattr(row.location, name) for row in rows]) for name in ("shard", "row_group", "row")}
    pq.write_table(pa.table(columns), folder / "index.parquet")


def write_rejected(folder: Path, rejected: Sequence[Rejected]) -> None:
    """Write `rejected.parquet`, in the order of the source."""
    schema = pa.schema([(name, pa.string()) for name in ("uri", "label", "reason")])
    pq.write_table(pa.Table.from_pylist([asdict(r) for r in rejected], schema=schema), folder / "rejected.parquet")


def dataset_digest(examples: Sequence[Example]) -> str:
    """The sha256 over ids, labels and splits, sorted by id; 64 hexadecimal digits."""
    return digests.of_rows(sorted((example.id, example.label, example.split) for example in examples))


def kinds(rejected: Sequence[Rejected]) -> dict[str, int]:
    """Count rejected records by kind of reason, the most frequent first."""
    return dict(Counter(record.reason.partition(":")[0] for record in rejected).most_common())


class Examples:
    """Reads prepared examples. A row is a position in the index, which is sorted by id.

    Threads may share a reader; processes make their own (it pickles as its folder). While the dataset is being made,
    its facts are given: `dataset.json` comes last.
    """

    def __init__(self, folder: Path, info: DatasetInfo | None = None) -> None:
        self.folder = folder
        self.info = info or DatasetInfo.read(folder)
        with _whole(folder / "index.parquet"):
            self.index = pq.read_table(folder / "index.parquet")
        self._lock = threading.Lock()
        self._shards: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._footers: dict[int, pq.FileMetaData] = {}
        self._groups: OrderedDict[tuple[int, int], pa.ChunkedArray] = OrderedDict()

    def __reduce__(self) -> tuple[type["Examples"], tuple[Path, DatasetInfo]]:
        return Examples, (self.folder, self.info)

    @property
    def classes(self) -> list[str]:
        """Return the classes in the order of the network's outputs."""
        return self.info.classes

    @property
    def digest(self) -> str:
        """Of the examples' ids, labels and splits."""
        return self.info.digest

    def rows(self, split: str) -> list[int]:
        """Positions of a split's examples, in the order of their ids."""
        positions: list[int] = pc.indices_nonzero(pc.equal(self.index["split"], split)).to_pylist()
        return positions

    def ids(self, rows: Sequence[int]) -> list[str]:
        """Content ids."""
        return self.column("id", rows)

    def labels(self, rows: Sequence[int]) -> list[str]:
        """Labels as the source gave them."""
        return self.column("label", rows)

    def uris(self, rows: Sequence[int]) -> list[str]:
        """Return the sources of the examples."""
        return self.column("uri", rows)

    def column(self, name: str, rows: Sequence[int]) -> list[Any]:
        """Any column of the index."""
        values: list[Any] = self.index[name].take(pa.array(rows, pa.int64())).to_pylist()
        return values

    def contents(self, rows: Sequence[int]) -> list[bytes]:
        """Raw records; random access costs one row group, at most `GROUP_BYTES` and one record."""
        places = zip(*(self.column(name, rows) for name in ("shard", "row_group", "row")), strict=True)
        found: list[bytes] = [b""] * len(rows)
        with self._lock:  # a ParquetFile serves one reader at a time
            for i, (shard, group, row) in sorted(enumerate(places), key=lambda item: item[1]):
                found[i] = self._row_group(shard, group)[row].as_py()
        return found

    def rejected(self) -> list[dict[str, str]]:
        """Records that can't be used: uri, label and reason."""
        with _whole(self.folder / "rejected.parquet"):
            records: list[dict[str, str]] = pq.read_table(self.folder / "rejected.parquet").to_pylist()
        return records

    def _row_group(self, shard: int, group: int) -> pa.ChunkedArray:
        key = (shard, group)
        if key not in self._groups:
            with _whole(_shard_path(self.folder, shard)):
                file = self._shard(shard)
                self._groups[key] = file.read_row_group(group, columns=["content"], use_threads=False).column(0)
            if len(self._groups) > KEPT_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]

    def _shard(self, shard: int) -> pq.ParquetFile:
        if shard not in self._shards:
            path, footer = _shard_path(self.folder, shard), self._footers.get(shard)
            self._shards[shard] = opened = pq.ParquetFile(path, memory_map=True, metadata=footer)
            if len(self._footers) < KEPT_FOOTERS:
                self._footers[shard] = opened.metadata
            if len(self._shards) > OPEN_SHARDS:
                self._shards.popitem(last=False)[1].close()
        self._shards.move_to_end(shard)
        return self._shards[shard]


def _whole(path: Path) -> AbstractContextManager[None]:
    hint = "The disk may be at fault; run again with --force to write the examples anew."
    return parquet_files.explained(path, hint, raises=StepError)


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / "shards" / f"{shard:05d}.parquet"
