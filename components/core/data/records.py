"""A record that was read and checked: what the listing, the task and the shards say of one content."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from components.core.data.examples import Example, Location
from components.core.sources.raw_records import RawRecord, printable


@dataclass(slots=True)
class CheckedRecord:
    """One usable content: the listed records that hold it, what the task found, and where it lies."""

    id: str  # the sha256 of the content
    facts: Mapping[str, int | str]
    location: Location
    copies: list[RawRecord] = field(default_factory=list)  # in the order of the source, labels as the target reads them

    @property
    def first(self) -> RawRecord:
        """The copy that stands for all."""
        return self.copies[0]

    @property
    def uri(self) -> str:
        """Return the location of the first copy, as printable text."""
        return printable(self.first.uri)

    @property
    def label(self) -> str:
        """The label; all copies have the same."""
        return self.first.label

    @property
    def fingerprint(self) -> str:
        """By which near-duplicates are found; empty where the task makes none."""
        return str(self.facts.get("fingerprint", ""))

    @property
    def groups(self) -> list[str]:
        """All groups that the copies name."""
        return sorted({copy.group for copy in self.copies if copy.group})

    @property
    def splits(self) -> list[str]:
        """All splits that the copies name."""
        return sorted({copy.split for copy in self.copies if copy.split})

    def by_split(self) -> dict[str, str]:
        """The first copy's place in each split that the copies name."""
        return {copy.split: printable(copy.uri) for copy in reversed(self.copies) if copy.split}

    def example(self, label: str, split: str, group: str) -> Example:
        """The record as an example, by the label that counts, in a split and in a group."""
        return Example(self.id, label, split, group, self.uri, self.first.metadata, self.facts, self.location)
