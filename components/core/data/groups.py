"""Which examples belong together: an explicit group, or near-duplicates. What belongs together keeps to one split."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from components.core.data.lineage import GROUP, Lineage
from components.core.errors import InputError

SHOWN = 3  # examples that an error names


@dataclass(frozen=True, slots=True)
class Record:
    """One example of the present data."""

    id: str
    uri: str
    groups: Sequence[str]  # that the source gives; copies of one content may name several
    splits: Sequence[str]  # the same
    fingerprint: str


@dataclass(frozen=True)
class Grouped:
    """What belongs together, and what can't go anywhere."""

    groups: Mapping[str, str]  # id -> group; empty: the example stands alone
    splits: Mapping[str, str]  # group -> split that it has already
    set_aside: Mapping[str, str] = field(default_factory=dict)  # id -> why


def group_examples(records: Sequence[Record], lineage: Lineage, near: Iterable[tuple[str, str]]) -> Grouped:
    """Put examples that belong together into groups, with what the lineage knows of them.

    Examples that the lineage knows keep their split. A new one joins what it belongs to; if that has two splits, it is
    set aside, for whichever side it went to, the other would be near to it.

    Args:
        records: The present data, ids without repeats.
        lineage: What is known of all data so far; of examples that are gone too.
        near: Pairs of ids that are near-duplicates; of the present data or of the lineage.

    Raises:
        InputError: Examples that belong together have two splits already, or are given two: a leak.
    """
    web = _Web(lineage)
    present = {record.id: record for record in records}
    neighbours: dict[str, list[str]] = defaultdict(list)
    for a, b in near:
        neighbours[a].append(b)
        neighbours[b].append(a)
    known = sorted(present.keys() & lineage.members.keys())
    for id_ in known:
        web.join([id_, *_named(present[id_].groups), *_known(neighbours[id_], lineage)])
    _refuse_leaks(web, known, present, lineage)
    set_aside = {}
    for id_ in sorted(present.keys() - lineage.members.keys()):
        accepted = [other for other in neighbours[id_] if other in lineage.members or web.has(other)]
        around = [*_named(present[id_].groups), *accepted]
        splits = sorted(set[str]().union(*map(web.splits, around)))
        if len(splits) > 1:
            set_aside[id_] = f"set aside: it belongs to examples of {' and of '.join(splits)}"
            _hand_on(id_, neighbours, present, lineage)
        else:
            web.join([id_, *around])
    _refuse_given(web, [record for record in records if record.id not in set_aside])
    names = web.names(present.keys() - set_aside.keys())
    groups = {id_: names.get(id_, "") for id_ in present if id_ not in set_aside}
    splits_of = {names[id_]: min(has) for id_ in names if (has := web.splits(id_))}
    return Grouped(groups, splits_of, set_aside)


class _Web:
    """Examples and named groups, joined to components (union-find); one with two splits takes in nothing new."""

    def __init__(self, lineage: Lineage) -> None:
        self._above: dict[str, str] = {}
        self._splits: dict[str, frozenset[str]] = {}
        for name, split in lineage.groups.items():
            self._splits[self.component(GROUP + name)] = frozenset(filter(None, [split]))
        for id_, member in lineage.members.items():
            self._splits[self.component(id_)] = frozenset(filter(None, [member.split]))
            self.join([id_, *_named([member.group])])

    def has(self, node: str) -> bool:
        return node in self._above

    def splits(self, node: str) -> frozenset[str]:
        return self._splits.get(self.component(node), frozenset())

    def join(self, nodes: Sequence[str]) -> None:
        roots = sorted({self.component(node) for node in nodes})
        splits = frozenset[str]().union(*map(self.splits, roots))
        for root in roots[1:]:
            self._above[root] = roots[0]
        self._splits[roots[0]] = splits

    def component(self, node: str) -> str:
        """The node that stands for everything that is joined to this one."""
        path = []
        while (above := self._above.setdefault(node, node)) != node:
            path.append(node)
            node = above
        self._above.update(dict.fromkeys(path, node))
        return node

    def names(self, ids: Iterable[str]) -> dict[str, str]:
        """The group of each id that does not stand alone: a given name if there is one, else that of its least id."""
        members: dict[str, list[str]] = defaultdict(list)
        for node in self._above:
            members[self.component(node)].append(node)
        found = {}
        for id_ in ids:
            together = members[self.component(id_)]
            if len(together) > 1:
                named = [node.removeprefix(GROUP) for node in together if node.startswith(GROUP)]
                found[id_] = min(named) if named else f"near {min(together)[:16]}"
        return found


def _named(groups: Sequence[str]) -> list[str]:
    """The nodes of groups; none for an empty name."""
    return [GROUP + group for group in groups if group]


def _hand_on(id_: str, neighbours: dict[str, list[str]], present: Mapping[str, Record], lineage: Lineage) -> None:
    """Give the neighbours of an example that is set aside to one of equal looks: such are paired through it only."""
    mine = present[id_].fingerprint
    waiting = [other for other in neighbours[id_] if other > id_ and other in present and other not in lineage.members]
    heirs = sorted(other for other in waiting if mine and present[other].fingerprint == mine)
    if heirs:
        neighbours[heirs[0]] += [other for other in neighbours[id_] if other != heirs[0]]
        for other in heirs[1:]:
            neighbours[other].append(heirs[0])


def _known(ids: Iterable[str], lineage: Lineage) -> list[str]:
    return [id_ for id_ in ids if id_ in lineage.members]


def _refuse_leaks(web: _Web, known: Sequence[str], present: Mapping[str, Record], lineage: Lineage) -> None:
    sides: dict[str, dict[str, str]] = defaultdict(dict)
    for id_ in known:
        sides[web.component(id_)].setdefault(lineage.members[id_].split, present[id_].uri)
    if leaks := [splits for splits in sides.values() if len(splits) > 1]:
        raise InputError(
            f"{len(leaks)} groups of examples that belong together are in two splits already: {_shown(leaks)}.",
            "Take one side of each out of the data, correct the column group, keep --near-duplicates and the task's "
            "options as they were, or begin a new lineage with another --model.",
        )


def _refuse_given(web: _Web, records: Sequence[Record]) -> None:
    given: dict[str, dict[str, str]] = defaultdict(dict)
    for record in records:
        for split in record.splits if not web.splits(record.id) else []:
            given[web.component(record.id)].setdefault(split, record.uri)
    if leaks := [splits for splits in given.values() if len(splits) > 1]:
        raise InputError(
            f"The column split puts {len(leaks)} groups of examples that belong together into two splits: "
            f"{_shown(leaks)}.",
            "Correct it, leave these out, or use --near-duplicates -1 if they only look alike.",
        )


def _shown(leaks: Sequence[Mapping[str, str]]) -> str:
    """A few leaks, each with one example of either split."""
    return "; ".join(
        " and ".join(f"{uri} ({split})" for split, uri in sorted(splits.items())) for splits in leaks[:SHOWN]
    )
