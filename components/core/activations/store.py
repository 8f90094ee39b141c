"""The disk that activations and exported stages take: what is there, a budget, and the least recently used first.

Nothing here imports torch, so that `thawline cache` answers at once.
"""

import contextlib
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from components.core.errors import InputError
from components.core.storage import home_folder
from components.core.storage.addresses import check_no_login

ENGINES = "engines"  # folder of exported stages, beside the spaces
DISK_RESERVE = 1 << 30  # bytes of the disk that stay free whatever the budget says
KEY, RECORD = 32, 36  # bytes of a key, and of its record in a segment's index
WRITING_SECONDS = 600.0  # seconds between two batches of a pass, at most
ABANDONED_SECONDS = 3600.0  # seconds after which nobody works in a hidden folder any more
_DIGEST = re.compile(r"[0-9a-f]{32}")  # names of spaces and exports
MEASUREMENT_PREFIX = "measurement."  # how folders begin in which the plan measures the disk


@dataclass(frozen=True)
class Entry:
    """Something in the store that can be removed by itself: a segment, or exported stages."""

    folder: Path
    bytes: int
    last_used: float  # seconds since the epoch

    @property
    def is_export(self) -> bool:
        """Return whether these are exported stages."""
        return self.folder.parent.name == ENGINES


def store() -> Path:
    """The folder of all activations: `THAWLINE_ACTIVATIONS` if it names a folder, else one in the home."""
    given = os.environ.get("THAWLINE_ACTIVATIONS", "")
    return Path(given).expanduser() if given and "://" not in given else home_folder.home() / "activations"


def shared_prefix() -> str:
    """The S3 prefix that the store is synchronised with, without a slash at its end; empty if there is none.

    Raises:
        InputError: `THAWLINE_ACTIVATIONS` is an address, but none of a bucket.
    """
    given = os.environ.get("THAWLINE_ACTIVATIONS", "")
    if "://" not in given and not given.startswith("s3:"):
        return ""
    if not given.startswith("s3://") or not given.removeprefix("s3://").strip("/"):
        raise InputError(f"THAWLINE_ACTIVATIONS can't be {given!r}.", "Use a folder or s3://bucket/prefix.")
    check_no_login(given, "THAWLINE_ACTIVATIONS")
    return given.rstrip("/")


def entries(store: Path) -> list[Entry]:
    """Return everything in the store, least recently used first."""
    found = [Entry(path.parent, *_facts(path)) for path in _stamps(store)]
    return sorted(found, key=lambda entry: entry.last_used)


def spaces(store: Path) -> list[dict[str, Any]]:
    """A row per space for people: network, line, examples, bytes, engines and last use; the latest first."""
    found: dict[Path, list[Entry]] = {}
    for entry in entries(store):
        if not entry.is_export:
            found.setdefault(entry.folder.parent, []).append(entry)
    rows = []
    for space, segments in found.items():
        known, names = _read(space / "space.json"), {"weights_digest": "", "line": 0, "stages": 0, "precision": ""}
        facts = {name: known[name] if type(known.get(name)) is type(none) else none for name, none in names.items()}
        keys: set[bytes] = set()
        for segment in segments:
            with contextlib.suppress(OSError):  # evicted just now
                keys.update(keys_in((segment.folder / "index").read_bytes()))
        rows.append(
            {
                **known,
                **facts,
                "space": space.name,
                "examples": len(keys),
                "bytes": sum(segment.bytes for segment in segments),
                "engines": sorted({str(_read(s.folder / "segment.json").get("engine", "?")) for s in segments}),
                "last_used": max(segment.last_used for segment in segments),
            }
        )
    return sorted(rows, key=lambda row: -float(row["last_used"]))


def keys_in(index: bytes) -> Iterator[bytes]:
    """The keys in a segment's index; half a record at its end is left out."""
    return (index[i : i + KEY] for i in range(0, len(index) - RECORD + 1, RECORD))


def inside(folder: Path) -> list[Path]:
    """List what a folder holds, hidden files aside; nothing if it is none or was just removed, where a glob fails."""
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def free_for(store: Path, budget: float, protected: Collection[Path]) -> float:
    """Bytes that may be added: what the budget and the disk leave once all that is not protected was evicted."""
    store.mkdir(parents=True, exist_ok=True)
    kept = taken = 0
    for entry in entries(store):
        taken += entry.bytes
        kept += entry.bytes if entry.folder.parent in protected else 0
    disk = shutil.disk_usage(store).free - DISK_RESERVE + taken - kept
    return min(budget - kept, disk)


def make_room(store: Path, needed: float, budget: float, protected: Collection[Path] = ()) -> list[Entry]:
    """Remove what was used longest ago until `needed` more bytes fit into the budget and on the disk.

    Args:
        store: Folder of all activations.
        needed: Bytes about to be written.
        budget: Most bytes that the store may take.
        protected: Spaces that stay: they are in use.

    Returns:
        What was removed.
    """
    removed = _surplus(store, needed, budget, protected)
    for entry in removed:
        remove(entry.folder)
    return removed


def prune(store: Path, budget: float, older_than: float = math.inf, *, dry_run: bool = False) -> list[Entry]:
    """Remove what was not used for `older_than` seconds, then the least recently used beyond `budget` bytes.

    Returns:
        What was removed; with `dry_run` what would be.
    """
    chosen = _surplus(store, 0, budget, older_than=older_than)
    if not dry_run:
        for entry in chosen:
            remove(entry.folder)
        for facts in store.glob("*/space.json"):
            if not any(facts.parent.glob("*/segment.json")):
                facts.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # not empty: a process begins a segment just now
                    facts.parent.rmdir()
    return chosen


def remove(folder: Path) -> None:
    """Remove a segment or an export; who has it open keeps reading it."""
    gone = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        folder.rename(gone)  # at once: half of it is never seen
    except FileNotFoundError:
        return  # another process was faster
    shutil.rmtree(gone, ignore_errors=True)


def sweep(store: Path, *, dry_run: bool = False) -> int:
    """Remove what killed processes left: half removals and downloads, half exports, locks of what is gone.

    A lock that is held stays, and so does what it protects; and what bears no name of ours, since
    `THAWLINE_ACTIVATIONS` may name a folder with other things in it.

    Returns:
        How many there were; locks, which are empty, don't count.
    """
    ours = [path for path in store.glob("[!.]*") if path.name == ENGINES or _DIGEST.fullmatch(path.name)]
    hidden = [path for one in ours for path in one.glob(".*") if path.name.count(".") > 1]  # NFS has its own
    hidden += [path for path in store.glob(f"{MEASUREMENT_PREFIX}*") if path.is_dir()]
    hidden = [path for path in hidden if _newest(path) < time.time() - ABANDONED_SECONDS]
    parts = [path for path in (store / ENGINES).glob("*.part") if _DIGEST.fullmatch(path.stem)]
    if dry_run:
        return len(hidden) + sum(not _held(path.with_suffix(".lock")) for path in parts)
    for path in hidden:
        path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path, ignore_errors=True)
    removed = sum(_swept(path) for path in parts)
    for path in (*store.glob("*.lock"), *(store / ENGINES).glob("*.lock")):
        if _DIGEST.fullmatch(path.stem) and not path.with_suffix("").exists():
            with contextlib.suppress(Timeout, OSError), FileLock(path, timeout=0):
                path.unlink()  # who waits for it looks for the file again
    return len(hidden) + removed


def _swept(part: Path) -> bool:
    """Remove half an export under its lock, so that nobody begins to write it meanwhile; False where one writes it."""
    with contextlib.suppress(Timeout, OSError), FileLock(part.with_suffix(".lock"), timeout=0):
        shutil.rmtree(part, ignore_errors=True)
        return True
    return False


def _surplus(
    store: Path, needed: float, budget: float, protected: Collection[Path] = (), older_than: float = math.inf
) -> list[Entry]:
    found = entries(store)
    total = sum(entry.bytes for entry in found)
    disk = shutil.disk_usage(store).free - DISK_RESERVE if store.exists() else needed
    now, chosen = time.time(), []
    writing = any(_held(lock) for lock in store.glob("[!.]*.lock"))
    for entry in found:
        if total + needed <= budget and needed <= disk and entry.last_used >= now - older_than:
            break
        busy = writing and not entry.is_export and _newest(entry.folder / "index") > now - WRITING_SECONDS
        if entry.folder.parent not in protected and not busy:
            total, disk = total - entry.bytes, disk + entry.bytes
            chosen.append(entry)
    return chosen


def _held(lock: Path) -> bool:
    """Return whether a process holds a lock."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except (Timeout, OSError):  # or another user's
        return True


def _newest(path: Path) -> float:
    """Return when a file, or anything in a folder, was last written; 0 if it is gone."""
    newest = 0.0
    with contextlib.suppress(FileNotFoundError):  # a folder that is removed just now
        for one in (path, *path.rglob("*")):
            with contextlib.suppress(OSError):
                newest = max(newest, one.stat().st_mtime)
    return newest


def _stamps(store: Path) -> Iterator[Path]:
    for space in inside(store):
        if not space.name.startswith(MEASUREMENT_PREFIX):
            name = "facts.json" if space.name == ENGINES else "segment.json"
            yield from (folder / name for folder in inside(space) if any(one.name == name for one in inside(folder)))


def _facts(stamp: Path) -> tuple[int, float]:
    try:
        return _size(stamp.parent), stamp.stat().st_mtime
    except FileNotFoundError:  # another process evicts too
        return 0, 0.0


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if it is gone or damaged."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    return {}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
