"""CSV that no spreadsheet runs, and that is read back unchanged."""

import csv
import io

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.storage.csv_text import as_cell, read_csv, write_csv

cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8) | st.text(
    "'=+-@\t\r\n1.,\"", max_size=8
)


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1", "-inf"])
def test_what_a_spreadsheet_would_run_is_text(text: str) -> None:
    """An apostrophe stands in front of it."""
    assert as_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-1.5", "+1", "-1e-05", "", "a=1", "it's", "'quoted'", " =1"])
def test_numbers_and_plain_text_stay(text: str) -> None:
    """What no spreadsheet runs is written as it is."""
    assert as_cell(text) == text


@settings(deadline=None)
@given(st.lists(st.tuples(cells, cells), max_size=5), st.tuples(cells, cells).filter(lambda pair: pair[0] != pair[1]))
def test_a_table_is_read_back_unchanged(rows: list[tuple[str, str]], columns: tuple[str, str]) -> None:
    """Every text and every name of a column comes back; no cell in between begins like a formula."""
    written = write_csv(pd.DataFrame(rows, columns=[*columns], dtype=object))
    for cell in [cell for row in csv.reader(io.StringIO(written, newline="")) for cell in row]:
        assert not cell.startswith(("=", "@", "\t", "\r")), cell
    assert read_csv(written) == [dict(zip(columns, row, strict=True)) for row in rows]


def test_numbers_are_written_as_pandas_writes_them() -> None:
    """Whole numbers, floats, missing ones and truth values have the form that they had before."""
    table = pd.DataFrame({"a": [1, -2], "b": [-1.5, float("nan")], "c": [True, False]})
    assert write_csv(table) == table.to_csv(index=False, lineterminator="\r\n")
