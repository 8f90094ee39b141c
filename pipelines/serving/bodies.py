"""From the body of a request to records, and why there are none."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

RAW = ("image/", "audio/", "text/plain", "application/octet-stream")  # one record, as it is
BODY_SECONDS = 60.0  # that a client may take to send a body
FORMS = "dataframe_records, dataframe_split, inputs, instances"


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: Of HTTP.
        sentence: Why. It never holds what was sent.
        records: Reasons by the record's number in the request, from 0.
    """

    def __init__(self, status: int, sentence: str, records: dict[int, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.records = status, sentence, records or {}


async def read(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Raises:
        RefusedError: It is larger than `limit` bytes, or does not come.
    """
    too_large = RefusedError(413, f"The body is larger than {limit / 2**20:g} MB. Send fewer records at a time.")
    if (length := request.headers.get("content-length", "")).isdecimal() and int(length) > limit:
        raise too_large
    parts, total = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                total += len(part)
                if total > limit:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise RefusedError(408, f"The body did not come within {BODY_SECONDS:.0f} seconds.") from None
    except ClientDisconnect:
        raise RefusedError(400, "The body ended before its end.") from None
    return b"".join(parts)


def records(body: bytes, kind: str, column: str) -> list[Any]:
    """Return the records of a body: bytes, or what stands for a record in JSON.

    Args:
        body: A record itself, or JSON in one of the forms of MLflow's server.
        kind: Its content type.
        column: The name of records in JSON.

    Raises:
        RefusedError: There are none.
    """
    if kind.startswith(RAW):
        return [body]
    if kind != "application/json":
        said = f"The content type {kind} is" if kind.isprintable() and len(kind) < 100 else "That content type is"  # noqa: PLR2004 - no type is longer
        raise RefusedError(
            415,
            f"{said if kind else 'A body without a content type is'} not supported. Send one record with its own, such "
            "as image/png, audio/wav or text/plain, or as application/octet-stream; or several as application/json.",
        )
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        place = f" at byte {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise RefusedError(400, f"The body is not JSON{place}.") from None
    found = _listed(request, column)
    if not found:
        raise RefusedError(400, "The request holds no record.")
    if bad := {i: "a record is bytes or text, not a list" for i, one in enumerate(found) if isinstance(one, list)}:
        raise unanswered(bad, len(found))
    return found


def unanswered(reasons: dict[int, str], total: int) -> RefusedError:
    """Return the refusal of a request some of whose records can't be answered."""
    return RefusedError(400, f"{len(reasons)} of {total} records can't be answered (counted from 0).", reasons)


def _listed(request: Any, column: str) -> list[Any]:  # noqa: ANN401 - any JSON
    """The records of a request in one of MLflow's forms."""
    match request:
        case {"dataframe_split": {"columns": list(columns), "data": list(rows)}}:
            if column not in columns:
                raise RefusedError(400, f"There is no column {column!r} in the request.")
            place = columns.index(column)
            if bad := {i: "too few cells" for i, row in enumerate(rows) if not _has_cell(row, place)}:
                raise unanswered(bad, len(rows))
            return [row[place] for row in rows]
        case {"inputs": dict(named)} if column in named:
            return named[column] if isinstance(named[column], list) else [named[column]]
        case {"dataframe_records": list(rows)} | {"inputs": list(rows)} | {"instances": list(rows)}:
            return _cells(rows, column, bare="dataframe_records" not in request)
    raise RefusedError(400, f"The JSON is in none of these forms, with a column {column!r}: {FORMS}.")


def _has_cell(row: Any, place: int) -> bool:  # noqa: ANN401 - any JSON
    return isinstance(row, list) and len(row) > place


def _cells(rows: Sequence[Any], column: str, *, bare: bool) -> list[Any]:
    """The record of each row; where they may stand `bare`, a row may be the record itself."""
    found, bad = list[Any](), dict[int, str]()
    for i, row in enumerate(rows):
        if isinstance(row, dict) and column in row:
            found.append(row[column])
        elif bare and (not isinstance(row, dict) or [*row] == ["b64"]):
            found.append(row)
        else:
            bad[i] = f"no column {column!r}"
    if bad:
        raise unanswered(bad, len(rows))
    return found
