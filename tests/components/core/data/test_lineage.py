"""The lineage's memory on disk."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.core.data.lineage import Lineage, Member, read_lineage, write_lineage


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
