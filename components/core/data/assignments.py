"""From checked records to examples with splits: what the lineage knows stays, newcomers join it or are assigned."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.core.contract.task import Target, Task
from components.core.data import splits
from components.core.data.examples import Example, Rejected
from components.core.data.groups import NEAR, group_examples
from components.core.data.lineage import Lineage, Member
from components.core.data.records import CheckedRecord
from components.core.digests import canonical_json
from components.core.errors import InputError, RejectedRecord
from components.core.settings import Settings
from components.core.storage import parquet_files

TIME = "time"  # the metadata column that tasks which split by time read


@dataclass(frozen=True, slots=True)
class LabelChange:
    """A test row whose label the source changed; the locked one counts until the change is accepted."""

    id: str
    uri: str
    locked: str
    proposed: str


@dataclass(frozen=True)
class Assigned:
    """The dataset, and what changed since the last one."""

    examples: Sequence[Example]
    lineage: Lineage
    set_aside: Sequence[Rejected]
    label_changes: Sequence[LabelChange]
    changes: Mapping[str, int]  # new, gone, relabelled


def assign_examples(checked: Mapping[str, CheckedRecord], lineage: Lineage, settings: Settings, task: Task) -> Assigned:
    """Give every example its group and split, and lock the labels of test rows.

    Args:
        checked: Usable contents by id. Several records of one content belong to all the groups that they name.
        lineage: What earlier datasets left; its salt is the one to use.
        settings: Of the run; they say what counts as a near-duplicate.
        task: Finds near-duplicates, and says whether its data are split by time.

    Raises:
        InputError: What belongs together is in two splits, or a class has too few examples.
    """
    records = list(checked.values())
    near = _near(records, lineage, settings, task)
    target, by_time = task.target(settings), task.split_by == "time"
    # what the times decide may part what belongs together, and moves: no earlier split binds anyone
    grouped = group_examples(*(_unbound(records, lineage) if by_time else (records, lineage)), near)
    usable = [record for record in records if record.id not in grouped.set_aside]
    labels = {record.id: record.label for record in usable}
    if by_time:
        times = {record.id: record.first.metadata.get(TIME, "") for record in usable}
        assigned = splits.assign_by_time(times)
    else:
        known = {id_: member.split for id_, member in lineage.members.items()}
        assigned = splits.assign(
            list(labels),
            target.strata([*labels.values()]),
            lineage.salt,
            known | {f"group {name}": split for name, split in grouped.splits.items()},
            [grouped.groups[record.id] for record in usable],
            [next(iter(record.splits), "") for record in usable],
        )
    counted = _locked(labels, assigned, lineage, target)
    waiting = [
        LabelChange(record.id, record.uri, counted[record.id], labels[record.id])
        for record in usable
        if counted[record.id] != labels[record.id]
    ]
    strata = dict(zip(counted, target.strata([*counted.values()]), strict=True))
    _check(assigned, strata, waiting, grouped.groups, {record.id: record.uri for record in usable})
    examples = [some.example(counted[some.id], assigned[some.id], grouped.groups[some.id]) for some in usable]
    set_aside = [
        Rejected(record.uri, record.label, grouped.set_aside[record.id])
        for record in records
        if record.id in grouped.set_aside
    ]
    # a group that another one took in by near-duplicates is remembered by its own name too
    named = {name: assigned[record.id] for record in usable for name in record.groups}
    return Assigned(
        examples, _extended(lineage, examples, named, _sought(settings)), set_aside, waiting, _changes(lineage, labels)
    )


def check_slices(examples: Sequence[Example], settings: Settings) -> None:
    """Refuse a column of `--slice-by` that no example has: nothing would be watched.

    Raises:
        InputError: There is such a column.
    """
    columns = sorted(set[str]().union(*(example.metadata for example in examples)))
    for name in filter(None, map(str.strip, settings.slice_by.split(","))):
        if name not in columns:
            has = f"The columns are {', '.join(columns)}" if columns else "Only a manifest can have metadata columns"
            raise InputError(f"--slice-by {name!r} is not a metadata column of the data.", f"{has}.")


def write_label_changes(path: Path, changes: Sequence[LabelChange]) -> None:
    """Write the label changes that wait: id, uri, locked and proposed label."""
    schema = pa.schema([(name, pa.string()) for name in ("id", "uri", "locked", "proposed")])
    pq.write_table(pa.Table.from_pylist([asdict(change) for change in changes], schema=schema), path)


def read_label_changes(path: Path) -> list[LabelChange]:
    """The inverse of `write_label_changes`.

    Raises:
        InputError: The file is damaged, or another table.
    """
    with parquet_files.explained(path, "Restore it in MLflow, or run again.", what="The label changes"):
        return [LabelChange(**row) for row in pq.read_table(path).to_pylist()]


def _unbound(records: Sequence[CheckedRecord], lineage: Lineage) -> tuple[list[CheckedRecord], Lineage]:
    members = {id_: replace(member, split="") for id_, member in lineage.members.items()}
    free = [replace(record, copies=[replace(copy, split="") for copy in record.copies]) for record in records]
    return free, replace(lineage, members=members, groups={})


def _near(records: Sequence[CheckedRecord], lineage: Lineage, settings: Settings, task: Task) -> list[tuple[str, str]]:
    """Pairs of near-duplicates of which at least one is new; all of them, where another distance is asked for."""
    prints = {id_: member.fingerprint for id_, member in lineage.members.items()}
    prints |= {record.id: record.fingerprint for record in records}
    ids = sorted(id_ for id_, text in prints.items() if text)
    other = lineage.sought not in ("", _sought(settings))
    new = [other or id_ not in lineage.members for id_ in ids]
    if settings.near_duplicates < 0 or not any(new):
        return []
    found = task.near_duplicates([prints[id_] for id_ in ids], new, settings)
    return [(ids[i], ids[j]) for i, j in found]


def _sought(settings: Settings) -> str:
    own = canonical_json(settings.option) if settings.option else ""  # a task may say by them what is near
    return f"{settings.near_duplicates}{' flipped' * settings.near_duplicates_flipped}{own}"


def _locked(labels: Mapping[str, str], assigned: Mapping[str, str], lineage: Lineage, target: Target) -> dict[str, str]:
    """The labels that count: of test rows that the lineage knows, those that they were locked with.

    Raises:
        InputError: A locked label doesn't fit the target: the lineage belongs to another problem.
    """
    counted = dict(labels)
    for id_ in labels:
        member = lineage.members.get(id_)
        if not (member and assigned[id_] == "test" and member.label):
            continue
        try:
            counted[id_] = target.check_label(member.label)
        except RejectedRecord as error:
            raise InputError(
                f"A test row is locked with the label {member.label!r}, which belongs to another problem: {error}.",
                "Use a separate --model for the new problem.",
            ) from None
    return counted


def _check(
    assigned: Mapping[str, str],
    strata: Mapping[str, str],
    waiting: Sequence[LabelChange],
    groups: Mapping[str, str],
    uris: Mapping[str, str],
) -> None:
    try:
        splits.check_classes(assigned, strata, groups)
    except InputError as error:
        sentence, hint = error.sentence, error.hint
        short = splits.short_classes(splits.count(assigned, strata))
        if fell := _largest([id_ for id_ in assigned if strata[id_] in short], groups):
            sentence += _told_of(fell, groups, uris)
            hint += _against(groups[fell[0]])
        if waiting:
            sentence += f" {len(waiting)} changed labels of test rows are not accepted yet."
            hint = "If the changes are right, accept them with `thawline labels accept`. " + hint
        raise InputError(sentence, hint) from None


def _largest(ids: Sequence[str], groups: Mapping[str, str]) -> list[str]:
    """The examples of the largest group among these; none where all stand alone."""
    members: dict[str, list[str]] = defaultdict(list)
    for id_ in sorted(ids):
        members[groups[id_]].append(id_)
    together = [some for name, some in sorted(members.items()) if name and len(some) > 1]
    return max(together, key=len, default=[])


def _told_of(ids: Sequence[str], groups: Mapping[str, str], uris: Mapping[str, str]) -> str:
    """Describe a group: how many examples, through what, and two of them."""
    name = groups[ids[0]]
    through = "as near-duplicates" if name.startswith(NEAR) else f"by the group {name!r}"
    return f" {len(ids)} examples form one group {through}, such as {uris[ids[0]]} and {uris[ids[1]]}."


def _against(group: str) -> str:
    if group.startswith(NEAR):
        return " If they only look alike, use fewer bits for --near-duplicates, or -1 to turn it off."
    return " Examples of one group go into one split."


def _extended(lineage: Lineage, examples: Sequence[Example], named: Mapping[str, str], sought: str) -> Lineage:
    members = {
        id_: Member(m.split, m.label, m.fingerprint, m.group, m.since, present=False)
        for id_, m in lineage.members.items()
    }
    for example in examples:
        known = lineage.members.get(example.id)
        since = known.since if known else lineage.datasets
        print_ = str(example.facts.get("fingerprint", ""))
        members[example.id] = Member(example.split, example.label, print_, example.group, since)
    groups = {**lineage.groups, **{example.group: example.split for example in examples if example.group}, **named}
    return Lineage(lineage.salt, lineage.datasets + 1, members, groups, sought)


def _changes(lineage: Lineage, labels: Mapping[str, str]) -> dict[str, int]:
    before = {id_: member.label for id_, member in lineage.members.items() if member.present}
    return {
        "new": len(labels.keys() - before.keys()),
        "gone": len(before.keys() - labels.keys()),
        "relabelled": sum(before[id_] not in ("", labels[id_]) for id_ in labels.keys() & before.keys()),
    }
