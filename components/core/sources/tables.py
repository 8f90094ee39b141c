"""Read the rows of CSV, JSON lines and Parquet files, and refuse what is ambiguous in them."""

import codecs
import contextlib
import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from components.core.digests import canonical_json
from components.core.errors import InputError
from components.core.storage import parquet_files

FAULT = "\0fault"  # key of a row that is no record, with the reason; no column has that name
MAX_CELL = 100 * 2**20  # characters; 128 kB otherwise, which a text may be longer than
_EXACT = 2**53  # whole numbers up to here are exact as floats


def read_rows(file: BinaryIO, name: str) -> Iterator[Mapping[str, Any]]:
    """The rows of an open table by column; its name says which kind it is.

    Raises:
        InputError: It can't be read, or can be read in more than one way.
    """
    suffix = Path(name).suffix.lower()
    try:
        yield from (_csv_rows if suffix == ".csv" else _parquet_rows if suffix == ".parquet" else _json_rows)(
            file, name
        )
    except OSError as error:  # of the disk: what a reader finds wrong with the bytes is told by then
        raise cannot_open(name, error) from error


def cannot_open(name: str, error: OSError) -> InputError:
    """The error for a table that the system does not let us read."""
    return InputError(
        f"The table {name} can't be read: {(error.strerror or 'input/output error').lower()}.",
        "Check its permissions, and the disk.",
    )


def as_text(value: Any) -> str:  # noqa: ANN401 - whatever a manifest holds
    """A cell as text: a missing one is empty, a whole number has no decimals, lists and objects are canonical JSON.

    pandas writes a column of whole numbers as floats as soon as one is missing: 1.0 and 1 are one label.
    """
    if isinstance(value, dict | list):
        with contextlib.suppress(TypeError):  # bytes or times within
            return canonical_json(value)
    if isinstance(value, float | Decimal):
        if math.isnan(value):
            return ""
        if -_EXACT < value < _EXACT and value == int(value):
            return str(int(value))
    return "" if value is None else str(value)


def kind(value: Any) -> str:  # noqa: ANN401 - whatever a manifest holds
    """Return what a cell holds that is not text, for a sentence."""
    if isinstance(value, bool):
        return "true or false"
    known = {int | float | Decimal: "a number", date | time | timedelta: "a time", list: "a list", bytes: "bytes"}
    return next((name for types, name in known.items() if isinstance(value, types)), "an object")


def _distinct(columns: Iterable[str], source: str) -> None:
    """Refuse a table in which a name stands for two columns.

    Raises:
        InputError: It does.
    """
    twice = [name for name, count in Counter(columns).items() if name and count > 1]
    if twice:
        raise InputError(f"{source} has two columns {twice[0]!r}.", "Rename one of them.")


def _csv_rows(file: BinaryIO, source: str) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(MAX_CELL)
    # strict: without it a stray quotation mark joins lines into one cell, until the next one
    reader = csv.reader(codecs.iterdecode(file, "utf-8-sig"), strict=True)
    begin = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        _distinct(header, source)
        while True:
            begin = reader.line_num + 1
            cells = next(reader, None)
            if cells is None:
                return
            if len(cells) == len(header):
                yield dict(zip(header, cells, strict=True))
            elif cells:  # an empty line is none
                fault = f"not as many cells as columns: line {begin} has {len(cells)}, the header {len(header)}"
                yield {**dict.fromkeys(header, ""), FAULT: fault}
    except csv.Error as error:
        raise _ambiguous(str(error), source, begin, reader.line_num) from error
    except UnicodeDecodeError as error:
        raise InputError(f"The table {source} is not CSV in UTF-8: {error}.", "Save it as CSV in UTF-8.") from error


def _ambiguous(error: str, source: str, begin: int, line: int) -> InputError:
    """Describe what kept the csv module from telling the cells of a row."""
    hint = 'Close it, or write it twice ("") where it is part of a quoted text.'
    if "unexpected end of data" in error:
        sentence = f"A quotation mark in line {begin} of {source} is never closed: what follows would be one cell."
        return InputError(sentence, hint)
    if "expected after" in error:
        where = f"line {line}" if line == begin else f"lines {begin} to {line}"
        return InputError(f"In {where} of {source} text follows a quotation mark that ends a cell.", hint)
    return InputError(f"The table {source} is not CSV in UTF-8: {error}.", "Save it as CSV in UTF-8.")


def _json_rows(file: BinaryIO, source: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_pairs)
        except _TwiceError as error:
            raise InputError(f"Line {number} of {source} has the key {error} twice.", "Rename one of them.") from None
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(f"Line {number} of {source} is not a JSON object.", "Write one object per line.")
        yield row


class _TwiceError(Exception):
    """A key that an object has twice; its name is the message."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(repr(next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)))
    return found


def _parquet_rows(file: BinaryIO, source: str) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file, page_checksum_verification=True)  # of a file that has checksums
        _distinct(table.schema_arrow.names, source)
        for batch in table.iter_batches(batch_size=4096):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, MemoryError) as error:  # damaged lengths ask for more memory than there is
        raise InputError(f"The table {source} {parquet_files.fault(file, error)}.", "Write it again.") from error
    except (OverflowError, ValueError) as error:  # a date that Python has not
        raise InputError(
            f"The table {source} contains a value that can't be read: {error}.",
            "Write that column as text, or drop it.",
        ) from error
