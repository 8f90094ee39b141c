"""CSV that a spreadsheet shows as it is: text that it would run as a formula gets an apostrophe in front.

A cell that begins with one of = + - @, a tab or a carriage return is a formula to spreadsheets, whoever wrote it
(OWASP, "CSV Injection"). Numbers stay as they are.
"""

import csv
import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # with the apostrophes that would hide one: undoing must be exact
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


def as_cell(text: str) -> str:
    """Return text as a cell that no spreadsheet runs."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def write_csv(table: "pd.DataFrame") -> str:
    """Return a table as CSV with a header, in which every text is a cell that no spreadsheet runs."""
    safe = table.map(lambda value: as_cell(value) if isinstance(value, str) else value)
    return safe.rename(columns=as_cell).to_csv(index=False, lineterminator="\r\n")  # else a lone \r goes unquoted


def read_csv(text: str) -> list[dict[str, str]]:
    """Return the rows of what `write_csv` wrote, by column, each cell as the text that it was made from."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = [_undone(name) for name in next(rows, [])]
    return [dict(zip(header, map(_undone, row), strict=True)) for row in rows]


def _undone(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
