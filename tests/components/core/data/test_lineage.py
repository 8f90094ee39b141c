"""The lineage's memory on disk."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.data.lineage import Lineage, Member, read_lineage, write_lineage
from components.core.errors import InputError


def test_a_lineage_comes_back_as_it_was(tmp_path: Path) -> None:
    """Members, groups, salt and the number of datasets survive the file."""
    members = {"b": Member("test", "cat", "ff", "g", 2, present=False), "a": Member("train")}
    lineage = Lineage("7", 3, members, {"g": "test"})
    write_lineage(tmp_path / "assignments.parquet", lineage)
    assert read_lineage(tmp_path / "assignments.parquet") == lineage


def test_a_file_of_ids_and_splits_is_read(tmp_path: Path) -> None:
    """What earlier versions wrote has no labels and fingerprints; the salt came from elsewhere."""
    table = pa.table({"id": ["a", "group g"], "split": ["test", "train"]})
    pq.write_table(table, tmp_path / "assignments.parquet")
    found = read_lineage(tmp_path / "assignments.parquet", "7")
    assert found == Lineage("7", 1, {"a": Member("test")}, {"g": "train"})


@pytest.mark.parametrize(("keep", "told"), [(0, "is empty"), (-20, "is cut off"), (8, "is cut off")])
def test_a_damaged_file_is_one_sentence(keep: int, told: str, tmp_path: Path) -> None:
    """The sentence has the name that the user gave, and what is wrong."""
    path = tmp_path / "assignments.parquet"
    write_lineage(path, Lineage("7", 3, {"a": Member("train")}))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=f"The assignments s3://b/a.parquet {told}"):
        read_lineage(path, name="s3://b/a.parquet")


def test_another_table_is_no_lineage(tmp_path: Path) -> None:
    """A table of other columns, or of ids that are numbers, is refused."""
    for columns in ({"uri": ["a"]}, {"id": [1], "split": ["test"]}, {"id": ["a"], "split": ["test"], "more": [1]}):
        pq.write_table(pa.table(columns), tmp_path / "assignments.parquet")
        with pytest.raises(InputError, match="The assignments .* is damaged"):
            read_lineage(tmp_path / "assignments.parquet")
