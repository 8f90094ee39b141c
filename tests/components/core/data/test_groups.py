"""What belongs together keeps to one split."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.data.examples import Location
from components.core.data.groups import group_examples
from components.core.data.lineage import Lineage, Member
from components.core.data.records import CheckedRecord
from components.core.data.splits import assign
from components.core.errors import InputError
from components.core.sources.raw_records import RawRecord

PLACE = Location(0, 0, 0)


def record(id_: str, group: str = "", split: str = "", fingerprint: str = "") -> CheckedRecord:
    return copies(id_, RawRecord(f"{id_}.png", "", split, group), fingerprint=fingerprint)


def copies(id_: str, *entries: RawRecord, fingerprint: str = "") -> CheckedRecord:
    """One content that these entries of the source hold."""
    return CheckedRecord(id_, {"fingerprint": fingerprint}, PLACE, list(entries))


def known(**splits: str) -> Lineage:
    return Lineage("0", 1, {id_: Member(split) for id_, split in splits.items()})


def test_a_newcomer_joins_what_it_is_near_to() -> None:
    """The split of a near-duplicate that the lineage knows is the newcomer's, also when that one is gone."""
    found = group_examples([record("new")], known(old="test"), [("old", "new")])
    assert found.splits == {found.groups["new"]: "test"}


def test_a_chain_of_newcomers_is_one_group() -> None:
    found = group_examples([record(id_) for id_ in "abcd"], Lineage(), [("a", "b"), ("c", "b")])
    assert len({found.groups[id_] for id_ in "abc"}) == 1
    assert (found.groups["a"], found.groups["d"]) == ("near a", "")


def test_a_named_group_keeps_its_name() -> None:
    """Near-duplicates of a patient's picture belong to the patient."""
    found = group_examples([record("a", "patient"), record("b")], Lineage(), [("a", "b")])
    assert found.groups == {"a": "patient", "b": "patient"}


def test_a_newcomer_between_two_splits_is_set_aside() -> None:
    """Only the newcomer goes; a second one that is near to one side only stays."""
    lineage = known(left="train", right="test")
    near = [("left", "new"), ("right", "new"), ("left", "other"), ("new", "other")]
    found = group_examples([record(i) for i in ("left", "right", "new", "other")], lineage, near)
    assert found.set_aside == {"new": "set aside: it belongs with examples in test and train"}
    assert found.splits[found.groups["other"]] == "train"


def test_copies_of_what_is_set_aside_are_not_let_in_elsewhere() -> None:
    """Examples of equal looks are paired through the first; if it is set aside, its neighbours are still theirs."""
    lineage = Lineage("s", 1, {"z": Member("test")}, {"g": "train"})
    records = [record("a", "g", fingerprint="f"), *(record(i, fingerprint="f") for i in "bc")]
    found = group_examples(records, lineage, [("a", "z"), ("a", "b"), ("a", "c")])
    assert set(found.set_aside) == {"a"}
    assert {found.splits[found.groups[id_]] for id_ in "bc"} == {"test"}


def test_a_newcomer_to_a_group_with_two_splits_is_set_aside() -> None:
    """A known example that changed to a group of another split, all of whose members are gone, leaks nothing to it."""
    lineage = Lineage("s", 1, {"a": Member("test", group="g"), "b": Member("train")}, {"g": "test"})
    found = group_examples([record("b", "g"), record("new", "g")], lineage, [])
    assert set(found.set_aside) == {"new"}


def test_copies_that_name_several_groups_join_them() -> None:
    """Copies of one content under two patients keep both patients in one split."""
    both = copies("b", RawRecord("b.png", "", group="g"), RawRecord("c.png", "", group="h"))
    found = group_examples([record("a", "g"), both, record("c", "h")], Lineage(), [])
    assert len(set(found.groups.values())) == 1


def test_copies_that_the_source_gives_two_splits_are_refused() -> None:
    """Each copy is named, and no advice that would not help."""
    with pytest.raises(
        InputError, match=r"column split puts 1 group of .*: b.png \(test\) and a.png \(train\), the same content"
    ) as error:
        group_examples([copies("a", RawRecord("a.png", "", "train"), RawRecord("b.png", "", "test"))], Lineage(), [])
    assert "--near-duplicates" not in str(error.value)


def test_known_examples_that_straddle_are_a_leak() -> None:
    """A group column that joins a training and a test example stops the run, names both and says what joins them."""
    with pytest.raises(InputError, match=r"b.png \(test\) and a.png \(train\), the same group") as error:
        group_examples([record("a", "g"), record("b", "g")], known(a="train", b="test"), [])
    assert "fix the column group" in error.value.hint
    assert "--near-duplicates" not in error.value.hint
    with pytest.raises(InputError, match=r"b.png \(test\) and a.png \(train\), near-duplicates") as error:
        group_examples([record("a"), record("b")], known(a="train", b="test"), [("a", "b")])
    assert "column group" not in error.value.hint
    assert "restore --near-duplicates" in error.value.hint


def test_what_is_gone_leaks_no_more() -> None:
    """The run goes on when one side of a leak was taken out of the data."""
    lineage = Lineage("0", 1, {"a": Member("train", group="g"), "b": Member("test", group="g")}, {"g": "train"})
    assert group_examples([record("a", "g")], lineage, []).groups == {"a": "g"}


def test_splits_that_the_source_gives_are_checked() -> None:
    """Near-duplicates that the column split puts into training and test stop the run."""
    with pytest.raises(InputError, match="column split puts 1 group of .* Use --near-duplicates -1"):
        group_examples([record("a", split="train"), record("b", split="test")], Lineage(), [("a", "b")])


@given(st.data())
def test_nothing_straddles_and_nothing_moves(draws: st.DataObject) -> None:
    """Whatever comes in which order, near examples share a split, and a split that was given stays."""
    pool = [f"{i:02}" for i in range(24)]
    near = draws.draw(st.lists(st.sampled_from(list(combinations(pool, 2))), max_size=20))
    lineage, order = Lineage("s"), draws.draw(st.permutations(pool))
    for week in range(4):
        ids = sorted(order[: 6 * (week + 1)])
        pairs = [pair for pair in near if set(pair) <= set(ids) | lineage.members.keys()]
        records = [
            record(id_, draws.draw(st.sampled_from(["", "", "g", "h"])) if id_ not in lineage.members else "")
            for id_ in ids
        ]
        found = group_examples(records, lineage, pairs)
        usable = [r.id for r in records if r.id not in found.set_aside]
        before = {id_: m.split for id_, m in lineage.members.items()}
        groups = [found.groups[id_] for id_ in usable]
        previous = before | {f"group {name}": split for name, split in found.splits.items()}
        assigned = assign(usable, ["x"] * len(usable), "s", previous, groups)
        assert all(assigned[a] == assigned[b] for a, b in pairs if a in assigned and b in assigned)
        assert all(assigned[id_] == split for id_, split in before.items() if id_ in assigned)
        members = {id_: Member(split, group=found.groups[id_]) for id_, split in assigned.items()}
        kept = {group: assigned[id_] for id_, group in zip(usable, groups, strict=True) if group}
        lineage = Lineage("s", week + 1, {**lineage.members, **members}, {**lineage.groups, **kept})
