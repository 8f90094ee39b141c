"""Sources: what is listed, in which order, and what stops a run before it starts."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.errors import InputError, RejectedRecord
from components.core.sources import raw_records
from components.core.sources.raw_records import RawRecord, check_source, content, list_entries, read


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def listed(root: Path) -> dict[str, str]:
    return {str(Path(entry.uri).relative_to(root)): entry.label for entry in list_entries(str(root))}


def test_a_folder_gives_its_first_level_as_labels(tmp_path: Path) -> None:
    """Files at any depth below a class folder carry its name, files beside the class folders none."""
    tree(tmp_path, "cat/1.png", "cat/deep/er/2.png", "dog/1.png", "readme.txt")
    expected = {"cat/1.png": "cat", "cat/deep/er/2.png": "cat", "dog/1.png": "dog", "readme.txt": ""}
    assert listed(tmp_path) == expected


def test_litter_is_passed_over(tmp_path: Path) -> None:
    """Hidden files and what operating systems leave behind are not listed."""
    tree(tmp_path, "cat/1.png", "cat/.DS_Store", "cat/Thumbs.db", ".git/config", "__MACOSX/cat/1.png", "a/desktop.ini")
    assert listed(tmp_path) == {"cat/1.png": "cat"}


def test_the_order_is_that_of_the_names(tmp_path: Path) -> None:
    """Two listings are equal, and sorted within each folder."""
    tree(tmp_path, *(f"{c}/{i}.png" for c in "ba" for i in (3, 1, 2)))
    names = list(listed(tmp_path))
    assert names == ["a/1.png", "a/2.png", "a/3.png", "b/1.png", "b/2.png", "b/3.png"]


def test_links_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    """A linked class folder counts; a link to a folder above, to itself or to nothing does not hang the listing."""
    tree(tmp_path / "real", "1.png")
    tree(tmp_path / "data", "dog/1.png")
    (tmp_path / "data/cat").symlink_to(tmp_path / "real")
    (tmp_path / "data/dog/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/dog/self").symlink_to(tmp_path / "data/dog/self")
    (tmp_path / "data/dog/gone").symlink_to(tmp_path / "nothing")
    assert listed(tmp_path / "data") == {"cat/1.png": "cat", "dog/1.png": "dog", "dog/gone": "dog", "dog/self": "dog"}


def test_names_that_are_no_text_are_listed_and_read(tmp_path: Path) -> None:
    """A file name of arbitrary bytes is read, and its class gets a printable name."""
    folder = tmp_path / os.fsdecode(b"cl\xe4ss")
    folder.mkdir()
    (folder / os.fsdecode(b"p\xff.png")).write_bytes(b"content")
    (entry,) = list_entries(str(tmp_path))
    assert read(entry.uri) == b"content"
    assert entry.label == "cl\\udce4ss"


MANIFEST_ROWS = [
    {"uri": "a/1.png", "label": "cat", "split": "test", "group": "g1", "camera": "old"},
    {"uri": "/abs/2.png", "label": "dog", "split": "", "group": "", "camera": ""},
    {"uri": "s3://bucket/3.png", "label": "", "split": "", "group": "", "camera": ""},
]


def manifest(folder: Path, kind: str) -> Path:
    path = folder / f"manifest.{kind}"
    if kind == "csv":
        lines = [",".join(MANIFEST_ROWS[0]), *(",".join(row.values()) for row in MANIFEST_ROWS)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist([{k: v or None for k, v in row.items()} for row in MANIFEST_ROWS]), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in MANIFEST_ROWS))
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "ndjson", "parquet"])
def test_manifests_of_every_kind_say_the_same(kind: str, tmp_path: Path) -> None:
    """CSV (with a byte order mark), JSON lines and Parquet give the same entries, relative to the manifest."""
    entries = list(list_entries(str(manifest(tmp_path, kind))))
    assert entries == [
        RawRecord(f"{tmp_path}/a/1.png", "cat", "test", "g1", {"camera": "old"}),
        RawRecord("/abs/2.png", "dog"),
        RawRecord("s3://bucket/3.png", ""),
    ]


INLINE_ROWS = [
    {"text": "Fine, really,\n two lines ", "label": "up", "group": "g1", "stars": "5"},
    {"text": "dull", "label": "down", "group": "", "stars": ""},
]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_manifest_may_hold_the_records_themselves(kind: str, tmp_path: Path) -> None:
    """A column text instead of uri is the record, as it stands there; its place is the manifest's row."""
    path = tmp_path / f"texts.{kind}"
    if kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, INLINE_ROWS[0])
            writer.writeheader()
            writer.writerows(INLINE_ROWS)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(INLINE_ROWS), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in INLINE_ROWS))
    first, second = list_entries(str(path))
    assert first == RawRecord(f"{path}#row=1", "up", "", "g1", {"stars": "5"}, content=b"Fine, really,\n two lines ")
    assert (second.uri, second.content, content(second)) == (f"{path}#row=2", b"dull", b"dull")
    check_source(str(path))


def test_records_are_read_by_their_uri_alone(tmp_path: Path) -> None:
    """A row of a manifest, or a file, is found again by the uri that it was listed with."""
    path = tmp_path / "m.csv"
    path.write_text("text,label\nfine,up\ndull,down\n")
    (tmp_path / "one.txt").write_text("one")
    uris = [f"{path}#row=2", str(tmp_path / "one.txt")]
    assert [raw_records.reader(uris)(uri) for uri in uris] == [b"dull", b"one"]


def test_inline_records_of_other_kinds(tmp_path: Path) -> None:
    """Bytes stay bytes; lists and objects become canonical JSON, in records and in labels; nothing is empty."""
    path = tmp_path / "m.parquet"
    pq.write_table(pa.Table.from_pylist([{"content": b"\x00\xff", "label": "a"}]), path)
    assert [entry.content for entry in list_entries(str(path))] == [b"\x00\xff"]
    path = tmp_path / "m.jsonl"
    path.write_text('{"content": {"b": 1, "a": [2]}, "label": [{"y": 1, "x": 2}]}\n{"content": null, "label": "a"}\n')
    first, second = list_entries(str(path))
    assert (first.content, first.label, second.content) == (b'{"a":[2],"b":1}', '[{"x":2,"y":1}]', b"")


def test_a_column_uri_wins(tmp_path: Path) -> None:
    """Where rows name files, a column text is a fact about them."""
    path = tmp_path / "m.csv"
    path.write_text("uri,label,text\n1.png,cat,a caption\n")
    assert list(list_entries(str(path))) == [RawRecord(f"{tmp_path}/1.png", "cat", metadata={"text": "a caption"})]


def test_a_long_text_fits_into_a_cell(tmp_path: Path) -> None:
    """Python's own limit of a cell, 128 kB, is none here; that of a record holds."""
    path = tmp_path / "m.csv"
    path.write_text(f"text,label\n{'x' * 200_000},a\n")
    [entry] = list_entries(str(path))
    assert len(content(entry)) == 200_000
    with pytest.raises(RejectedRecord, match="larger than 100 MB"):
        content(RawRecord("m", "a", content=bytes(raw_records.MAX_BYTES + 1)))


def test_a_time_that_python_has_not_is_one_sentence(tmp_path: Path) -> None:
    """A year beyond 9999 in a Parquet column, where some write that something never ends."""
    never = pa.array([2**59], pa.timestamp("us"))
    pq.write_table(pa.table({"text": ["fine"], "label": ["up"], "until": never}), tmp_path / "m.parquet")
    with pytest.raises(InputError, match="contains a value that can't be read"):
        list(list_entries(str(tmp_path / "m.parquet")))


def test_numbers_are_labels_too(tmp_path: Path) -> None:
    """Labels that a manifest types as numbers become text."""
    path = tmp_path / "m.jsonl"
    path.write_text('{"uri": "1.png", "label": 3}\n\n{"uri": "2.png", "label": null}\n{"uri": "3.png"}\n')
    assert [entry.label for entry in list_entries(str(path))] == ["3", "", ""]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("m.csv", b"path,label\n1.png,cat\n", "no column 'uri' \\(it has path, label\\)"),
        ("m.csv", b"user_id,item,time\nu,a,1\n", "has user_id, item, time.*interactions, use --task recommendation"),
        ("m.csv", b"uri;label\n1.png;cat\n", "no column 'uri' \\(it has uri;label\\)"),
        ("m.csv", b"uri,label\n\xff\xfe.png,cat\n", "not CSV in UTF-8"),
        ("m.csv", b'text,label\nfine,up\n"dull,down\nbad,down\n', "mark in line 3 of .* is never closed"),
        ("m.csv", b'text,label\n"two\nlines",up\nfine,"', "mark in line 4 of .* is never closed"),
        ("m.jsonl", b'{"uri": "1.png"}\n', "no column 'label'"),
        ("m.jsonl", b'{"uri": "1.png", "label": "a"}\n{"uri": \n', "Line 2 of"),
        ("m.jsonl", b"[1, 2]\n", "Line 1 of"),
        ("m.jsonl", b'{"uri": ' + b"[" * 100_000 + b"\n", "Line 1 of"),
        ("m.parquet", b"PAR?", "not a Parquet file"),
        ("m.csv", b"", "names no label"),
        ("m.csv", b"uri,label\n1.png,\n", "names no label"),
        ("m.csv", b"uri,label\n1.png,cat\n2.png,cat\n", "only one class: cat"),
    ],
)
def test_a_manifest_that_can_not_be_used_is_one_sentence(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    """Missing columns, broken lines and a single class are told before the run starts."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        check_source(str(tmp_path / name))


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ((), "is empty"),
        (("cat/.keep", "dog/.keep"), "is empty"),
        (("a.txt", "b.txt"), "holds files but no class folders"),
        (("cat/1.png",), "only one class: cat"),
        (("cat/1.png", "dog/.keep"), "only one class: cat"),
        (("train/cat/1.png", "val/cat/1.png", "test/cat/2.png"), "splits, not classes"),
    ],
)
def test_a_folder_that_can_not_be_used_is_one_sentence(files: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    """An empty folder, loose files, one class, or splits in place of classes are told before the run starts."""
    with pytest.raises(InputError, match=sentence):
        check_source(str(tree(tmp_path, *files)))


def test_a_missing_path_and_a_strange_file_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no .*nowhere"):
        check_source(str(tmp_path / "nowhere"))
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(InputError, match="neither a folder nor a manifest"):
        check_source(str(tmp_path / "photo.png"))


def test_good_sources_pass(tmp_path: Path) -> None:
    """Two classes are enough, in a folder (one may be called `test`) and in a manifest."""
    check_source(str(tree(tmp_path, "test/1.png", "cat/1.png")))
    check_source(str(manifest(tmp_path, "csv")))


def test_checking_a_folder_loads_nothing_heavy(tmp_path: Path) -> None:
    """The check before a run imports neither torch, pyarrow nor boto3."""
    tree(tmp_path, "a/1.png", "b/1.png")
    code = (
        "import sys; from components.core.sources.raw_records import check_source; check_source(sys.argv[1]);"
        "print([m for m in ('torch', 'pyarrow', 'boto3', 'PIL') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


def test_what_can_not_be_read_is_rejected_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, a folder, a pipe, too large, no address: each has its own reason."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"12345")
    monkeypatch.setattr(raw_records, "MAX_BYTES", 4)
    for uri, reason in {
        "": "no uri",
        str(tmp_path / "gone.png"): "unreadable: no such file or directory",
        str(tmp_path): "unreadable: is a directory",
        str(tmp_path / "pipe"): "unreadable: not a file",
        str(tmp_path / "large"): "larger than 0 MB",
        "a\0b": "unreadable: not a file name",
        "https://example.org/1.png": "unreadable: https:// is not supported",
    }.items():
        with pytest.raises(RejectedRecord, match=rf"^{reason}$"):
            read(uri)


def test_a_file_without_permission_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the operating system refuses is a reason (simulated: root may read everything)."""
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(RejectedRecord, match=r"^unreadable: permission denied$"):
        read(str(tmp_path / "x.png"))


def test_a_folder_named_like_a_manifest_is_a_folder(tmp_path: Path) -> None:
    """A folder is read as one, whatever its name ends with."""
    for name in ("a", "b"):
        (tmp_path / "photos.csv" / name).mkdir(parents=True)
        (tmp_path / "photos.csv" / name / "1.png").write_bytes(b"x")
    raw_records.check_source(str(tmp_path / "photos.csv"))
    assert [entry.label for entry in raw_records.list_entries(str(tmp_path / "photos.csv"))] == ["a", "b"]


def test_a_pointer_of_git_lfs_is_no_record(tmp_path: Path) -> None:
    """What a clone without Git LFS leaves in place of a file is rejected, for a text it would be a text."""
    (tmp_path / "1.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(RejectedRecord, match="a pointer of Git LFS: the file itself was not fetched"):
        content(RawRecord(str(tmp_path / "1.txt"), "a"))


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "photos.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"is an archive\. Unpack it"):
        check_source(str(tmp_path / "photos.tar.gz"))
