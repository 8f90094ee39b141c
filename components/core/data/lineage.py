"""A model's lineage: every example that it ever had, with its split and label, so that nothing moves or leaks.

`assignments.parquet` travels with the runs: id, split, label, fingerprint, group, since (the number of the dataset that
brought the example) and present (whether the last dataset had it). A row `group NAME` keeps the split of a group whose
members may all be gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.core.errors import InputError
from components.core.settings import Settings
from components.core.storage import parquet_files

DEFAULT_SALT: str = Settings.model_fields["split_salt"].default
GROUP = "group "  # before a group's name; no content id has a space
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("fingerprint", pa.string()),
        ("group", pa.string()),
        ("since", pa.int32()),
        ("present", pa.bool_()),
    ]
)
_LOST = "Use the assignments.parquet that prepare_data of an earlier run stored in MLflow."
_MISSING = {"label": "", "fingerprint": "", "group": "", "since": 0, "present": True}  # in files of before


@dataclass(frozen=True, slots=True)
class Member:
    """One example of the lineage."""

    split: str
    label: str = ""  # that it counted with last; of a test row the locked one
    fingerprint: str = ""  # by which near-duplicates are found; empty: none
    group: str = ""  # what it stays together with; empty: nothing
    since: int = 0  # number of the dataset that brought it
    present: bool = True  # in the last dataset


@dataclass(frozen=True)
class Lineage:
    """All that the datasets of a model have had so far."""

    salt: str = ""
    datasets: int = 0  # how many there were
    members: Mapping[str, Member] = field(default_factory=dict)  # by id
    groups: Mapping[str, str] = field(default_factory=dict)  # name -> split
    sought: str = ""  # what counted as near-duplicates, see `assign_examples`; empty in files of before


def refuse_other_salt(model: str, known: str, asked: str) -> None:
    """Check the salt of the settings against that of a lineage; the default one stands for whatever it has.

    Raises:
        InputError: They differ.
    """
    if asked not in (known, DEFAULT_SALT):
        raise InputError(
            f"The splits of {model!r} were made with salt {known!r}, so {asked!r} can't be used.",
            "Leave out --split-salt, or start a new lineage with another --model.",
        )


def write_lineage(path: Path, lineage: Lineage) -> None:
    """Write `assignments.parquet`, sorted by id."""
    rows: list[dict[str, Any]] = [
        {"id": id_, **{name: getattr(member, name) for name in Member.__slots__}}
        for id_, member in lineage.members.items()
    ]
    rows += [{**_MISSING, "id": GROUP + name, "split": split} for name, split in lineage.groups.items()]
    rows.sort(key=lambda row: str(row["id"]))
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    facts = {"salt": lineage.salt, "datasets": str(lineage.datasets), "sought": lineage.sought}
    pq.write_table(table.replace_schema_metadata(facts), path)


def read_lineage(path: Path, salt: str = "", name: str = "", hint: str = _LOST) -> Lineage:
    """The inverse of `write_lineage`.

    Args:
        path: The file.
        salt: Of a file that an earlier version wrote.
        name: What the user calls the file, if not by its path.
        hint: How the user gets a whole one.

    Raises:
        InputError: The file is damaged, or another table.
    """
    with parquet_files.explained(path, hint, name=name, what="The assignments"):
        return _lineage(pq.read_table(path), salt)


def _lineage(table: pa.Table, salt: str) -> Lineage:
    facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    members, groups = dict[str, Member](), dict[str, str]()
    for row in table.to_pylist():
        id_ = row.pop("id")
        if id_.startswith(GROUP):
            groups[id_.removeprefix(GROUP)] = row["split"]
        else:
            members[id_] = Member(**{**_MISSING, **row})
    sought = facts.get("sought", "")
    return Lineage(facts.get("salt", salt), int(facts.get("datasets", "1")), members, groups, sought)
