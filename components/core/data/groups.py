"""Groups of examples: explicit ones, and near-duplicates. A group stays in one split."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from components.core.data.chains import divide
from components.core.data.lineage import GROUP, Lineage
from components.core.data.records import CheckedRecord
from components.core.errors import InputError

SHOWN = 3  # examples that an error names
NEAR, OF = "near ", " of "  # a group by looks is called after its least id, one of a chain after that of the chain too


@dataclass(frozen=True)
class Grouped:
    """Groups of examples, and examples that fit into no split."""

    groups: Mapping[str, str]  # id -> group; empty: the example stands alone
    splits: Mapping[str, str]  # group -> split that it has already
    set_aside: Mapping[str, str] = field(default_factory=dict)  # id -> why


def group_examples(records: Sequence[CheckedRecord], lineage: Lineage, near: Iterable[tuple[str, str]]) -> Grouped:
    """Put examples that belong together into groups, with what the lineage knows of them.

    Examples that the lineage knows keep their split. A new one joins what it belongs to; if that has two splits, it is
    set aside, for whichever side it went to, the other would be near to it. Of a chain that was divided it joins the
    nearest.

    Args:
        records: The present data, ids without repeats.
        lineage: What is known of all data so far; of examples that are gone too.
        near: Pairs of ids that are near-duplicates, the nearest first; of the present data or of the lineage.

    Raises:
        InputError: Examples that belong together have two splits already, or are given two: a leak.
    """
    web = _Web(lineage)
    present, pairs = {record.id: record for record in records}, list(near)
    chains = _Chains(pairs, records, lineage)
    neighbours: dict[str, list[str]] = defaultdict(list)
    for a, b in chains.pairs:
        neighbours[a].append(b)
        neighbours[b].append(a)
    known = sorted(present.keys() & lineage.members.keys())
    for id_ in known:
        web.join([id_, *_named(present[id_].groups), *_known(neighbours[id_], lineage)])
    _refuse_leaks(web, known, present, lineage)
    set_aside = {}
    for id_ in sorted(present.keys() - lineage.members.keys()):
        accepted = [other for other in neighbours[id_] if other in lineage.members or web.has(other)]
        named = _named(present[id_].groups)
        splits = sorted(set[str]().union(*map(web.splits, [*named, *accepted])))
        if len(splits) > 1 and chains.is_one(accepted):
            accepted = [other for other in accepted if web.splits(other) == web.splits(accepted[0])]
            splits = sorted(set[str]().union(*map(web.splits, [*named, *accepted])))
        if len(splits) > 1:
            set_aside[id_] = f"set aside: it belongs with examples in {' and '.join(splits)}"
            _hand_on(id_, neighbours, present, lineage)
        else:
            web.join([id_, *named, *accepted])
            chains.take_in(id_, accepted)
    _refuse_given(web, [record for record in records if record.id not in set_aside])
    names = web.names(present.keys() - set_aside.keys(), chains.of)
    groups = {id_: names.get(id_, "") for id_ in present if id_ not in set_aside}
    splits_of = {names[id_]: min(has) for id_ in names if (has := web.splits(id_))}
    return Grouped(groups, splits_of, set_aside)


class _Chains:
    """The pairs that bind, and which chain an example is of, now or by the name of its group."""

    def __init__(self, pairs: Sequence[tuple[str, str]], records: Sequence[CheckedRecord], lineage: Lineage) -> None:
        prints = {record.id: record.fingerprint for record in records}
        fresh = [pair for pair in pairs if not any(id_ in lineage.members for id_ in pair)]
        divided = divide(fresh, prints, len(records))
        bound = set(divided.pairs)
        self.of = {id_: chain[:16] for id_, chain in divided.chains.items()}
        for id_, member in lineage.members.items():
            if member.group.startswith(NEAR) and OF in member.group:
                self.of[id_] = member.group.partition(OF)[2]
        self.pairs = [pair for pair in pairs if pair in bound or self._binds(*pair, lineage)]

    def _binds(self, a: str, b: str, lineage: Lineage) -> bool:
        """Return whether a pair with one known member binds; two members of one chain were parted on purpose."""
        if a in lineage.members and b in lineage.members:
            return not self.is_one([a, b])
        return a in lineage.members or b in lineage.members

    def take_in(self, id_: str, around: Sequence[str]) -> None:
        """Count an example to the chain that all around it are of."""
        if self.is_one(around):
            self.of[id_] = self.of[around[0]]

    def is_one(self, ids: Sequence[str]) -> bool:
        """Return whether all are in one chain."""
        chains = {self.of.get(id_, "") for id_ in ids}
        return len(chains) == 1 and "" not in chains


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

    def names(self, ids: Iterable[str], chains: Mapping[str, str]) -> dict[str, str]:
        """The group of each id that does not stand alone: a given name if there is one, else that of its least id.

        A part of a chain has a name also where it is one example: the chain's next pictures are near to it.
        """
        members: dict[str, list[str]] = defaultdict(list)
        for node in self._above:
            members[self.component(node)].append(node)
        found = {}
        for id_ in ids:
            together = members[self.component(id_)]
            if len(together) > 1 or id_ in chains:
                named = [node.removeprefix(GROUP) for node in together if node.startswith(GROUP)]
                least = min(together)
                of = f"{OF}{chains[least]}" if least in chains else ""
                found[id_] = min(named) if named else f"{NEAR}{least[:16]}{of}"
        return found


def _named(groups: Sequence[str]) -> list[str]:
    """The nodes of groups; none for an empty name."""
    return [GROUP + group for group in groups if group]


def _hand_on(
    id_: str, neighbours: dict[str, list[str]], present: Mapping[str, CheckedRecord], lineage: Lineage
) -> None:
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


def _refuse_leaks(web: _Web, known: Sequence[str], present: Mapping[str, CheckedRecord], lineage: Lineage) -> None:
    sides: dict[str, dict[str, CheckedRecord]] = defaultdict(dict)
    for id_ in known:
        sides[web.component(id_)].setdefault(lineage.members[id_].split, present[id_])
    if leaks := [splits for splits in sides.values() if len(splits) > 1]:
        hints = {
            "the same group": "fix the column group",
            "near-duplicates": "restore --near-duplicates and the task's options",
        }
        told = [hint for link, hint in hints.items() if link in set(map(_link, leaks))]
        raise InputError(
            f"{_groups(len(leaks))} of examples that belong together {_are(len(leaks))} in two splits already: "
            f"{_shown(leaks)}.",
            f"Remove one side of each from the data, {', '.join(told)}, or start a new lineage with another --model.",
        )


def _refuse_given(web: _Web, records: Sequence[CheckedRecord]) -> None:
    given: dict[str, dict[str, CheckedRecord]] = defaultdict(dict)
    for record in records:
        for split in record.splits if not web.splits(record.id) else []:
            given[web.component(record.id)].setdefault(split, record)
    if leaks := [splits for splits in given.values() if len(splits) > 1]:
        alike = " Use --near-duplicates -1 if they only look alike." if "near-duplicates" in map(_link, leaks) else ""
        raise InputError(
            f"The column split puts {_groups(len(leaks))} of examples that belong together into two splits: "
            f"{_shown(leaks)}.",
            f"Fix it, or leave out one side of each.{alike}",
        )


def _groups(number: int) -> str:
    return f"{number} group{'' if number == 1 else 's'}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _link(splits: Mapping[str, CheckedRecord]) -> str:
    """Describe the link between the two sides of a leak."""
    one, other = list(splits.values())[:2]
    if one.id == other.id:
        return "the same content"
    return "the same group" if set(one.groups) & set(other.groups) else "near-duplicates"


def _shown(leaks: Sequence[Mapping[str, CheckedRecord]]) -> str:
    """A few leaks, each with one example of either split."""
    return "; ".join(
        " and ".join(f"{one.by_split().get(split, one.uri)} ({split})" for split, one in sorted(splits.items()))
        + f", {_link(splits)}"
        for splits in leaks[:SHOWN]
    )
