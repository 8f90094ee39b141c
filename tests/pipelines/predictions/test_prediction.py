"""What `thawline predict` is asked for: files, folders, objects, a list, and texts."""

import os
from pathlib import Path

import pytest

from components.core.errors import InputError, RejectedRecord
from components.core.storage import s3 as storage
from pipelines.predictions.prediction import Record, as_line, listed

pytest_plugins = ["tests.services.s3"]


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_folders_lists_and_texts_become_records_in_their_order(tmp_path: Path) -> None:
    """A folder stands for all files in it, litter left out; a list for what it names; a text for itself."""
    root = files(tmp_path / "in", "b/2.txt", "b/1.txt", "a.txt", ".DS_Store", "@eaDir/a.txt")
    line = os.fsencode(root / "a.txt")
    records = listed([str(root), "-"], ["fine"], [line + b"\r\n", b"\n", os.fsencode(root / "b") + b"\n", b"/gone"])
    names = [f"{root}/{name}" for name in ("a.txt", "b/1.txt", "b/2.txt", "a.txt", "b/1.txt", "b/2.txt")]
    assert [record.name for record in records] == [*names, "/gone", "fine"]
    assert [record.read() for record in records[:2]] == [b"a.txt", b"b/1.txt"]
    assert (records[-1].read(), records[-1].shown()) == (b"fine", {"text": "fine"})


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("gone.png", "There is no file"), ("empty", "contains no files"), ("texts.csv", "is a table, not a record")],
)
def test_what_is_not_there_or_no_record_is_one_sentence(name: str, sentence: str, tmp_path: Path) -> None:
    """A table is not answered as if it were one text."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts.csv").write_text("text\nfine\n")
    with pytest.raises(InputError, match=sentence):
        listed([str(tmp_path / name)], [], [])
    with pytest.raises(InputError, match="nothing to predict"):
        listed(["-"], [], [])


def test_a_table_in_a_list_is_a_bad_record(tmp_path: Path) -> None:
    """Among the paths of a list a table gets its reason, and the others are read."""
    (tmp_path / "texts.csv").write_text("text\nfine\n")
    (tmp_path / "one.txt").write_text("fine")
    lines = [f"{tmp_path / name}\n".encode() for name in ("texts.csv", "one.txt")]
    table, text = listed(["-"], [], lines)
    with pytest.raises(RejectedRecord, match="a table, not a record"):
        table.read()
    assert text.read() == b"fine"


def test_a_text_that_is_not_utf8_is_read_as_its_bytes() -> None:
    """What a shell passes on in another encoding reaches the task, which says what is wrong with it."""
    [record] = listed([], [os.fsdecode(b"caf\xe9")], [])
    assert record.read() == b"caf\xe9"


def test_no_cell_is_a_formula_to_a_spreadsheet() -> None:
    """Records and answers that begin like a formula get an apostrophe; numbers stay numbers."""
    record = Record("text", "=1+1", lambda: b"=1+1")
    assert as_line(record, {"label": "@SUM(A1)", "number": -1.5}) == "'=1+1\t'@SUM(A1)\t-1.5\n"


@pytest.mark.slow
def test_objects_on_s3_are_records(s3: str) -> None:
    """An address is one object, or all below it; an object whose name begins alike is none of them."""
    for key in ("in/a/1.txt", "in/a/2.txt", "in/ab.txt", "in/a/", "in/a/.hidden", "in/c.txt"):
        storage.client().put_object(Bucket=s3.removeprefix("s3://"), Key=key, Body=key.encode())
    assert [record.name for record in listed([f"{s3}/in/a"], [], [])] == [f"{s3}/in/a/1.txt", f"{s3}/in/a/2.txt"]
    assert [record.read() for record in listed([f"{s3}/in/c.txt"], [], [])] == [b"in/c.txt"]
    assert len(listed([f"{s3}/in/"], [], [])) == 4
    with pytest.raises(InputError, match="There is nothing at"):
        listed([f"{s3}/gone"], [], [])
