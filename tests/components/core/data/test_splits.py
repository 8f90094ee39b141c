"""Splits: stratified at first, by hash later, and never moving."""

import hashlib
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.data.splits import (
    FRACTIONS,
    REQUIRED,
    assign,
    assign_by_time,
    check_classes,
    check_times,
    count,
)
from components.core.errors import InputError
from components.core.sources.split_names import SPLITS


def ids_of(name: str, number: int) -> list[str]:
    return [hashlib.sha256(f"{name} {i}".encode()).hexdigest() for i in range(number)]


def data(**classes: int) -> tuple[list[str], list[str]]:
    """Ids and labels of classes of the given sizes."""
    ids = [id_ for name, number in classes.items() for id_ in ids_of(name, number)]
    return ids, [name for name, number in classes.items() for _ in range(number)]


def sizes(assigned: dict[str, str]) -> list[int]:
    return [Counter(assigned.values())[split] for split in SPLITS]


class_sizes = st.lists(st.integers(4, 60), min_size=2, max_size=6)
salts = st.text(max_size=5)


@given(class_sizes, salts)
def test_every_class_is_in_every_split_at_first(numbers: list[int], salt: str) -> None:
    """With four or more examples a class, the first splits hold every class."""
    ids, labels = data(**{f"c{i}": number for i, number in enumerate(numbers)})
    assigned = assign(ids, labels, salt, {})
    counts = count(assigned, dict(zip(ids, labels, strict=True)))
    assert all(counts[split][label] for split in SPLITS for label in set(labels))
    check_classes(assigned, dict(zip(ids, labels, strict=True)))


@given(st.integers(20, 500), salts)
def test_shares_are_exact_at_first(number: int, salt: str) -> None:
    """Each split of a class is within one example of its fraction."""
    assigned = assign(*data(a=number), salt, {})
    assert sum(sizes(assigned)) == number
    assert all(abs(got - number * FRACTIONS[s]) < 1 for got, s in zip(sizes(assigned), SPLITS, strict=True))


@settings(max_examples=50)
@given(st.data())
def test_no_id_ever_moves(draws: st.DataObject) -> None:
    """Whatever is added, removed or relabelled between runs, an id keeps the split that it got first."""
    pool = ids_of("x", 60)
    known: dict[str, str] = {}
    for _ in range(4):
        ids = draws.draw(st.lists(st.sampled_from(pool), unique=True))
        labels = [draws.draw(st.sampled_from("abc")) for _ in ids]
        groups = [draws.draw(st.sampled_from(["", "g", "h"])) for _ in ids]
        asked = [draws.draw(st.sampled_from(["", "train", "test", "validation"])) for _ in ids]
        assigned = assign(ids, labels, "0", known, groups, asked)
        assert assigned.keys() == set(ids)
        assert all(assigned[id_] == known[id_] for id_ in ids if id_ in known)
        known |= assigned


@given(st.randoms(use_true_random=False), class_sizes)
def test_the_order_of_the_source_does_not_matter(random: Random, numbers: list[int]) -> None:
    """The same examples in another order get the same splits."""
    pairs = list(zip(*data(**{f"c{i}": number for i, number in enumerate(numbers)}), strict=True))
    shuffled = random.sample(pairs, len(pairs))
    first = assign([i for i, _ in pairs], [c for _, c in pairs], "0", {})
    second = assign([i for i, _ in shuffled], [c for _, c in shuffled], "0", {})
    assert first == second


def test_another_salt_gives_another_split() -> None:
    """The salt, and nothing else, chooses among equally good splits."""
    ids, labels = data(a=50, b=50)
    assert assign(ids, labels, "0", {}) == assign(ids, labels, "0", {})
    assert assign(ids, labels, "0", {}) != assign(ids, labels, "1", {})


def test_newcomers_go_by_threshold() -> None:
    """Newcomers of a known class fall into the splits in proportion, each for itself."""
    ids, labels = data(a=4000)
    previous = assign(ids[:100], labels[:100], "0", {})
    assigned = assign(ids, labels, "0", previous)
    shares = [number / 4000 for number in sizes(assigned)]
    assert shares == pytest.approx(list(FRACTIONS.values()), abs=0.02)
    alone = assign([ids[7], ids[2000]], ["a", "a"], "0", previous)
    assert alone[ids[2000]] == assigned[ids[2000]]


def test_a_new_class_of_a_lineage_is_stratified() -> None:
    """A class that the lineage has not seen is in every split, as if it were the first time."""
    ids, labels = data(a=40, b=40)
    previous = assign(ids, labels, "0", {})
    more, more_labels = data(a=40, b=40, c=5)
    assigned = assign(more, more_labels, "0", previous)
    assert {assigned[id_] for id_ in ids_of("c", 5)} == set(SPLITS)


@given(st.lists(st.integers(0, 30), min_size=40, max_size=120))
def test_groups_stay_together(members: list[int]) -> None:
    """All examples of a group are in one split, at first and when the group grows."""
    ids = ids_of("x", len(members))
    groups = [f"g{member}" if member else "" for member in members]
    half = len(ids) // 2
    previous = assign(ids[:half], ["a"] * half, "0", {}, groups[:half])
    assigned = assign(ids, ["a"] * len(ids), "0", previous, groups)
    for group in set(groups) - {""}:
        assert len({assigned[id_] for id_, other in zip(ids, groups, strict=True) if other == group}) == 1


def test_the_source_may_choose_the_split() -> None:
    """What a manifest says is honoured, and exactly half of its validation calibrates."""
    ids, labels = data(a=40)
    asked = ["test"] * 10 + ["validation"] * 10 + ["train"] * 20
    assigned = assign(ids, labels, "0", {}, given=asked)
    assert [assigned[id_] for id_ in ids[:10]] == ["test"] * 10
    assert Counter(assigned[id_] for id_ in ids[10:20]) == {"validation": 5, "calibrate": 5}
    assert [assigned[id_] for id_ in ids[20:]] == ["train"] * 20


def test_examples_without_a_chosen_split_fill_up_their_class() -> None:
    """Where a manifest names the test rows only, the rest is divided among the other splits."""
    ids, labels = data(a=40)
    assigned = assign(ids, labels, "0", {}, given=["test"] * 10 + [""] * 30)
    assert sizes(assigned) in ([25, 3, 2, 10], [25, 2, 3, 10])


def test_previous_splits_win_over_the_source() -> None:
    """A manifest can't move an example out of the split that the lineage gave it."""
    ids, labels = data(a=10)
    previous = assign(ids, labels, "0", {})
    other = ["train" if previous[id_] == "test" else "test" for id_ in ids]
    assert assign(ids, labels, "0", previous, given=other) == previous


@pytest.mark.parametrize("number", [1, 2])
def test_classes_that_are_too_small_are_named(number: int) -> None:
    """A class without an example for each of training, validation and test is named with its number."""
    ids, labels = data(big=20, tiny=number)
    with pytest.raises(InputError, match=rf"tiny \({number}\)") as raised:
        check_classes(assign(ids, labels, "0", {}), dict(zip(ids, labels, strict=True)))
    assert "big" not in raised.value.sentence


def test_an_error_names_a_few_classes() -> None:
    """Where each row has a label of its own, as numbers that were taken for classes have, not all are listed."""
    ids, labels = data(**{f"c{i:03d}": 1 for i in range(100)})
    with pytest.raises(InputError, match=r"c019 \(1\), and 80 more\."):
        check_classes(assign(ids, labels, "0", {}), dict(zip(ids, labels, strict=True)))


def test_too_few_examples_without_classes() -> None:
    """Where labels are no classes, the error counts examples."""
    with pytest.raises(InputError, match=r"Too few examples to train, validate and test: 2\."):
        check_classes({"a": "train", "b": "validation"}, {"a": "", "b": ""})


def test_three_examples_are_enough_for_a_class() -> None:
    """Three examples give one each to train, validate and test."""
    ids, labels = data(big=20, small=3)
    assigned = assign(ids, labels, "0", {})
    assert {assigned[id_] for id_ in ids_of("small", 3)} == set(REQUIRED)
    check_classes(assigned, dict(zip(ids, labels, strict=True)))


def test_one_class_is_no_choice() -> None:
    ids, labels = data(a=20)
    with pytest.raises(InputError, match="only 1 class"):
        check_classes(assign(ids, labels, "0", {}), dict(zip(ids, labels, strict=True)))


def test_some_class_must_calibrate() -> None:
    """Where no class is large enough to leave one example for calibration, the error says so."""
    ids, labels = data(a=3, b=3)
    with pytest.raises(InputError, match="calibrate"):
        check_classes(assign(ids, labels, "0", {}), dict(zip(ids, labels, strict=True)))


def test_a_group_is_remembered_when_its_members_are_gone() -> None:
    """New members of a group go where its old ones were, also when none of those is left."""
    for split in SPLITS:
        found = assign(["new", "other"], ["a", "a"], "0", {"group visit": split}, ["visit", ""])
        assert found["new"] == split


def test_a_training_example_as_late_as_a_test_example_is_refused() -> None:
    """Splits that were made otherwise are caught, and both times are named."""
    times = {"a": "2026-01-01", "b": "2026-01-03", "c": "2026-01-03"}
    check_times({"a": "train", "b": "test", "c": "test"}, times)
    with pytest.raises(InputError, match="2026-01-03 is as late as a test example of 2026-01-03"):
        check_times({"a": "train", "b": "validation", "c": "test"}, times)


def test_one_time_has_no_future() -> None:
    with pytest.raises(InputError, match="All examples have the same time"):
        assign_by_time({"a": "2026", "b": "2026"})


def test_groups_are_counted_where_groups_are_meant() -> None:
    """A class with many examples in few groups is told by both numbers, one without groups by its examples."""
    assigned = {f"a{i}": "train" for i in range(40)} | {"a40": "test", "b0": "train", "b1": "test"}
    labels = {id_: id_[0] for id_ in assigned}
    groups = {id_: "near x" if id_ not in ("a40", "b0", "b1") else "" for id_ in assigned}
    with pytest.raises(InputError, match=r"Too few groups .*: a \(41 in 2 groups, 40 of them in one\), b \(2\)\."):
        check_classes(assigned, labels, groups)
    with pytest.raises(InputError, match=r"Too few examples .*: a \(41\), b \(2\)\."):
        check_classes(assigned, labels, {})
