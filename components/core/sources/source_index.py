"""The index of a source: what each record holds, and by which marks it is known again without being read.

A record that has the path, size and mark of an earlier index is taken to hold what it held then. The mark is the
modification time in nanoseconds, or the ETag on S3. A file that was written just before it was indexed gets no mark: it
could change again within one tick of the clock, and its time would not tell.
"""

import hashlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from components.core import digests
from components.core.contract.listener import SILENT, Progress
from components.core.digests import canonical_json
from components.core.errors import InputError, RejectedRecord
from components.core.machine import cpus, threads
from components.core.sources import raw_records, split_names
from components.core.sources.raw_records import RawRecord

INDEX = "index_of_source.parquet"
REQUESTS = 32  # to S3 in flight
TICK = 2 * 10**9  # nanoseconds: the coarsest clock of a common file system
SPARSE = 20  # objects that are listed for one that is wanted, before asking for each is the cheaper way


class Mark(NamedTuple):
    """The state of a record as known without reading it."""

    size: int  # bytes; -1: not known
    mark: str  # modification time or ETag; empty: not known


class IndexRow(NamedTuple):
    """One listed record: a row of the index."""

    uri: str
    size: int
    mark: str
    sha256: str  # of the content; empty where it can't be read
    reason: str  # why it can't be read: `kind` or `kind: detail`
    label: str
    split: str
    group: str
    metadata: str  # a JSON object

    def described(self) -> tuple[str, ...]:
        """Return what identifies an example; names and places play no part."""
        return (self.sha256 or self.reason.partition(":")[0], self.label, self.split, self.group, self.metadata)


class Changes(NamedTuple):
    """Numbers of examples that differ between two indexes."""

    new: int
    gone: int
    relabelled: int
    described: int  # of other group, split or metadata

    def __str__(self) -> str:
        words = ("new", "gone", "re-labelled", "otherwise described")
        counts = ", ".join(f"{count} {word}" for count, word in zip(self, words, strict=True) if count)
        return f"{counts} example{'' if sum(self) == 1 else 's'}" if counts else ""


_SCHEMA = pa.schema([(name, pa.int64() if name == "size" else pa.string()) for name in IndexRow._fields])
UNKNOWN = Mark(-1, "")


def marks(entries: Sequence[RawRecord]) -> list[Mark]:
    """Size and mark of every record, in the order of the entries; no content is read or downloaded.

    They are taken before the contents, so that what changes in between is read again by the next run.
    """
    named = [e.uri for e in entries if e.uri.startswith("s3://") and not e.etag and e.content is None and not e.fault]
    remote = _of_objects(named) if named else {}
    now = time.time_ns()

    def mark(e: RawRecord) -> Mark:
        if e.content is not None or e.fault:  # it was read with the manifest, so its hash is at hand
            return UNKNOWN
        if e.etag:
            return Mark(e.size, e.etag)
        return remote.get(e.uri, UNKNOWN) if "://" in e.uri else _of_file(e.uri, now)

    return [mark(entry) for entry in entries]


def repeated(entries: Iterable[RawRecord]) -> dict[str, str]:
    """Return the uris that several records name, for `read`, which notes the sha256 of each."""
    counts = Counter(entry.uri for entry in entries if entry.content is None and not entry.fault)
    return {uri: "" for uri, count in counts.items() if count > 1}


def read(entry: RawRecord, mark: Mark, hashes: dict[str, str]) -> tuple[IndexRow, bytes | None]:
    """The row of a record, and its content, which is empty where there is a reason why it can't be read.

    Args:
        entry: The record.
        mark: Its size and mark.
        hashes: From `repeated`, for all records of the source. A uri that another record has read is not read again;
            the content is None then.
    """
    split, content, reason = entry.split, b"", entry.fault or ("" if entry.label else "no label")
    known = hashes.get(entry.uri, "")
    try:
        if not reason:
            split = _split_name(entry.split)
            content = b"" if known else raw_records.content(entry)
    except RejectedRecord as error:
        reason = raw_records.printable(str(error))
    if reason:
        return _row(entry, mark, "", reason, split), b""
    if known:
        return _row(entry, mark, known, "", split), None
    sha256 = hashlib.sha256(content).hexdigest()
    if entry.uri in hashes:
        hashes[entry.uri] = sha256
    return _row(entry, mark, sha256, "", split), content


def take(
    source: str,
    known: Iterable[IndexRow],
    progress: Progress = SILENT.progress,
    *,
    verify: bool = False,
    records: Iterable[RawRecord] | None = None,
) -> list[IndexRow]:
    """The index of a source as it is now.

    Args:
        source: A folder, an S3 prefix or a manifest.
        known: An earlier index; what it knows by path, size and mark is not read again.
        progress: Called with records read, records to read and a text.
        verify: Read everything all the same.
        records: Of the source, where its task lists them itself.

    Raises:
        InputError: The source can't be listed.
    """
    entries = list(raw_records.list_entries(source) if records is None else records)
    before = {} if verify else {(row.uri, row.size, row.mark): row for row in known if row.mark and row.sha256}
    found: list[IndexRow | None] = []
    for entry, mark in zip(entries, taken := marks(entries), strict=True):
        row = before.get((raw_records.printable(entry.uri), *mark)) if entry.label else None
        found.append(_known(entry, mark, row) if row else None)
    missing = [i for i, row in enumerate(found) if row is None]
    remote, hashes = any("://" in entries[i].uri for i in missing), repeated(entries[i] for i in missing)
    rows = threads.in_order(
        lambda i: read(entries[i], taken[i], hashes)[0], missing, REQUESTS if remote else cpus.available()
    )
    for done, (i, row) in enumerate(zip(missing, rows, strict=True), start=1):
        found[i] = row
        progress(done, len(missing), "records read for changes")
    return [row for row in found if row is not None]


def data_digest(rows: Iterable[IndexRow]) -> str:
    """The sha256 over content, label, split, group and metadata of all records, sorted; 64 hexadecimal digits.

    A record that can't be read counts with the kind of its reason.
    """
    return digests.of_rows(sorted(row.described() for row in rows))


def compare(before: Iterable[IndexRow], now: Iterable[IndexRow]) -> Changes:
    """Compare the examples of two indexes; all copies of a content are one example."""
    old, new = _by_content(before), _by_content(now)
    relabelled = described = 0
    for id_ in old.keys() & new.keys():
        if {labels for labels, *_ in old[id_]} != {labels for labels, *_ in new[id_]}:
            relabelled += 1
        elif old[id_] != new[id_]:
            described += 1
    return Changes(len(new.keys() - old.keys()), len(old.keys() - new.keys()), relabelled, described)


def knows_more(rows: Iterable[IndexRow], known: Iterable[IndexRow]) -> bool:
    """Return whether an index has marks that another lacks, so that keeping it saves reading."""
    seen = {row[:4] for row in known}
    return any(row.mark and row.sha256 and row[:4] not in seen for row in rows)


def write_index(path: Path, rows: Iterable[IndexRow]) -> None:
    """Write an index as Parquet, sorted by uri."""
    columns = list(zip(*sorted(rows), strict=True)) or [()] * len(IndexRow._fields)
    pq.write_table(pa.table([list(column) for column in columns], schema=_SCHEMA), path)


def read_index(path: Path) -> list[IndexRow]:
    """The rows of an index; none if it was written otherwise than this version does."""
    try:
        table = pq.read_table(path)
        if not table.schema.equals(_SCHEMA):
            return []
        return list(map(IndexRow._make, zip(*(column.to_pylist() for column in table.columns), strict=True)))
    except (pa.ArrowException, OSError, ValueError):  # it only saves reading
        return []


def _by_content(rows: Iterable[IndexRow]) -> dict[str, set[tuple[str, ...]]]:
    found: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for row in rows:
        if row.sha256:
            found[row.sha256].add(row.described()[1:])
    return found


def _row(entry: RawRecord, mark: Mark, sha256: str, reason: str, split: str) -> IndexRow:
    uri, label, split, group = map(raw_records.printable, (entry.uri, entry.label, split, entry.group))
    metadata = canonical_json(dict(entry.metadata)) if entry.metadata else "{}"
    return IndexRow(uri, mark.size, mark.mark, sha256, reason, label, split, group, metadata)


def _known(entry: RawRecord, mark: Mark, row: IndexRow) -> IndexRow | None:
    try:
        return _row(entry, mark, row.sha256, "", _split_name(entry.split))
    except RejectedRecord:
        return None


def _split_name(text: str) -> str:
    try:
        return split_names.split_name(text)
    except ValueError as error:
        raise RejectedRecord(f"unknown split: {error}") from error


def _of_file(path: str, now: int) -> Mark:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path for each of a million files takes longer than the call
    except (OSError, ValueError):  # it is gone, or no file name
        return UNKNOWN
    return Mark(status.st_size, str(status.st_mtime_ns) if status.st_mtime_ns < now - TICK else "")


def _of_objects(uris: Sequence[str]) -> Mapping[str, Mark]:
    """Marks of objects that a manifest names: from listings, a page of which tells of a thousand, else one by one."""
    from components.core.storage import s3

    found: dict[str, Mark] = {}
    by_bucket: dict[str, set[str]] = defaultdict(set)
    for uri in uris:
        by_bucket[uri.split("/")[2]].add(uri)
    for wanted in by_bucket.values():
        found |= _listed(wanted)

    def ask(uri: str) -> Mark:
        try:
            return Mark(*s3.look_up(uri))
        except InputError:  # reading it will tell why
            return UNKNOWN

    missing = [uri for uri in dict.fromkeys(uris) if uri not in found]
    with ThreadPoolExecutor(REQUESTS) as pool:
        return found | dict(zip(missing, pool.map(ask, missing), strict=True))


def _listed(wanted: set[str]) -> dict[str, Mark]:
    """Marks of objects of one bucket, as far as listing what their names have in common tells them soon."""
    from components.core.storage import s3

    found: dict[str, Mark] = {}
    bucket = "/".join(next(iter(wanted)).split("/")[:3]) + "/"
    common = os.path.commonprefix([*wanted])  # noqa: RUF071 - keys are no paths: any prefix can be listed
    prefix, last = max(bucket, common, key=len), max(wanted)
    try:
        for number, (uri, size, etag) in enumerate(s3.list_objects(prefix)):
            if uri in wanted:
                found[uri] = Mark(size, etag)
            if uri >= last or number > SPARSE * (len(found) + 50):
                break
    except InputError:  # reading may be allowed where listing is not
        return found
    return found
