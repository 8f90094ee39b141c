"""Divide chains of near-duplicates, in which each example is near the next but the ends are unlike each other.

Pictures of a fixed camera, or texts of one template, can chain into one group with nearly all the data. Such a chain
is divided into groups whose members are all near to one of them. The nearest pairs are joined first, so that a copy
stays with what it is a copy of.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEAST, SHARE = 24, 20  # members of the smallest chain that is divided; a chain is at least this part of the examples
Pair = tuple[str, str]


@dataclass(frozen=True)
class Divided:
    """Pairs that bind, and the chain of each id whose chain was divided."""

    pairs: Sequence[Pair]
    chains: Mapping[str, str]  # id -> the least id of its chain


def divide(pairs: Sequence[Pair], fingerprints: Mapping[str, str], examples: int) -> Divided:
    """Leave out pairs that chain too much of the data into one group.

    Args:
        pairs: Near-duplicates, the nearest first; of equal fingerprints each is paired with the first only.
        fingerprints: Of their ids; empty text equals none.
        examples: How many there are in all.
    """
    first: dict[str, str] = {}
    twin = {id_: first.setdefault(fingerprints.get(id_) or id_, id_) for pair in pairs for id_ in pair}
    members = _components(pairs)
    large = {id_: least for least, ids in members.items() if len(ids) > max(LEAST, examples // SHARE) for id_ in ids}
    if not large:
        return Divided(pairs, {})
    near: dict[str, set[str]] = defaultdict(set)
    for a, b in pairs:
        near[twin[a]].add(twin[b])
        near[twin[b]].add(twin[a])
    stars, kept = _Stars(near), []
    for a, b in pairs:
        if a not in large or twin[a] == twin[b] or stars.join(twin[a], twin[b]):
            kept.append((a, b))
    return Divided(kept, large)


class _Stars:
    """Groups in which every member is near the same one."""

    def __init__(self, near: Mapping[str, set[str]]) -> None:
        self._near = near
        self._centre: dict[str, str] = {}
        self._members: dict[str, list[str]] = {}

    def join(self, a: str, b: str) -> bool:
        """Merge the groups of two ids if all members are near one center; return whether they are merged."""
        ours, theirs = (self._centre.setdefault(id_, id_) for id_ in (a, b))
        if ours == theirs:
            return True
        sides = [self._members.setdefault(centre, [centre]) for centre in (ours, theirs)]
        order = [(ours, theirs, sides[1]), (theirs, ours, sides[0])]
        for centre, other, members in order if len(sides[0]) >= len(sides[1]) else order[::-1]:
            if all(member in self._near[centre] for member in members):
                self._members[centre] += self._members.pop(other)
                self._centre.update(dict.fromkeys(members, centre))
                return True
        return False


def _components(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """Return the connected components, each by its smallest id."""
    above: dict[str, str] = {}

    def top(id_: str) -> str:
        while (parent := above.setdefault(id_, id_)) != id_:
            above[id_] = above[parent]
            id_ = parent
        return id_

    for a, b in pairs:
        low, high = sorted((top(a), top(b)))
        above[high] = low
    members: dict[str, list[str]] = defaultdict(list)
    for id_ in list(above):
        members[top(id_)].append(id_)
    return members
