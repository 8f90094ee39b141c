"""Read a table of interactions (user, item, time) as records: what a user did, and what came next.

Equal times say nothing about the order, so the items of a user that share one are ordered by a hash of user and item:
the same in every export of the data, and no hint for a network that learns from the order. Of an item that a user has
several times, the first one counts.
"""

import hashlib
import math
from bisect import bisect
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias, cast

from components.core.digests import canonical_json
from components.core.errors import InputError
from components.core.sources import tables
from components.core.sources.raw_records import MANIFESTS, ROW, RawRecord, printable

Rule: TypeAlias = Literal["time", "last"]
COLUMNS = {  # ours, and what they may be called
    "user": ("user", "user_id"),
    "item": ("item", "item_id"),
    "time": ("time", "timestamp"),
}
FEATURE = "item_"  # what the name of a column with features of the items begins with
SEPARATOR = "|"  # between several features in a cell
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}  # of the interactions, in the order of their times
LAYOUT = "Use a CSV or Parquet file with the columns user, item and time; rating and item_… are optional."
_PARTS = tuple(SHARES)


class _Row(NamedTuple):
    """One usable interaction."""

    user: str
    item: str
    time: float  # seconds since the epoch, or whatever number the table has
    features: tuple[str, ...] = ()  # of the item

    def order(self) -> tuple[float, bytes]:
        """Sort by time, and equal times by a hash."""
        return self.time, hashlib.sha256(canonical_json([self.user, self.item]).encode()).digest()


@dataclass(frozen=True)
class _Table:
    """The content of a table."""

    users: Mapping[str, Sequence[_Row]]  # in order, each item once
    faults: Sequence[RawRecord]
    features: Mapping[str, Sequence[str]]  # of items that have any


def records(
    source: str, rule: Rule, window: int, least_rating: float = -math.inf, before: str = ""
) -> Iterator[RawRecord]:
    """Yield the records of a table of interactions, always in the same order; see `docs/recommendation.md`.

    Args:
        source: A CSV, JSON lines or Parquet file, or s3://….
        rule: `time` cuts all interactions at two moments into train, validation and test; `last` takes the last one of
            each user for the test, and the one before for validation.
        window: Items of a history that the network sees.
        least_rating: Interactions with a lower rating are passed over.
        before: A time as in the table; interactions at that time or later are passed over. Empty: all count.

    Raises:
        InputError: It can't be read, lacks a column, or has too few interactions.
    """
    table = _read(source, least_rating, moment(before) if before else math.inf)
    yield from table.faults
    rows = [row for own in table.users.values() for row in own]
    if 0 < len(table.faults) >= len(rows):
        return  # their share is refused, with reasons, and the times of the rest tell little
    _check_items({row.item for row in rows}, source, least_rating, before)
    cuts = _cuts([row.time for row in rows], source) if rule == "time" else []
    parts = {
        user: [_PARTS[bisect(cuts, row.time)] for row in own] if rule == "time" else _last(len(own))
        for user, own in sorted(table.users.items())
    }
    _check_parts(parts, source, rule)
    for user, own in parts.items():
        yield from _of_user(source, user, table.users[user], own, window, table.features)


def _check_items(items: Collection[str], source: str, least_rating: float, before: str) -> None:
    if not items:
        limits = {
            "least_rating": f" with a rating of at least {least_rating:g}" if least_rating > -math.inf else "",
            "before": f" before {before}" if before else "",
        }
        options = " or ".join(f"--option {name}" for name, text in limits.items() if text)
        hint = f"Use another {options}, or leave it out." if options else LAYOUT
        raise InputError(f"{source} holds no interactions{''.join(limits.values())}.", hint)
    if len(items) == 1:
        raise InputError(
            f"All interactions of {source} are with one item, {next(iter(items))!r}: there is nothing to choose from.",
            "Add interactions with other items.",
        )


def _check_parts(parts: Mapping[str, Sequence[str]], source: str, rule: Rule) -> None:
    for part, least, purpose in (("train", 1, "train on"), ("validation", 2, "validate with"), ("test", 1, "test on")):
        count = sum(part in own for own in parts.values())
        if count < least:  # half of those who validate calibrate
            raise InputError(
                f"{count} of the {len(parts)} users of {source} have an interaction to {purpose}, and at least {least} "
                "are needed.",
                "A user with three items trains, validates and tests: add interactions."
                if rule == "last"
                else "Add interactions, or use --option split=last.",
            )


def asked_at_once(window: int) -> int:
    """Return how many items a training record asks for."""
    return max(1, window // 2)


def check(source: str) -> None:
    """Refuse what is no table of interactions, by its name and its first row.

    Raises:
        InputError: It is missing, of another kind, or lacks a column.
    """
    if not source.lower().endswith(MANIFESTS) or ("://" not in source and not _path(source).is_file()):
        if "://" in source or _path(source).exists():
            raise InputError(f"{source} is not a table of interactions.", LAYOUT)
        raise InputError(f"There is no file {source!r}.", "Check the path.")
    if "://" not in source:
        with _path(source).open("rb") as file:
            first = next(iter(tables.read_rows(file, source)), None)
        if first is None:
            raise InputError(f"{source} holds no interactions.", LAYOUT)
        _named(first, source)


def _of_user(
    source: str,
    user: str,
    rows: Sequence[_Row],
    parts: Sequence[str],
    window: int,
    features: Mapping[str, Sequence[str]],
) -> Iterator[RawRecord]:
    """Training records, then one of each other part: its last item, and all before it.

    A training record asks for half a window of items at most, so that each of them has as many before it where the
    user has them: asked for a whole window, most are predicted from less than the network will see. Windows are laid
    from the beginning, so that those which are full stay the same records when more items come. The features of the
    items that follow are in the record, not those of the history, which are in others.
    """
    items, trained = [row.item for row in rows], parts.count("train")
    new = not trained
    step = asked_at_once(window)
    spans = [("train", begin, min(begin + step, trained)) for begin in range(0, trained, step)]
    for part in _PARTS[1:]:
        if part in parts:
            end = len(parts) - [*reversed(parts)].index(part)
            spans.append((part, end - 1, end))
    ends = [0, *(end for _, _, end in spans)]
    for (part, begin, end), before in zip(spans, ends, strict=False):
        first = max(0, end - 1 - window) if part == "train" else 0
        moments = (
            list(accumulate(int(a.time != b.time) for a, b in pairwise(rows[first:end]))) if part == "train" else []
        )
        known = {item: list(features[item]) for item in items[begin:end] if item in features}
        content = {
            "at": begin,
            **({"features": known} if known else {}),
            "items": items[first : end - 1],
            **({"moments": [0, *moments]} if part == "train" else {}),
            "split": part,
            "user": user,
        }
        yield RawRecord(
            f"{source}#user={printable(user)}&items={begin + 1}-{end}",
            canonical_json({"items": items[begin:end], **({"new": True} if new else {})}),
            split=part,
            metadata={"users": "new" if new else "old"},
            content=canonical_json(content).encode(),
            rows=end - before,
        )


def _last(count: int) -> list[str]:
    """Of so many interactions the last one tests, the one before validates; one alone, or the first of two, trains."""
    tested, validated = int(count > 1), int(count > 2)  # noqa: PLR2004 - what is left must train
    return ["train"] * (count - tested - validated) + ["validation"] * validated + ["test"] * tested


def _cuts(times: Sequence[float], source: str) -> list[float]:
    """The moments at which validation and test begin; interactions of one time stay together."""
    order, cuts, share = sorted(times), list[float](), 0.0
    for part in _PARTS[:-1]:
        share += SHARES[part]
        cuts.append(order[min(len(order) - 1, round(len(order) * share))])
    if order[0] == cuts[0] or cuts[0] == cuts[1]:
        raise InputError(
            f"The {len(order)} interactions of {source} have too few different times ({len({*order})}) to tell what "
            "came later.",
            "Use finer times or more interactions, or --option split=last.",
        )
    return cuts


def _read(source: str, least_rating: float, before: float) -> _Table:
    check(source)
    found: dict[str, list[_Row]] = defaultdict(list)
    faults, names = list[RawRecord](), dict[str, str]()
    with _opened(source) as file:
        for number, row in enumerate(tables.read_rows(file, source), start=1):
            names = names or _named(row, source)
            try:
                read = _row(row, names, least_rating, before)
            except ValueError as error:
                faults.append(RawRecord(f"{source}{ROW}{number}", "", fault=str(error)))
                continue
            if read is not None:
                found[read.user].append(read)
    users = {user: _once(sorted(own, key=_Row.order)) for user, own in found.items()}
    return _Table(users, faults, _features(row for own in users.values() for row in own if row.features))


def _features(rows: Iterable[_Row]) -> dict[str, Sequence[str]]:
    """The features of each item: those of its first interaction that has any, so that they stay when more come."""
    first: dict[str, _Row] = {}
    for row in rows:
        known = first.setdefault(row.item, row)
        if (row.time, row.features) < (known.time, known.features):
            first[row.item] = row
    return {item: row.features for item, row in first.items()}


def _once(rows: Sequence[_Row]) -> list[_Row]:
    first: dict[str, _Row] = {}
    for row in rows:
        first.setdefault(row.item, row)
    return list(first.values())


def _opened(source: str) -> BinaryIO:
    if not source.startswith("s3://"):
        return _path(source).open("rb")
    from components.core.storage import s3

    return cast("BinaryIO", BytesIO(s3.read_bytes(source)))


def _path(source: str) -> Path:
    return Path(source).expanduser().absolute()


def _named(row: Mapping[str, Any], source: str) -> dict[str, str]:
    """The table's own name of each column."""
    found = {name: [one for one in choices if one in row] for name, choices in COLUMNS.items()}
    if missing := next((name for name, own in found.items() if not own), ""):
        has = ", ".join(name for name in map(str, row) if name != tables.FAULT) or "none"
        raise InputError(f"{source} has no column {missing!r} (it has {has}).", LAYOUT)
    if double := next((own for own in found.values() if len(own) > 1), []):
        raise InputError(f"{source} has both {double[0]!r} and {double[1]!r}.", "Rename one of them.")
    columns = {name: own[0] for name, own in found.items()}
    optional = [name for name in row if name == "rating" or (name.startswith(FEATURE) and name != columns["item"])]
    return columns | {name: name for name in optional}


def _row(row: Mapping[str, Any], names: Mapping[str, str], least_rating: float, before: float) -> _Row | None:
    """One interaction; None where its rating is too low, or its time too late.

    Raises:
        ValueError: It can't be used; the message is the reason.
    """
    if tables.FAULT in row:
        raise ValueError(row[tables.FAULT])
    user, item = (printable(tables.as_text(row.get(names[name])).strip()) for name in ("user", "item"))
    if not user or not item:
        raise ValueError("no user" if not user else "no item")
    time = moment(row.get(names["time"]))
    if time >= before:
        return None
    if least_rating > -math.inf:
        rating = _number(tables.as_text(row.get(names.get("rating", ""), "")).strip(), "rating")
        if rating < least_rating:
            return None
    return _Row(user, item, time, tuple(_features_of(row, names)))


def _features_of(row: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    """The features in a row, each as `genre=Comedy`; a cell may hold several."""
    for name in names:
        if name.startswith(FEATURE):
            value = row.get(name)
            cells = value if isinstance(value, list) else tables.as_text(value).split(SEPARATOR)
            parts = (printable(tables.as_text(cell).strip()) for cell in cells)
            yield from (f"{name.removeprefix(FEATURE)}={part}" for part in parts if part)


def moment(value: Any) -> float:  # noqa: ANN401 - whatever a table holds
    """Seconds since the epoch of a number or of ISO 8601, which is UTC unless it says otherwise.

    Raises:
        ValueError: It is none; the message is the reason.
    """
    if isinstance(value, datetime):
        return _seconds(value)
    text = tables.as_text(value).strip()
    if not text:
        raise ValueError("no time")
    try:
        return _seconds(datetime.fromisoformat(text)) if "-" in text[1:] else _number(text, "time")
    except ValueError:
        raise ValueError(f"not a time: {text[:40]!r}") from None


def _seconds(at: datetime) -> float:
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _number(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"no {what}" if not text else f"not a {what}: {text[:40]!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"not a {what}: {text[:40]!r}")
    return number
