"""Predict for any number of records into a Parquet file, in parts, so that a run that was ended goes on.

A part holds `PART` records in the order of the source. It is written whole or not at all, beside the file, and names
its records and its version: a part of other records or of another version is computed again.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from components.core.errors import InputError
from pipelines.predictions.prediction import Record, answered, opened

if TYPE_CHECKING:
    import pyarrow as pa

PART = 4096  # records of a part, and of a row group of the file
MODEL = b"thawline"  # the key of the model and version in the file's metadata


@dataclass(frozen=True)
class Written:
    """The outcome of predicting into a file."""

    version: str
    records: int
    unanswered: int
    kept: int  # records of parts of an earlier run
    reasons: Mapping[str, int]  # how many records have each reason


def write(model: str, wanted: str, records: Iterable[Record], target: Path, console: Console) -> Written:
    """Write a row for each record into a Parquet file: record, columns of the answer, reason and version.

    Raises:
        InputError: The file is there already, another run writes it, or there is no such model, version or record.
        StepError: The version's files are not what was registered.
    """
    if target.exists():
        raise InputError(f"{target} is there already.", "Remove it, or choose another file with --out.")
    served, version = opened(model, wanted)
    schema, parts = _schema(served, model, version), target.with_name(f"{target.name}.parts")
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{parts} can't be made: {error.strerror}.", "Choose another file with --out.") from error
    try:
        with FileLock(parts / "lock", timeout=0):
            written = _write_parts(served, schema, records, parts, console)
            if not written:
                shutil.rmtree(parts)
                raise InputError("There is nothing to predict.", "Use paths of files, a folder, s3://…, - or --text.")
            counts = _merge(written, schema, target)
    except Timeout:
        raise InputError(f"Another run writes {target}.", "Wait for it, or choose another file with --out.") from None
    shutil.rmtree(parts)
    kept = sum(count for count, is_kept in written.values() if is_kept)
    total = sum(count for count, _ in written.values())
    return Written(version, total, sum(counts.values()), kept, counts)


def _write_parts(
    served: Any,  # noqa: ANN401 - mlflow publishes no types
    schema: "pa.Schema",
    records: Iterable[Record],
    folder: Path,
    console: Console,
) -> dict[Path, tuple[int, bool]]:
    """Write the parts that are not there; return all in order, each with its records and whether it was there."""
    import pyarrow.parquet as pq

    found: dict[Path, tuple[int, bool]] = {}
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("records", total=None)
        for number, some in enumerate(_parts(records)):
            path = folder / f"{number:08}.parquet"
            found[path] = len(some), _holds(path, some, schema)
            if not found[path][1]:
                part = path.with_suffix(".part")
                pq.write_table(_table(served, some, schema), part)
                part.replace(path)
            progress.advance(task, len(some))
    return found


def _parts(records: Iterable[Record]) -> Iterator[Sequence[Record]]:
    rest = iter(records)
    while some := list(islice(rest, PART)):
        yield some


def _table(served: Any, records: Sequence[Record], schema: "pa.Schema") -> "pa.Table":  # noqa: ANN401 - as above
    import pyarrow as pa

    version = json.loads(schema.metadata[MODEL])["version"]
    rows = []
    for record, said in answered(served, records):
        answer = {"reason": said} if isinstance(said, str) else said
        rows.append({"record": record.printable(), "version": version, **answer})
    return pa.Table.from_pylist(rows, schema)


def _holds(path: Path, records: Sequence[Record], schema: "pa.Schema") -> bool:
    """Return whether a part exists for these records and this version."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            found = (
                file.schema_arrow
            )  # its fields carry numbers of Parquet's, so only the whole's metadata are compared
            same = found.equals(schema) and (found.metadata or {}).get(MODEL) == schema.metadata[MODEL]
            names = file.read(["record"])["record"].to_pylist() if same else []
    except (OSError, pa.ArrowInvalid):
        return False
    return same and names == [record.printable() for record in records]


def _merge(parts: Iterable[Path], schema: "pa.Schema", target: Path) -> dict[str, int]:
    """Write the parts into one file, a row group each; return the reasons of what is not answered."""
    import pyarrow.parquet as pq

    whole, reasons = target.with_name(f"{target.name}.whole"), dict[str, int]()
    with pq.ParquetWriter(whole, schema) as writer:
        for path in parts:
            table = pq.read_table(path, schema=schema)
            for reason in table["reason"].drop_null().to_pylist():
                reasons[reason] = reasons.get(reason, 0) + 1
            writer.write_table(table)
    whole.replace(target)
    return reasons


def _schema(served: Any, model: str, version: str) -> "pa.Schema":  # noqa: ANN401 - mlflow publishes no types
    import pyarrow as pa

    from components.core.tracking import pyfunc

    types = {"record": pa.string(), **pyfunc.arrow_types(served), "reason": pa.string(), "version": pa.string()}
    return pa.schema(types, {MODEL: json.dumps({"model": model, "version": version}).encode()})
