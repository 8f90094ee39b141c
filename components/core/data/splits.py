"""Splits that are assigned once and never move.

The first examples of a class are stratified exactly: in the order of their salted hash, cut at the quantiles. What
comes later goes by hash threshold. Examples of one group go together. The run's seed plays no part.
"""

import hashlib
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from components.core.errors import InputError
from components.core.sources.split_names import SPLITS

# In whole parts, so that every cut is exact: 70% train, 15% validation of which half calibrates, 15% test.
# Examples of a lineage keep their splits; only newcomers follow a change here.
SHARES = {"train": 28, "validation": 3, "calibrate": 3, "test": 6}
PARTS = sum(SHARES.values())
FRACTIONS = {split: parts / PARTS for split, parts in SHARES.items()}
NAMED = 20  # classes in an error
_CUTS = list(accumulate(SHARES.values()))[:-1]
REQUIRED = ("train", "validation", "test")  # of every class; `calibrate` needs one example of any class


def assign(
    ids: Sequence[str],
    labels: Sequence[str],
    salt: str,
    previous: Mapping[str, str],
    groups: Sequence[str] = (),
    given: Sequence[str] = (),
) -> dict[str, str]:
    """A split for every id.

    Args:
        ids: Content ids, without repeats.
        labels: One for each id.
        salt: Of the lineage.
        previous: Splits that were assigned before, of any ids; they never change.
        groups: For each id, what it must stay together with; empty text or nothing: it stands alone.
        given: For each id, the split that the source asks for; empty text or nothing: none. Half of what is given as
            validation becomes `calibrate`. Examples without one fill up their class.
    """
    by_class: dict[str, list[_Unit]] = defaultdict(list)
    for unit in _units(ids, labels, salt, previous, groups or [""] * len(ids), given or [""] * len(ids)):
        by_class[unit.label].append(unit)
    assigned: dict[str, str] = {}
    for label, units in sorted(by_class.items()):
        new = [unit for unit in units if not unit.previous]
        stratify = len(new) == len(units)
        splits = _stratified(new, salt + label) if stratify else [_by_threshold(unit) for unit in new]
        for unit, split in zip(new, splits, strict=True):
            assigned |= dict.fromkeys(unit.ids, split)
        for unit in units:
            if unit.previous:
                assigned |= {id_: previous.get(id_, unit.previous) for id_ in unit.ids}
    return assigned


def assign_by_time(times: Mapping[str, str]) -> dict[str, str]:
    """Splits for data whose future is to be foretold: every training time lies before every test time.

    The newest 15% of the examples are the test, what comes before them validates and calibrates. Examples of one time
    stay together. With new data the cuts move on, and what was tested is trained on: only the order in time may not be
    broken.

    Args:
        times: For each id a text that sorts by time, such as ISO 8601.

    Raises:
        InputError: Some have no time, or all have the same.
    """
    missing = sum(not time for time in times.values())
    if missing:
        raise InputError(
            f"{missing} of {len(times)} examples have no time.", "Add a value to the column time for each."
        )
    order = sorted(times, key=lambda id_: (times[id_], id_))
    cuts = [times[order[len(order) * share // PARTS]] for share in _CUTS] if order else []
    assigned = {id_: SPLITS[bisect(cuts, times[id_])] for id_ in order}
    check_times(assigned, times)
    return assigned


def check_times(assigned: Mapping[str, str], times: Mapping[str, str]) -> None:
    """Refuse splits in which a training example is as late as a test example.

    Raises:
        InputError: There is such a pair, or nothing to train or to test on.
    """
    trained = [times[id_] for id_, split in assigned.items() if split != "test"]
    tested = [times[id_] for id_, split in assigned.items() if split == "test"]
    if not trained or not tested:
        raise InputError("All examples have the same time, so none comes later.", "Check the column time.")
    if max(trained) >= min(tested):
        raise InputError(
            f"A training example of {max(trained)} is as late as a test example of {min(tested)}.",
            "Leave out the column split: the times decide.",
        )


def check_classes(
    assigned: Mapping[str, str], labels: Mapping[str, str], groups: Mapping[str, str] | None = None
) -> None:
    """Every class must be trained, validated and tested; where all labels are empty, the data as a whole.

    Args:
        assigned: The split of each id.
        labels: The class of each id.
        groups: What each id must stay together with; empty text, or none given: it stands alone.

    Raises:
        InputError: There are fewer than two classes, or some have too few examples or groups; it names them.
    """
    counts = count(assigned, labels)
    classes = sorted(set(labels.values()))
    if len(classes) < 2 and classes != [""]:  # noqa: PLR2004 - a choice needs two
        raise InputError(f"There are usable examples of only {len(classes)} class.", "Add examples of other classes.")
    short = short_classes(counts)
    if not short:
        _check_calibration(counts, len(assigned), len(classes))
        return
    members = defaultdict(list)
    for id_ in assigned:
        members[labels[id_]].append(id_)
    told = {name: _counted(members[name], groups or {}) for name in short}
    what = "groups" if any("group" in text for text in told.values()) else "examples"
    if "" in told:
        raise InputError(f"Too few {what} to train, validate and test: {told['']}.", f"Add {what}.")
    if told:
        named = ", ".join(f"{name} ({text})" for name, text in list(told.items())[:NAMED])
        named += f", and {len(short) - NAMED} more" if len(short) > NAMED else ""
        raise InputError(
            f"Too few {what} to train, validate and test each class: {named}.",
            f"Add {what} of these classes (10 are enough for a first try), or leave out the classes.",
        )


def short_classes(counts: Mapping[str, Counter[str]]) -> list[str]:
    """Classes that one of the splits which every class needs has nothing of, in order."""
    names = sorted(set[str]().union(*counts.values()))
    return [name for name in names if not all(counts[split][name] for split in REQUIRED)]


def _counted(ids: Sequence[str], groups: Mapping[str, str]) -> str:
    """Count examples, and groups if there are fewer of them: a group goes into one split as a whole."""
    sizes = Counter(groups.get(id_) or f"\0{id_}" for id_ in ids)
    if len(sizes) == len(ids):
        return str(len(ids))
    largest = max(sizes.values())
    return f"{len(ids)} in {len(sizes)} group{'' if len(sizes) == 1 else f's, {largest} of them in one'}"


def _check_calibration(counts: Mapping[str, Counter[str]], examples: int, classes: int) -> None:
    if not any(counts["calibrate"].values()):
        raise InputError(
            f"Too few examples to calibrate: {examples} in {classes} classes.",
            "Add examples: at least one class needs four, or four groups of them.",
        )


def count(assigned: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, Counter[str]]:
    """Examples of each class in each split."""
    counts = {split: Counter[str]() for split in SPLITS}
    for id_, split in assigned.items():
        counts[split][labels[id_]] += 1
    return counts


@dataclass(frozen=True, slots=True)
class _Unit:
    """Examples that go together: a group, or one alone."""

    position: int  # 64 bits of the salted hash
    ids: tuple[str, ...]
    label: str  # the most frequent
    previous: str
    given: str


def _units(
    ids: Sequence[str],
    labels: Sequence[str],
    salt: str,
    previous: Mapping[str, str],
    groups: Sequence[str],
    given: Sequence[str],
) -> Iterable[_Unit]:
    members: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for id_, label, group, split in zip(ids, labels, groups, given, strict=True):
        members[f"group {group}" if group else id_].append((id_, label, split))
    for key, rows in members.items():
        rows.sort()
        label, _ = max(sorted(Counter(label for _, label, _ in rows).items()), key=lambda item: item[1])
        # a group is remembered by name too: its members of old may all be gone
        before = previous.get(key) or next((previous[id_] for id_, _, _ in rows if id_ in previous), "")
        asked = next((split for _, _, split in rows if split), "")
        yield _Unit(_hash(salt + key), tuple(id_ for id_, _, _ in rows), label, before, asked)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _by_threshold(unit: _Unit) -> str:
    if unit.given == "validation":
        return "calibrate" if unit.position % 2 else "validation"
    return unit.given or SPLITS[bisect(_CUTS, unit.position * PARTS >> 64)]


def _stratified(units: Sequence[_Unit], tie: str) -> list[str]:
    """A split for each unit of one class, none of which was assigned before."""
    order = sorted(range(len(units)), key=lambda i: (units[i].position, units[i].ids))
    chosen = {i: units[i].given for i in order}
    validation = [i for i in order if chosen[i] == "validation"]
    chosen |= dict.fromkeys(validation[(len(validation) + 1) // 2 :], "calibrate")
    free = [i for i in order if not chosen[i]]
    wanted = _apportion(len(units), SHARES, tie)
    lacking = {split: max(0, wanted[split] - sum(s == split for s in chosen.values())) for split in SPLITS}
    cuts = lacking if sum(lacking.values()) == len(free) else _apportion(len(free), lacking, tie)
    splits = (split for split in SPLITS for _ in range(cuts[split]))
    chosen |= dict(zip(free, splits, strict=True))
    return [chosen[i] for i in range(len(units))]


def _apportion(number: int, weights: Mapping[str, int], tie: str) -> dict[str, int]:
    """Whole shares of `number` by the method of the largest remainder; none is empty if there is enough for all."""
    whole = sum(weights.values())
    shares = {split: number * weight // whole for split, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda s: (-(number * weights[s] % whole), _hash(tie + s)))
    for split in by_remainder[: number - sum(shares.values())]:
        shares[split] += 1
    # The rarest of the required ones first, `calibrate` last.
    for split in ("test", "validation", "train", "calibrate"):
        largest = max(shares, key=lambda s: shares[s])
        if weights[split] and not shares[split] and shares[largest] > 1:
            shares[split] += 1
            shares[largest] -= 1
    return shares
