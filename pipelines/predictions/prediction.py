"""Predict for many records with a registered model: files, folders, objects on S3, a list of them, or text."""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from components.core.errors import InputError, RejectedRecord
from components.core.sources import folders, raw_records
from components.core.storage.csv_text import as_cell

BOXES = {"boxes", "labels", "scores", "sure"}  # columns of an answer with boxes
READERS = 8  # of files and objects at a time: S3 takes its time to answer
STDIN = "-"  # instead of a file: a list of them on standard input, one a line


@dataclass(frozen=True)
class Record:
    """One record to predict for."""

    kind: str  # file or text
    name: str  # its path, or the text itself
    read: Callable[[], bytes]  # raises RejectedRecord if it can't be read

    def shown(self) -> dict[str, str]:
        """Return the columns that identify the record in the output."""
        return {self.kind: self.printable()}

    def printable(self) -> str:
        """Return the name as a table may hold it."""
        return raw_records.printable(self.name)


def listed(files: Sequence[str], texts: Sequence[str], lines: Iterable[bytes]) -> list[Record]:
    """Return the requested records in order; a folder or an S3 prefix means all files in it.

    Args:
        files: Paths, s3:// addresses, or `-` for those in `lines`.
        texts: Records themselves.
        lines: What standard input holds; read only if it is asked for.

    Raises:
        InputError: There is nothing to answer, or what was named is not there.
    """
    found = [*streamed(files, texts, lines)]
    if not found:
        raise InputError("There is nothing to predict.", "Use paths of files, a folder, s3://…, - or --text.")
    return found


def streamed(
    files: Sequence[str], texts: Sequence[str], lines: Iterable[bytes], *, tables: bool = False
) -> Iterator[Record]:
    """Yield what `listed` returns, one after another, always in the same order.

    With `tables`, a manifest that is named is its records; the column `label` is not needed.

    Raises:
        InputError: What was named is not there.
    """
    for file in files:
        if file == STDIN:
            named = (os.fsdecode(line).rstrip("\r\n") for line in lines)
            yield from (record for line in named if line.strip() for record in _below(line, strict=False))
        elif tables and file.lower().endswith(raw_records.MANIFESTS) and not Path(file).is_dir():
            yield from (_entry(entry) for entry in raw_records.list_unlabeled(file))
        else:
            yield from _below(file, strict=True)
    yield from (Record("text", text, partial(os.fsencode, text)) for text in texts)


def split_name(model: str) -> tuple[str, str]:
    """Return the name and the alias or version of NAME, NAME@alias or NAME/version; the default alias is champion."""
    name, _, wanted = model.replace("/", "@").partition("@")
    return name, wanted or "champion"


def opened(model: str, wanted: str) -> tuple[Any, str]:
    """Return a served model of the registry, loaded after a check, and its version.

    Raises:
        InputError: There is no such model or version.
        StepError: Its files are not what was registered.
    """
    from components.core.registry import versions
    from components.core.tracking import pyfunc
    from components.core.tracking.service import connection

    connection.open_store()
    with tempfile.TemporaryDirectory() as folder:
        path, version = versions.fetch(model, wanted, Path(folder))
        return pyfunc.load_pyfunc(path), version


def answer(model: str, wanted: str, records: Sequence[Record], *, as_json: bool, draw: Path | None = None) -> bool:
    """Print a version's predictions, one per line or all as one JSON object; return whether all records had one.

    With `draw`, pictures with their confident boxes are written into that folder.

    Raises:
        InputError: There is no such model or version, or it answers without boxes, which `draw` needs.
        StepError: Its files are not what was registered.
    """
    console, rows, bad = Console(stderr=True), [], []
    served, version = opened(model, wanted)
    if draw:
        _check_boxes(served, model, draw)
    for place, (record, said) in enumerate(answered(served, records, console)):
        if draw and not isinstance(said, str):
            _draw(record, said, draw / f"{place:05}-{Path(record.name).stem}.jpg")
        if isinstance(said, str):
            bad.append({**record.shown(), "reason": said})
        elif as_json:
            rows.append({**record.shown(), **said})
        else:
            sys.stdout.write(as_line(record, said))
    if as_json:
        result = {"model": model, "version": version, "predictions": rows, "unanswered": bad}
        sys.stdout.write(json.dumps(result) + "\n")
    told = [f"{next(iter(one.values()))} can't be predicted: {one['reason']}." for one in bad]
    told += [f"{len(bad)} of {len(records)} records can't be answered."] if len(bad) > 1 else []
    for line in told:
        console.print(f"Error: {line}", style="red", highlight=False, markup=False, soft_wrap=True)
    return not bad


def as_line(record: Record, said: dict[str, Any]) -> str:
    """Return a record and its answer as a line of cells between tabs, none of which a spreadsheet runs."""
    return "\t".join(map(as_cell, [*record.shown().values(), *_cells(said)])) + "\n"


def _check_boxes(served: Any, model: str, folder: Path) -> None:  # noqa: ANN401 - mlflow publishes no types
    """Refuse to draw what has no boxes, and make the folder."""
    if not {*served.metadata.get_output_schema().input_names()} >= BOXES:
        raise InputError(f"{model} answers without boxes, so there is nothing to draw.", "Leave out --draw.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} can't be made: {error.strerror}.", "Use another folder with --draw.") from error


def _draw(record: Record, said: dict[str, Any], path: Path) -> None:
    from components.core.modalities.box_drawing import draw

    names = [f"{name} {score:.2f}" for name, score in zip(said["labels"], said["scores"], strict=True)]
    path.write_bytes(draw(record.read(), said["boxes"][: said["sure"]], names[: said["sure"]]))


def answered(
    served: Any,  # noqa: ANN401 - mlflow publishes no types
    records: Sequence[Record],
    console: Console | None = None,
) -> Iterator[tuple[Record, dict[str, Any] | str]]:
    """Yield each record with its prediction, or with the reason why there is none; show progress on a terminal."""
    from components.core.registry.serving import CHUNK, answer_some

    column = served.metadata.get_input_schema().input_names()[0]
    console = console or Console(quiet=True)
    with console.status(f"0 of {len(records)} records") as status, ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(records), CHUNK):
            some = records[start : start + CHUNK]
            contents = list(readers.map(_content, some))
            usable = [content for content in contents if isinstance(content, bytes)]
            said = iter(answer_some(served, column, usable))
            for record, content in zip(some, contents, strict=True):
                yield record, next(said) if isinstance(content, bytes) else content
            status.update(f"{start + len(some)} of {len(records)} records")


def _content(record: Record) -> bytes | str:
    try:
        return record.read()
    except RejectedRecord as error:
        return str(error)


def _entry(entry: raw_records.RawRecord) -> Record:
    return Record("file", entry.uri, partial(raw_records.content, entry))


def _table() -> bytes:
    raise RejectedRecord("a table, not a record")


def _below(name: str, *, strict: bool) -> Iterator[Record]:
    """Return the records at a path or address; a missing one is a bad record in a list, and bad usage otherwise."""
    if name.startswith("s3://"):
        yield from _objects(name, strict=strict)
        return
    path = Path(name).expanduser()
    if name.lower().endswith(raw_records.MANIFESTS) and path.is_file():
        if strict:
            raise InputError(
                f"{name} is a table, not a record.", "Pass its records as files, or its texts with --text."
            )
        yield Record("file", name, _table)
        return
    if path.is_dir():
        empty = True
        for file in folders.walk(path):
            empty = False
            yield _file(str(file))
        if strict and empty:
            raise InputError(f"The folder {name} contains no files.", "Check the paths.")
        return
    with contextlib.suppress(OSError, ValueError):  # a name that no file can have
        if strict and not path.exists():
            raise InputError(f"There is no file {name}.", "Check the paths.")
    yield _file(str(path))


def _objects(name: str, *, strict: bool) -> Iterator[Record]:
    from components.core.storage import s3

    place, found = name.rstrip("/"), 0
    for uri, _, _ in s3.list_objects(place):
        inside = uri.removeprefix(place)
        if inside and (not inside.startswith("/") or inside.endswith("/")):  # a name that goes on otherwise, a marker
            continue
        if not any(map(folders.is_litter, filter(None, inside.split("/")))):
            found += 1
            yield _file(uri)
    if not found and strict:
        raise InputError(f"There is nothing at {name}.", "Use the address of an object, or a prefix of several.")
    if not found:
        yield _file(name)


def _file(name: str) -> Record:
    return Record("file", name, partial(raw_records.read, name))


def _cells(said: dict[str, Any]) -> list[str]:
    """Return an answer as cells for the terminal; of boxes those that are sure, a cell for each."""
    if not said.keys() >= BOXES:
        return [*map(_cell, said.values())]
    rows = zip(said["labels"], said["scores"], said["boxes"], strict=True)
    found = [f"{name} {score:.3f} at {' '.join(f'{x:.0f}' for x in box)}" for name, score, box in rows]
    return found[: said["sure"]] or ["nothing that is sure"]


def _cell(value: Any) -> str:  # noqa: ANN401 - a cell of an answer
    """Return a cell as text for the terminal: all items of a list, the highest of figures by name."""
    if isinstance(value, dict):
        return f"{max(value.values(), default=0.0):.3f}"
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
