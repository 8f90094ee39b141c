"""Tables that can be read in more than one way are refused, and cells are read as people mean them."""

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.errors import InputError, RejectedRecord
from components.core.sources import raw_records


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
