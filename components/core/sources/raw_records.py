"""Raw records with their labels: a folder per class, the same on S3, a manifest, or pictures with boxes."""

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from components.core.errors import InputError, RejectedRecord
from components.core.sources import annotations, folders, places, tables
from components.core.sources.folders import LAYOUT, as_label
from components.core.storage.addresses import check_no_login
from components.core.storage.hidden_logins import hidden

MANIFESTS = (".csv", ".jsonl", ".ndjson", ".parquet")
ROW = "#row="  # between the manifest and the number of an inline record, from 1
MAX_BYTES = 100 * 2**20  # of one record: dozens are in memory at once
INLINE = ("text", "content")  # columns that may hold the record itself where there is no column uri
_POINTER = b"version https://git-lfs.github.com/spec/"  # what stands in a file that was cloned without Git LFS
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One raw record as the source lists it, not read yet."""

    uri: str  # of an inline record, the manifest's with #row=N behind it
    label: str  # empty: missing
    split: str = ""
    group: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    size: int = field(default=-1, compare=False)  # bytes, where listing tells them without another request
    etag: str = field(default="", compare=False)  # of an S3 object, likewise
    content: bytes | None = field(default=None, repr=False)  # of an inline record
    fault: str = ""  # why the table's row is no record
    rows: int = field(default=1, compare=False)  # of a table that the record is made of; their share may be rejected


def list_entries(source: str) -> Iterator[RawRecord]:
    """Every record of a source, always in the same order.

    Hidden files and what systems and network drives leave behind are passed over. A file outside a class folder has no
    label. Labels that look the same are the same.

    Raises:
        InputError: The source can't be listed, or is a manifest that can't be read.
    """
    if _is_manifest(source):
        yield from _manifest(source)
    elif source.startswith("s3://"):
        yield from _s3_folder(source)
    elif annotations.is_annotated(places.place(source)):
        yield from _annotated(source)
    else:
        root = _path(source)
        for path in folders.walk(root):
            above = path.relative_to(root).parts[:-1]
            yield RawRecord(str(path), _folder_label(above[0]) if above else "")


def list_unlabeled(manifest: str) -> Iterator[RawRecord]:
    """Every record of a manifest, which may lack the column `label`.

    Raises:
        InputError: It can't be read.
    """
    yield from _manifest(manifest, labeled=False)


def check_source(source: str) -> None:
    """Look for what would surely stop a run, without reading records.

    Raises:
        InputError: It is missing, empty, without classes, or lacks columns.
    """
    check_no_login(source, "The source")
    if not source.startswith("s3://"):
        _check_path(source)
    if _is_manifest(source):
        _check_classes(source, _first_two(entry.label for entry in _manifest(source)))
        return
    if not source.startswith("s3://"):
        folders.check_home(_path(source))
    if annotations.is_annotated(places.place(source)):
        return
    if source.startswith("s3://"):
        names, files = _s3_folders(source)
        look = _s3_subfolders(source)
    else:
        names, files = _local_folders(_path(source))
        look = folders.subfolders(_path(source))
    if not files:
        raise InputError(f"{source} is empty.", LAYOUT)
    if not names:
        raise InputError(f"{source} holds files but no class folders.", LAYOUT)
    if inner := folders.single_folder(names, look):
        place = f"{source.rstrip('/')}/{inner}"
        raise InputError(f"{source} contains only one folder, which contains folders: {inner}.", f"Give {place}.")
    folders.check_names(source, names, look)
    _check_classes(source, {*map(_folder_label, names)})


def content(entry: RawRecord) -> bytes:
    """The content of one record, wherever it lies.

    Raises:
        RejectedRecord: It can't be read; the message is the reason.
    """
    if entry.fault:
        raise RejectedRecord(entry.fault)
    if entry.content is None:
        found = read(entry.uri)
        if found.startswith(_POINTER):
            raise RejectedRecord("a pointer of Git LFS: the file itself was not fetched")
        return found
    if len(entry.content) > MAX_BYTES:
        raise _too_large()
    return entry.content


def read(uri: str) -> bytes:
    """The content of a file or an object.

    Raises:
        RejectedRecord: It can't be read; the message is the reason.
        InputError: The S3 server can't be reached, or takes us no more: no fault of the record's.
    """
    if not uri:
        raise RejectedRecord("no uri")
    if uri.startswith("s3://"):
        from components.core.storage import s3

        try:
            return s3.read_bytes(uri, MAX_BYTES)
        except s3.ObjectError as error:
            raise RejectedRecord(f"unreadable: {error.sentence}") from error
        except ValueError:
            raise _too_large() from None
    if "://" in uri:
        raise RejectedRecord(f"unreadable: {uri.partition('://')[0]}:// is not supported")
    try:
        with open(uri, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise RejectedRecord("unreadable: not a file")
            if status.st_size > MAX_BYTES:
                raise _too_large()
            return file.read()
    except OSError as error:
        raise RejectedRecord(f"unreadable: {(error.strerror or 'input/output error').lower()}") from error
    except ValueError as error:  # a name with a zero byte
        raise RejectedRecord("unreadable: not a file name") from error


def printable(text: str) -> str:
    """Text that UTF-8 can carry, for tables: a file name may hold bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode()


def reader(uris: Collection[str]) -> Callable[[str], bytes]:
    """Return a reader of these records by uri; for a manifest that holds its records, after one pass over it."""
    manifests = {uri.rpartition(ROW)[0] for uri in uris if uri.rpartition(ROW)[0].lower().endswith(MANIFESTS)}
    inline = {
        entry.uri: entry
        for manifest in sorted(manifests)
        for entry in list_entries(manifest)
        if entry.content is not None and entry.uri in uris
    }
    return lambda uri: content(inline.get(uri, RawRecord(uri, "")))


def _too_large() -> RejectedRecord:
    return RejectedRecord(f"larger than {MAX_BYTES // 2**20} MB")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for a writer for ever


def _is_manifest(source: str) -> bool:
    return source.lower().endswith(MANIFESTS) and ("://" in source or not _path(source).is_dir())


def _path(source: str) -> Path:
    return Path(source).expanduser().absolute()


def _check_path(source: str) -> None:
    path = _path(source)
    if not path.exists():
        if "://" in source:
            raise InputError(
                f"{source} is neither a file nor a folder.", "Use a folder, a manifest or s3://bucket/prefix."
            )
        raise InputError(f"There is no file or folder {source!r}.", "Check the path.")
    if path.is_file() and path.suffix.lower() in _ARCHIVES:
        raise InputError(f"{source} is an archive.", "Unpack it, and give the folder.")
    if not path.is_dir() and path.suffix.lower() not in MANIFESTS:
        raise InputError(f"{source} is neither a folder nor a manifest ({', '.join(MANIFESTS)}).", LAYOUT)


def _check_classes(source: str, classes: set[str]) -> None:
    if not classes:
        raise InputError(f"{source} names no label.", LAYOUT)
    if len(classes) == 1:
        raise InputError(f"{source} has only one class: {next(iter(classes))}.", "Add examples of a second class.")


@lru_cache(maxsize=4096)
def _folder_label(name: str) -> str:
    return as_label(printable(name))


def _local_folders(root: Path) -> tuple[list[str], bool]:
    """Folders with files in them, and whether there is any file."""
    try:
        paths = [path for path in sorted(root.iterdir()) if not folders.is_litter(path.name)]
    except OSError as error:
        raise InputError(f"{root} can't be listed: {error.strerror}.", "Check its permissions.") from error
    found = [path for path in paths if path.is_dir()]
    names = [path.name for path in found if folders.holds_files(path)]
    return names, bool(names) or len(paths) > len(found)


def _first_two(labels: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for label in labels:
        found |= {label} if label else set()
        if len(found) > 1:
            break
    return found


def _s3_root(source: str) -> str:
    return source.rstrip("/") + "/"


def _annotated(source: str) -> Iterator[RawRecord]:
    for uri, label, fault in annotations.annotated(places.place(source)):
        yield RawRecord(uri, label, fault=fault)


def _s3_folder(source: str) -> Iterator[RawRecord]:
    from components.core.storage import s3

    root = _s3_root(source)
    objects = s3.list_objects(root)
    first = [*islice(objects, s3.PAGE)]  # which one request gives; most folders have no more
    shown = annotations.show_annotations(uri.removeprefix(root) for uri, *_ in first)
    if shown or (len(first) == s3.PAGE and annotations.is_annotated(places.place(source))):
        yield from _annotated(source)
        return
    for uri, size, etag in chain(first, objects):
        parts = uri.removeprefix(root).split("/")
        if parts[-1] and not any(map(folders.is_litter, parts)):  # a key that ends with a slash marks a folder
            yield RawRecord(uri, _folder_label(parts[0]) if len(parts) > 1 else "", size=size, etag=etag)


def _s3_folders(source: str) -> tuple[list[str], bool]:
    from components.core.storage import s3

    root = _s3_root(source)
    names = sorted(name for name in s3.list_folders(root) if not folders.is_litter(name))
    return names, bool(names) or next(_s3_folder(source), None) is not None


def _s3_subfolders(source: str) -> folders.Subfolders:
    from components.core.storage import s3

    def look(name: str) -> tuple[set[str], bool]:
        place = f"{_s3_root(source)}{name}/"
        below = {inner for inner in s3.list_folders(place) if not folders.is_litter(inner)}
        page = (uri.removeprefix(place) for uri, _, _ in islice(s3.list_objects(place), 1000))
        return below, any(rest and "/" not in rest and not folders.is_litter(rest) for rest in page)

    return look


def _manifest(source: str, *, labeled: bool = True) -> Iterator[RawRecord]:
    if source.startswith("s3://"):
        from components.core.storage import s3

        base, file = source.rpartition("/")[0], cast("BinaryIO", BytesIO(s3.read_bytes(source)))
    else:
        path = _path(source)
        base, file = str(path.parent), _opened(path, source)
    with file:
        for number, row in enumerate(tables.read_rows(file, source), start=1):
            if number == 1:
                _check_columns(row, source, labeled=labeled)
            yield _entry(row, base, source, number)


def _opened(path: Path, source: str) -> BinaryIO:
    try:
        if not path.is_file():
            raise InputError(f"{source} is not a file.", LAYOUT)  # a pipe would wait for a writer for ever
        return path.open("rb")
    except OSError as error:
        raise tables.cannot_open(source, error) from error


def _check_columns(row: Mapping[str, Any], source: str, *, labeled: bool) -> None:
    missing = ["label"] if labeled and "label" not in row else []
    if not any(name in row for name in ("uri", *INLINE)):
        missing.insert(0, "uri")
    if missing:
        hint = (
            "Name the columns uri (or text, for records that are in the manifest itself) and label; split, group and "
            "others may follow."
        )
        if {"user", "item"} <= {str(name).removesuffix("_id") for name in row}:
            hint = "If it is a table of interactions, use --task recommendation."
        raise InputError(
            f"The manifest {source} has no column {missing[0]!r} (it has {', '.join(map(str, row)) or 'none'}).", hint
        )


def _entry(row: Mapping[str, Any], base: str, source: str, number: int) -> RawRecord:
    place = f"{source}{ROW}{number}"
    if tables.FAULT in row:
        return RawRecord(place, "", fault=row[tables.FAULT])
    inline = "" if "uri" in row else next((name for name in INLINE if name in row), "")
    values = {name: printable(tables.as_text(value).strip()) for name, value in row.items() if name and name != inline}
    uri = values.pop("uri", "")
    label, split, group = (as_label(values.pop(name, "")) for name in ("label", "split", "group"))
    metadata = {name: value for name, value in values.items() if value}
    if inline:
        value = row[inline]
        own = value if isinstance(value, bytes) else printable(tables.as_text(value)).encode()
        return RawRecord(place, label, split, group, metadata, content=own)
    if not uri or not isinstance(row["uri"], str):
        fault = f"uri is not text: row {number} has {tables.kind(row['uri'])}" if uri else f"no uri: row {number}"
        return RawRecord(place, label, split, group, metadata, fault=fault)
    if "@" in uri and hidden(uri) != uri:
        return RawRecord(place, label, split, group, metadata, fault=f"uri contains a login: row {number}")
    return RawRecord(_located(uri, base), label, split, group, metadata)


def _located(uri: str, base: str) -> str:
    """A manifest's uri as a path or an address; relative ones are below the manifest's folder."""
    if uri.startswith("file://"):
        return unquote(urlsplit(uri).path)
    return uri if "://" in uri or uri.startswith("/") else f"{base}/{uri}"
