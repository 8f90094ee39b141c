"""Raw records become checked, split, content-addressed examples; no MLflow, no neural network."""

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from components.core.contract.listener import Progress
from components.core.contract.task import Target, Task, load_task
from components.core.data import checked_facts, dataset_info, splits
from components.core.data.assignments import assign_examples, check_slices, write_label_changes
from components.core.data.checked_facts import CheckedFacts, Facts
from components.core.data.dataset_info import DatasetInfo
from components.core.data.examples import (
    Examples,
    Rejected,
    ShardWriter,
    dataset_digest,
    kinds,
    shard_writer,
    write_index,
    write_rejected,
)
from components.core.data.groups import NEAR, OF
from components.core.data.lineage import Lineage, write_lineage
from components.core.data.records import CheckedRecord
from components.core.errors import InputError, RejectedRecord
from components.core.machine import cpus, threads
from components.core.settings import Settings
from components.core.sources import raw_records, source_index
from components.core.sources.source_index import IndexRow, Mark
from components.core.storage import disk_space, home_folder

DOWNLOADS = 32  # objects in flight; the connections of the S3 client
OTHERS = 3  # labels that a contradiction names


def prepare(
    source: str,
    settings: Settings,
    dataset: Path,
    lineage: Lineage,
    progress: Progress,
    weights_digest: str = "",
    facts: Path | None = None,
) -> DatasetInfo:
    """Run the step without tracking: write the folder `dataset` and return its facts.

    Args:
        source: A folder, an S3 prefix or a manifest.
        settings: The task, the lineage's name and the allowed share of rejected records.
        dataset: Folder to write; see `components.core.data.examples`.
        lineage: What earlier datasets of the model left, with the salt to use; it wins.
        progress: Called with records done, records in total and a text, a few times a second.
        weights_digest: Of the weights that training starts from, for `dataset.json`.
        facts: File that keeps what the task finds out, for the next time if this one is cut off; see `checked_facts`.

    Raises:
        InputError: Too many records are bad (the rejected table is written), or a class has too few examples.
    """
    dataset.mkdir(parents=True, exist_ok=True)
    (dataset / dataset_info.FILE).unlink(missing_ok=True)
    task = load_task(settings.task)
    entries, target = list(task.records(settings, source)), task.target(settings)
    with checked_facts.kept(facts) as known:
        checked = _check_all(entries, _Checker(task, target, entries, known), dataset, progress)
    source_index.write_index(dataset / source_index.INDEX, checked.index)
    _reject_conflicts(checked, lineage)
    write_rejected(dataset, checked.rejected)
    _check_share(checked.rejected, sum(entry.rows for entry in entries), settings.max_rejected, source, dataset)
    assigned = assign_examples(checked.records, lineage, settings, task)
    check_slices(assigned.examples, settings)
    write_rejected(dataset, [*checked.rejected, *assigned.set_aside])
    write_index(dataset, assigned.examples)
    write_lineage(dataset / "assignments.parquet", assigned.lineage)
    write_label_changes(dataset / "label_changes.parquet", assigned.label_changes)
    names = [example.label for example in assigned.examples]
    strata = dict(zip((example.id for example in assigned.examples), target.strata(names), strict=True))
    info = DatasetInfo(
        classes=target.class_names(names),
        digest=dataset_digest(assigned.examples),
        weights_digest=weights_digest,
        data_digest=source_index.data_digest(checked.index),
        salt=lineage.salt,
        number=lineage.datasets,
        counts=splits.count({example.id: example.split for example in assigned.examples}, strata),
        examples=len(assigned.examples),
        duplicates=sum(len(some.copies) - 1 for some in checked.records.values()),
        near_duplicates=sum(example.group.startswith(NEAR) for example in assigned.examples),
        chained=sum(example.group.startswith(NEAR) and OF in example.group for example in assigned.examples),
        rejected=kinds(checked.rejected),
        set_aside=len(assigned.set_aside),
        label_changes=len(assigned.label_changes),
        changes=assigned.changes,
        source=source,
        lineage=settings.model,
    )
    options, note = task.measure(settings, Examples(dataset, info))
    info = info.model_copy(update={"options": dict(options), "note": note})
    info.write(dataset)
    return info


class _Read(NamedTuple):
    """One listed record, read and checked."""

    row: IndexRow
    record: raw_records.RawRecord | Rejected
    content: bytes | None = b""  # None: another row of the same uri has brought it
    facts: Mapping[str, int | str] = {}


@dataclass
class _Source:
    """The content of a source."""

    records: dict[str, CheckedRecord] = field(default_factory=dict)  # by id
    rejected: list[Rejected] = field(default_factory=list)
    index: list[IndexRow] = field(default_factory=list)  # of all records, in the order of the source

    def add(self, read: _Read, writer: ShardWriter) -> None:
        self.index.append(read.row)
        if isinstance(read.record, Rejected):
            self.rejected.append(read.record)
            return
        id_ = read.row.sha256
        if id_ not in self.records:
            content = _again(read.record, id_) if read.content is None else read.content
            if content is None:
                self.rejected.append(_rejected(read.record, "changed while it was read"))
                return
            self.records[id_] = CheckedRecord(id_, read.facts, writer.add(id_, content))
        self.records[id_].copies.append(read.record)


def _again(entry: raw_records.RawRecord, sha256: str) -> bytes | None:
    """The content that another row of the same uri has brought but could not use; None if it has changed since."""
    try:
        content = raw_records.content(entry)
    except RejectedRecord:
        return None
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


class _Checker:
    """Reads and checks records in threads; what several rows name is read once, and each content is checked once.

    Rows of one content in flight at the same moment may each do it, with the same result.
    """

    def __init__(
        self, task: Task, target: Target, entries: Sequence[raw_records.RawRecord], facts: CheckedFacts
    ) -> None:
        self._task, self._target = task, target
        self._cores = threading.BoundedSemaphore(cpus.available())  # decoded records are large: few at once
        self._hashes = source_index.repeated(entries)
        self._facts = facts

    def check(self, pair: tuple[raw_records.RawRecord, Mark]) -> _Read:
        entry, mark = pair
        row, content = source_index.read(entry, mark, self._hashes)
        if row.reason:
            return _Read(row, _rejected(entry, row.reason))
        try:
            facts = self._facts_of(row.sha256, content, entry)
            label = self._target.check_example(self._target.check_label(entry.label), facts)
        except RejectedRecord as error:
            return _Read(row, _rejected(entry, str(error)))
        if (row.split, label) != (entry.split, entry.label):
            entry = replace(entry, split=row.split, label=label)
        return _Read(row, entry, content, facts)

    def _facts_of(self, sha256: str, content: bytes | None, entry: raw_records.RawRecord) -> Facts:
        found = self._facts.get(sha256)
        if found is None:
            with self._cores:
                try:
                    found = self._task.check(raw_records.content(entry) if content is None else content)
                except RejectedRecord as error:
                    found = str(error)
            self._facts.add(sha256, found)
        if isinstance(found, str):
            raise RejectedRecord(found)
        return found


def _check_all(
    entries: Sequence[raw_records.RawRecord], checker: _Checker, dataset: Path, progress: Progress
) -> _Source:
    """Read and check every record; memory holds what is in flight, not the data."""
    remote = any(entry.uri.startswith("s3://") for entry in entries)
    workers = DOWNLOADS if remote else cpus.available()
    marked = list(zip(entries, source_index.marks(entries), strict=True))
    sizes = {entry.uri: max(0, mark.size) for entry, mark in marked}
    disk_space.check(home_folder.home(), {dataset: sum(sizes.values())}, "The copy of the examples")
    checked, shown = _Source(), time.monotonic()
    with shard_writer(dataset) as writer:
        for done, read in enumerate(threads.in_order(checker.check, marked, workers), start=1):
            checked.add(read, writer)
            if time.monotonic() - shown > 0.25 or done == len(entries):  # noqa: PLR2004 - seconds
                shown = time.monotonic()
                progress(done, len(entries), "records checked")
    return checked


def _rejected(entry: raw_records.RawRecord, reason: str) -> Rejected:
    return Rejected(raw_records.printable(entry.uri), entry.label, raw_records.printable(reason))


def _reject_conflicts(checked: _Source, lineage: Lineage) -> None:
    """Identical bytes under two labels: nobody knows which is right, so every copy goes.

    But a test row that the lineage has locked stays with its locked label, if one copy has that: a copy elsewhere must
    not take rows out of the test set. The others go.
    """
    for id_, record in list(checked.records.items()):
        copies = record.copies
        labels = {entry.label for entry in copies}
        if len(labels) == 1:
            continue
        member = lineage.members.get(id_)
        locked = member.label if member and member.split == "test" else ""
        record.copies = [entry for entry in copies if entry.label == locked]
        if not record.copies:
            del checked.records[id_]
            locked = ""
        some = sorted(labels)[: OTHERS + 1]  # a sentence that named them all would grow with their number
        for entry in copies:
            others = [label for label in some if label != entry.label][:OTHERS]
            more = f" and {left} more" if (left := len(labels) - 1 - len(others)) else ""
            if not locked:
                reason = f"identical bytes under two labels: also {', '.join(others)}{more}"
                checked.rejected.append(_rejected(entry, reason))
            elif entry.label != locked:
                checked.rejected.append(_rejected(entry, f"identical bytes as a locked test row: locked as {locked}"))


def _check_share(rejected: Sequence[Rejected], total: int, allowed: float, source: str, dataset: Path) -> None:
    if not total:
        raise InputError(f"{source} is empty.", "Use a folder with one subfolder per class.")
    share = len(rejected) / total
    if share > allowed:
        counts = kinds(rejected)
        reasons = ", ".join(f"{reason} ({number})" for reason, number in list(counts.items())[:4])
        shown = next(record for record in rejected if record.reason.partition(":")[0] == next(iter(counts)))
        raise InputError(
            f"{len(rejected)} of {total} records of {source} can't be used ({share:.1%}, allowed {allowed:.1%}): "
            f"{reasons}. One is {shown.uri}: {shown.reason}; {dataset / 'rejected.parquet'} lists each.",
            "Fix or remove them, or raise --max-rejected.",
        )
