"""From checked records to examples with splits."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.core.contract.task import complete_target
from components.core.data.assignments import (
    assign_examples,
    check_slices,
    read_label_changes,
    write_label_changes,
)
from components.core.data.examples import Location
from components.core.data.lineage import Lineage
from components.core.data.records import CheckedRecord
from components.core.errors import InputError
from components.core.settings import Settings
from components.core.sources.raw_records import RawRecord
from components.core.targets.regression import Regression

PLACE = Location(0, 0, 0)
CLASSES = SimpleNamespace(strata=list, check_label=str)
TASK: Any = SimpleNamespace(split_by="hash", near_duplicates=lambda *_: [], target=lambda _settings: CLASSES)
BY_TIME: Any = SimpleNamespace(split_by="time", near_duplicates=lambda *_: [], target=lambda _settings: CLASSES)


def checked(numbers: list[int], label: str = "", **times: str) -> dict[str, CheckedRecord]:
    """Records of three classes by turns, or of one; in the order of the numbers."""
    found = {}
    for i in numbers:
        id_ = hashlib.sha256(str(i).encode()).hexdigest()
        entry = RawRecord(f"{i}.png", label or f"class{i % 3}", metadata={"time": times.get(f"t{i}", "")})
        found[id_] = CheckedRecord(id_, {}, PLACE, [entry])
    return found


def test_no_example_moves_while_the_data_grow_tenfold() -> None:
    """100 examples become 1,000 in ten steps, in any order: not one leaves its split."""
    generator, lineage = random.Random(0), Lineage("s")
    order = list(range(1000))
    generator.shuffle(order)
    first: dict[str, str] = {}
    for size in range(100, 1001, 100):
        some = order[:size]
        generator.shuffle(some)
        assigned = assign_examples(checked(some), lineage, Settings(), TASK)
        splits = {example.id: example.split for example in assigned.examples}
        assert {id_: splits[id_] for id_ in first} == first
        first, lineage = splits, assigned.lineage
    assert len(first) == 1000
    assert (lineage.datasets, assigned.changes) == (10, {"new": 100, "gone": 0, "relabelled": 0})
    assert {member.since for member in lineage.members.values()} == set(range(10))


def test_another_distance_finds_leaks_among_known_examples() -> None:
    """With a wider distance, pairs that stand in two splits already stop the run; with the same one, none do."""

    def pairs(prints: Any, new: Any, _settings: Settings) -> list[tuple[int, int]]:
        return [(i, i + 1) for i in range(len(prints) - 1) if new[i]]

    known = checked(list(range(60))).items()
    records = {id_: replace(some, facts={"fingerprint": id_}) for id_, some in known}
    wide: Any = SimpleNamespace(split_by="hash", near_duplicates=pairs, target=lambda _settings: CLASSES)
    lineage = assign_examples(records, Lineage("s"), Settings(near_duplicates=8), TASK).lineage
    assert assign_examples(records, lineage, Settings(near_duplicates=8), wide).changes["new"] == 0
    with pytest.raises(InputError, match="in two splits already") as raised:
        assign_examples(records, lineage, Settings(near_duplicates=32), wide)
    assert "restore --near-duplicates and the task's options" in raised.value.hint
    with pytest.raises(InputError, match="in two splits already"):  # a task may read an option, as texts do
        assign_examples(records, lineage, Settings(near_duplicates=8, option={"similarity": "0.5"}), wide)


def test_a_renamed_class_points_to_the_labels_that_wait() -> None:
    """All test rows keep the old name, so the new class has none: the error names the command that mends it."""
    lineage = assign_examples(checked(list(range(60))), Lineage("s"), Settings(), TASK).lineage
    renamed = checked([i for i in range(60) if i % 3]) | checked([i for i in range(60) if not i % 3], "kitty")
    with pytest.raises(InputError, match="kitty") as raised:
        assign_examples(renamed, lineage, Settings(), TASK)
    assert "3 changed labels of test rows" in raised.value.sentence
    assert "thawline labels accept" in raised.value.hint


def test_locked_labels_are_read_as_the_target_reads_them() -> None:
    """Classes that were numbers become numbers without a change; other names are of another problem, and refused."""
    number: Any = SimpleNamespace(
        split_by="hash",
        near_duplicates=lambda *_: [],
        target=lambda _settings: complete_target(Regression(0.0, 1.0, "mse")),
    )
    fours = list(range(30, 40))
    now = checked(list(range(30)), "3.0") | checked(fours, "4.0")
    lineages = [
        assign_examples(checked(list(range(30)), name) | checked(fours, "4"), Lineage("s"), Settings(), TASK).lineage
        for name in ("3", "good")
    ]
    assigned = assign_examples(now, lineages[0], Settings(), number)
    assert not assigned.label_changes
    assert {example.label for example in assigned.examples} == {"3.0", "4.0"}
    with pytest.raises(InputError, match="locked with the label 'good', which belongs to another problem") as raised:
        assign_examples(now, lineages[1], Settings(), number)
    assert "a separate --model" in raised.value.hint


def test_data_by_time_are_tested_on_what_comes_last() -> None:
    """Every training time lies before every test time, also when more data move the cut."""
    lineage = Lineage("s")
    for size in (60, 90):
        times = {f"t{i}": f"2026-01-{1 + i // 4:02}" for i in range(size)}
        records = checked(list(range(size)), **times)
        assigned = assign_examples(records, lineage, Settings(), BY_TIME)
        by_split = {
            split: [e.metadata["time"] for e in assigned.examples if (e.split == "test") == (split == "test")]
            for split in ("train", "test")
        }
        assert max(by_split["train"]) < min(by_split["test"])
        lineage = assigned.lineage


def test_data_by_time_may_part_what_belongs_together() -> None:
    """A group that lives through the cut is no leak, neither in the next dataset nor for its newcomers."""
    lineage = Lineage("s")
    for size in (60, 90):
        times = {f"t{i}": f"2026-01-{1 + i // 4:02}" for i in range(size)}
        records = {
            id_: replace(some, copies=[replace(some.copies[0], group="g")])
            for id_, some in checked(list(range(size)), **times).items()
        }
        assigned = assign_examples(records, lineage, Settings(), BY_TIME)
        assert not assigned.set_aside
        lineage = assigned.lineage


def test_a_group_that_another_took_in_keeps_its_split() -> None:
    """Eight patients share a picture; once it is gone, a newcomer of each still goes where it was."""
    first = checked(list(range(60)))
    shared = next(iter(first))
    copies = [replace(first[shared].copies[0], group=f"g{i}") for i in range(8)]
    assigned = assign_examples(first | {shared: replace(first[shared], copies=copies)}, Lineage("s"), Settings(), TASK)
    rest = {id_: some for id_, some in first.items() if id_ != shared}
    newcomers = checked(list(range(100, 108)))
    for i, (id_, some) in enumerate(newcomers.items()):
        rest[id_] = replace(some, copies=[replace(some.copies[0], group=f"g{i}")])
    later = assign_examples(rest, assigned.lineage, Settings(), TASK).lineage
    assert {later.members[id_].split for id_ in newcomers} == {assigned.lineage.members[shared].split}


def test_data_by_time_need_times() -> None:
    with pytest.raises(InputError, match="60 of 60 examples have no time"):
        assign_examples(checked(list(range(60))), Lineage("s"), Settings(), BY_TIME)


def test_labels_that_are_no_classes_are_one_stratum() -> None:
    """Transcripts, numbers or boxes differ from row to row: the data are split as a whole, at the usual shares."""
    task: Any = SimpleNamespace(
        split_by="hash",
        near_duplicates=lambda *_: [],
        target=lambda _settings: SimpleNamespace(strata=lambda labels: [""] * len(labels), check_label=str),
    )
    records = {id_: CheckedRecord(id_, {}, PLACE, [RawRecord("x", id_)]) for id_ in checked(list(range(40)))}
    splits = [example.split for example in assign_examples(records, Lineage("s"), Settings(), task).examples]
    assert {split: splits.count(split) for split in set(splits)} == {
        "train": 28,
        "validation": 3,
        "calibrate": 3,
        "test": 6,
    }


def test_a_slice_that_no_example_is_in_is_refused() -> None:
    """A misspelt column would watch nothing; the error names those that there are."""
    examples = assign_examples(checked(list(range(60))), Lineage("s"), Settings(), TASK).examples
    check_slices(examples, Settings(slice_by="time"))
    with pytest.raises(InputError, match=r"'tmie' is not a metadata column.*columns are time"):
        check_slices(examples, Settings(slice_by="time, tmie"))


def test_label_changes_come_back_as_they_were(tmp_path: Path) -> None:
    write_label_changes(tmp_path / "changes.parquet", [])
    assert read_label_changes(tmp_path / "changes.parquet") == []


def test_too_few_groups_are_told_with_what_joins_them() -> None:
    """Where most of a class is one group, the error says how many, through what, names two of them, and what to do."""

    def pairs(prints: Any, _new: Any, _settings: Settings) -> list[tuple[int, int]]:
        return [(0, i) for i in range(1, len(prints) - 1)]

    records = {
        id_: replace(some, facts={"fingerprint": f"{i:02}"})
        for i, (id_, some) in enumerate(sorted(checked(list(range(20)), "cat").items()))
    }
    alike: Any = SimpleNamespace(split_by="hash", near_duplicates=pairs, target=lambda _settings: CLASSES)
    others = checked(list(range(20, 50)), "dog")
    with pytest.raises(InputError) as error:
        assign_examples(records | others, Lineage("s"), Settings(), alike)
    assert "Too few groups to train, validate and test each class: cat (20 in 2 groups, 19 of them in one)" in (
        error.value.sentence
    )
    assert " 19 examples form one group as near-duplicates, such as " in error.value.sentence
    assert "use fewer bits for --near-duplicates, or -1 to turn it off" in error.value.hint
    named = {
        id_: replace(some, copies=[replace(some.copies[0], group="patient")])
        for id_, some in checked(list(range(20)), "cat").items()
    }
    with pytest.raises(InputError) as error:
        assign_examples(named | others, Lineage("s"), Settings(), TASK)
    assert " 20 examples form one group by the group 'patient', such as " in error.value.sentence
    assert "--near-duplicates" not in error.value.hint
