"""Tables that can be read in more than one way are refused, and cells are read as people mean them."""

import io
import os
import random
import re
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.errors import InputError, RejectedRecord
from components.core.sources import raw_records, source_index, tables


@pytest.mark.parametrize("columns", ["label,text", "text,label"])
def test_a_row_with_other_cells_than_the_header_is_none(columns: str, tmp_path: Path) -> None:
    """A comma that nobody quoted, or a cell that is missing, is rejected with line and counts, and cuts no text."""
    file = tmp_path / "texts.csv"
    file.write_text(f"{columns}\na,b\n\ncat,dogs, too\nbird\n")
    whole, *faulty = raw_records.list_entries(str(file))
    assert {whole.label, raw_records.content(whole).decode()} == {"a", "b"}
    reasons = []
    for entry in faulty:
        with pytest.raises(RejectedRecord) as caught:
            raw_records.content(entry)
        reasons.append(str(caught.value))
        assert entry.label == ""
    assert reasons == [
        "not as many cells as columns: line 4 has 3, the header 2",
        "not as many cells as columns: line 5 has 1, the header 2",
    ]


def test_stray_quotation_marks_join_no_lines(tmp_path: Path) -> None:
    """Two of them ten lines apart are one sentence with the lines, not a record of eleven lines."""
    rows = [f"text {number},cat" for number in range(30)]
    rows[4], rows[14] = '"5 inches,cat', 'a 7" disk,dog'
    file = tmp_path / "texts.csv"
    file.write_text("\n".join(["text,label", *rows]))
    with pytest.raises(InputError, match="In lines 6 to 16 of .* text follows a quotation mark that ends a cell"):
        list(raw_records.list_entries(str(file)))
    file.write_text('text,label\n"said ""yes"", twice",cat\n"two\nlines",dog\n')
    assert [raw_records.content(entry).decode() for entry in raw_records.list_entries(str(file))] == [
        'said "yes", twice',
        "two\nlines",
    ]


def test_a_name_for_two_columns_is_refused(tmp_path: Path) -> None:
    """Which of two columns of one name counts can't be known, in tables of all kinds."""
    (tmp_path / "a.csv").write_text("uri,label, label\nx,a,b\n")
    (tmp_path / "a.jsonl").write_text('{"uri": "x", "label": "a"}\n{"uri": "y", "label": "a", "label": "b"}\n')
    column = pa.array(["x"])
    pq.write_table(pa.Table.from_arrays([column] * 3, names=["uri", "label", "label"]), tmp_path / "a.parquet")
    for name, where in (("a.csv", "two columns 'label'"), ("a.jsonl", "Line 2 .* the key 'label' twice")):
        with pytest.raises(InputError, match=where):
            list(raw_records.list_entries(str(tmp_path / name)))
    with pytest.raises(InputError, match="two columns 'label'"):
        list(raw_records.list_entries(str(tmp_path / "a.parquet")))


def test_a_missing_label_is_no_class(tmp_path: Path) -> None:
    """NaN, null and an empty cell are no label, and no text nan, in tables of all kinds."""
    (tmp_path / "a.jsonl").write_text('{"uri": "x", "label": NaN}\n{"uri": "y", "label": null}\n{"uri": "z"}\n')
    pq.write_table(pa.table({"uri": ["x", "y"], "label": [float("nan"), None]}), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("uri,label\nx,\n")
    for name in ("a.jsonl", "a.parquet", "a.csv"):
        assert {entry.label for entry in raw_records.list_entries(str(tmp_path / name))} == {""}


def test_whole_numbers_are_one_label_whatever_their_type(tmp_path: Path) -> None:
    """Integers that pandas wrote as floats are the labels that they were; text of a CSV stays as it is written."""
    labels = {"ints": [1, 2], "floats": [1.0, 2.0], "decimals": [Decimal("1.00"), Decimal("2.00")]}
    for name, values in labels.items():
        pq.write_table(pa.table({"uri": ["x", "y"], "label": values}), tmp_path / f"{name}.parquet")
        assert [e.label for e in raw_records.list_entries(str(tmp_path / f"{name}.parquet"))] == ["1", "2"]
    lines = [f'{{"uri": "x", "label": {text}}}\n' for text in ("1", "2.0", "0.5")]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    assert [e.label for e in raw_records.list_entries(str(tmp_path / "a.jsonl"))] == ["1", "2", "0.5"]
    written = ["007", "1.0", "NA", "None", "True", "nan"]
    (tmp_path / "a.csv").write_text("uri,label\n" + "".join(f"x,{text}\n" for text in written))
    assert [e.label for e in raw_records.list_entries(str(tmp_path / "a.csv"))] == written


def whole_parquet() -> bytes:
    """A manifest of three columns, one of them of times."""
    rows, file = range(500), io.BytesIO()
    columns = {"uri": [f"{i}.png" for i in rows], "label": [f"c{i % 3}" for i in rows], "time": pa.array(rows)}
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda _whole: b"", "is empty"),
        (lambda _whole: b"uri,label\na.png,cat\n", "is not a Parquet file"),
        (lambda _whole: b"\x1f\x8b\x08" + bytes(20), "is not a Parquet file: it is gzip"),
        (lambda whole: whole[:-100], "is cut off"),
        (lambda whole: whole[:4], "is cut off"),
        (lambda whole: whole[:-4] + b"PARE", "is encrypted"),
        (lambda whole: whole[:-400] + bytes(392) + whole[-8:], "is damaged: "),
    ],
)
def test_a_damaged_parquet_manifest_is_one_sentence(
    change: Callable[[bytes], bytes], told: str, tmp_path: Path
) -> None:
    """The sentence names the file and what is wrong with it."""
    path = tmp_path / "rows.parquet"
    path.write_bytes(change(whole_parquet()))
    with pytest.raises(InputError, match=re.escape(f"The table {path} {told}")):
        raw_records.check_source(str(path))


def test_no_damage_of_a_parquet_manifest_is_a_traceback() -> None:
    """Cut and flipped at random, it is read or refused in a sentence."""
    whole, rng, refused = whole_parquet(), random.Random(7), 0
    for number in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 4, 50))):
            damaged[rng.randrange(len(whole) * (number % 3) // 3, len(whole))] = rng.randrange(256)
        if number % 5 == 0:
            del damaged[rng.randrange(len(whole)) :]
        try:
            list(tables.read_rows(io.BytesIO(damaged), "rows.parquet"))
        except InputError:
            refused += 1
    assert refused > 100


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A pipe under a manifest's name is not waited for."""
    os.mkfifo(tmp_path / "rows.csv")
    with pytest.raises(InputError, match="is not a file"):
        raw_records.check_source(str(tmp_path / "rows.csv"))


def test_a_uri_that_is_not_text_is_rejected_with_its_row(tmp_path: Path) -> None:
    """Numbers, times, lists, objects and missing ones name the row and what it has; the next row is read."""
    (tmp_path / "x.png").write_bytes(b"x")
    cells = ["5", "1.5", "true", '["x.png"]', '{"a": 1}', "null", "NaN", '""', '"x.png"']
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"uri": {cell}, "label": "a", "more": "m"}}\n' for cell in cells))
    found = source_index.take(str(rows), [])
    assert [row.reason for row in found] == [
        "uri is not text: row 1 has a number",
        "uri is not text: row 2 has a number",
        "uri is not text: row 3 has true or false",
        "uri is not text: row 4 has a list",
        "uri is not text: row 5 has an object",
        *(f"no uri: row {number}" for number in (6, 7, 8)),
        "",
    ]
    assert found[3].uri == f"{rows}#row=4"
    assert {row.label for row in found} == {"a"}
    columns = [[date(2020, 1, 1)], [datetime(2020, 1, 1)], [b"x.png"], pa.array([None]), [["x.png"]]]  # noqa: DTZ001
    told = []
    for column in columns:
        pq.write_table(pa.table({"uri": column, "label": ["a"]}), tmp_path / "rows.parquet")
        told += [
            row.reason.removeprefix("uri is not text: ")
            for row in source_index.take(str(tmp_path / "rows.parquet"), [])
        ]
    assert told == ["row 1 has a time", "row 1 has a time", "row 1 has bytes", "no uri: row 1", "row 1 has a list"]
