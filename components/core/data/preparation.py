"""Raw records become checked, split, content-addressed examples; no MLflow, no neural network."""

import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from components.core.contract import Target, Task, load_task
from components.core.data import source_index as fingerprints
from components.core.data import sources, splits
from components.core.data.assignments import Checked, assign_examples, check_slices, write_label_changes
from components.core.data.examples import (
    Examples,
    Location,
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
from components.core.data.source_index import Fingerprint, Mark
from components.core.errors import InputError, RejectedRecord
from components.core.run_folder import write_text
from components.core.settings import Settings, canonical_json

DOWNLOADS = 32  # objects in flight; the connections of the S3 client
Progress = Callable[[int, int, str], None]
Facts = Mapping[str, int | str]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def prepare(source: str, settings: Settings, dataset: Path, lineage: Lineage, progress: Progress) -> dict[str, Any]:
    """The step without tracking: write the folder `dataset` and return what its `dataset.json` holds.

    Args:
        source: A folder, an S3 prefix or a manifest.
        settings: The task, the lineage's name and the allowed share of rejected records.
        dataset: Folder to write; see `components.core.data.examples`.
        lineage: What earlier datasets of the model left, with the salt to use; it wins.
        progress: Called with records done, records in total and a text, a few times a second.

    Raises:
        InputError: Too many records are bad (the rejected table is written), or a class has too few examples.
    """
    dataset.mkdir(parents=True, exist_ok=True)
    (dataset / "dataset.json").unlink(missing_ok=True)
    entries, task = list(sources.list_entries(source)), load_task(settings.task)
    target = task.target(settings)
    checked = _check_all(entries, task, target, dataset, progress)
    fingerprints.write_index(dataset / fingerprints.INDEX, checked.fingerprints)
    _reject_conflicts(checked, lineage)
    write_rejected(dataset, checked.rejected)
    _check_share(checked.rejected, len(entries), settings.max_rejected, source, dataset)
    usable = {id_: Checked(copies, *checked.stored[id_]) for id_, copies in checked.copies.items()}
    assigned = assign_examples(usable, lineage, settings, task)
    check_slices(assigned.examples, settings)
    write_rejected(dataset, [*checked.rejected, *assigned.set_aside])
    write_index(dataset, assigned.examples)
    write_lineage(dataset / "assignments.parquet", assigned.lineage)
    write_label_changes(dataset / "label_changes.parquet", assigned.label_changes)
    names = [example.label for example in assigned.examples]
    strata = dict(zip((example.id for example in assigned.examples), target.strata(names), strict=True))
    info = {
        "classes": target.class_names(names),
        "digest": dataset_digest(assigned.examples),
        "data_digest": fingerprints.data_digest(checked.fingerprints),
        "salt": lineage.salt,
        "number": lineage.datasets,
        "counts": splits.count({example.id: example.split for example in assigned.examples}, strata),
        "examples": len(assigned.examples),
        "duplicates": sum(len(some.copies) - 1 for some in usable.values()),
        "near_duplicates": sum(example.group.startswith(NEAR) for example in assigned.examples),
        "chained": sum(example.group.startswith(NEAR) and OF in example.group for example in assigned.examples),
        "rejected": kinds(checked.rejected),
        "set_aside": len(assigned.set_aside),
        "label_changes": len(assigned.label_changes),
        "changes": assigned.changes,
        "source": source,
        "lineage": settings.model,
    }
    write_text(dataset / "dataset.json", canonical_json(info))
    info["options"], info["note"] = task.measure(settings, Examples(dataset))
    write_text(dataset / "dataset.json", canonical_json(info))
    return info


@dataclass(frozen=True)
class _Usable:
    entry: sources.Entry
    id: str
    content: bytes
    facts: Facts


@dataclass
class _Checked:
    copies: dict[str, list[sources.Entry]] = field(default_factory=lambda: defaultdict(list))  # by id
    stored: dict[str, tuple[Facts, Location]] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    fingerprints: list[Fingerprint] = field(default_factory=list)  # of all records, in the order of the source

    def add(self, record: "_Usable | Rejected", writer: ShardWriter) -> None:
        if isinstance(record, Rejected):
            self.rejected.append(record)
            return
        if record.id not in self.stored:
            self.stored[record.id] = (record.facts, writer.add(record.id, record.content))
        self.copies[record.id].append(record.entry)


def _check_all(
    entries: Sequence[sources.Entry], task: Task, target: Target, dataset: Path, progress: Progress
) -> _Checked:
    """Read and check every record; memory holds what is in flight, not the data."""
    cores = os.cpu_count() or 1
    remote = any(entry.uri.startswith("s3://") for entry in entries)
    checking = threading.BoundedSemaphore(cores)  # decoded records are large: only downloads may be many
    checked, shown = _Checked(), time.monotonic()
    with shard_writer(dataset) as writer:
        marked = zip(entries, fingerprints.marks(entries), strict=True)
        records = _in_order(lambda pair: _check(*pair, task, target, checking), marked, DOWNLOADS if remote else cores)
        for done, (fingerprint, record) in enumerate(records, start=1):
            checked.fingerprints.append(fingerprint)
            checked.add(record, writer)
            if time.monotonic() - shown > 0.25 or done == len(entries):  # noqa: PLR2004 - seconds
                shown = time.monotonic()
                progress(done, len(entries), "records checked")
    return checked


def _check(
    entry: sources.Entry, mark: Mark, task: Task, target: Target, checking: threading.BoundedSemaphore
) -> tuple[Fingerprint, _Usable | Rejected]:
    found, content = fingerprints.read(entry, mark)
    if found.reason:
        return found, _rejected(entry, found.reason)
    try:
        with checking:
            facts = task.check(content)
        entry = replace(entry, split=found.split, label=target.check_label(entry.label))
        return found, _Usable(entry, found.sha256, content, facts)
    except RejectedRecord as error:
        return found, _rejected(entry, str(error))


def _rejected(entry: sources.Entry, reason: str) -> Rejected:
    return Rejected(sources.printable(entry.uri), entry.label, sources.printable(reason))


def _in_order(function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int) -> Iterator[_Result]:
    """Results in the order of the items, with at most two calls for each worker begun and not consumed."""
    pending: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _reject_conflicts(checked: _Checked, lineage: Lineage) -> None:
    """Identical bytes under two labels: nobody knows which is right, so every copy goes.

    But a test row that the lineage has locked stays with its locked label, if one copy has that: a copy elsewhere must
    not take rows out of the test set. The others go.
    """
    for id_, copies in list(checked.copies.items()):
        labels = {entry.label for entry in copies}
        if len(labels) == 1:
            continue
        member = lineage.members.get(id_)
        locked = member.label if member and member.split == "test" else ""
        checked.copies[id_] = [entry for entry in copies if entry.label == locked]
        if not checked.copies[id_]:
            del checked.copies[id_]
            locked = ""
        for entry in copies:
            others = ", ".join(sorted(labels - {entry.label}))
            if not locked:
                checked.rejected.append(_rejected(entry, f"identical bytes under two labels: also {others}"))
            elif entry.label != locked:
                checked.rejected.append(_rejected(entry, f"identical bytes as a locked test row: locked as {locked}"))


def _check_share(rejected: Sequence[Rejected], total: int, allowed: float, source: str, dataset: Path) -> None:
    if not total:
        raise InputError(f"{source} is empty.", "Give a folder with one subfolder per class.")
    share = len(rejected) / total
    if share > allowed:
        counts = kinds(rejected)
        reasons = ", ".join(f"{reason} ({number})" for reason, number in list(counts.items())[:4])
        shown = next(record for record in rejected if record.reason.partition(":")[0] == next(iter(counts)))
        raise InputError(
            f"{len(rejected)} of {total} records of {source} can't be used ({share:.1%}, allowed {allowed:.1%}): "
            f"{reasons}. One is {shown.uri}: {shown.reason}; {dataset / 'rejected.parquet'} lists each.",
            "Mend or remove them, or raise --max-rejected.",
        )
