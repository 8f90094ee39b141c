"""The disk that activations and exported stages take: what is there, a budget, and the least recently used first."""

import json
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core import segments

ENGINES = "engines"  # folder of exported stages, beside the spaces
RESERVE = 1 << 30  # bytes of the disk that stay free whatever the budget says


@dataclass(frozen=True)
class Entry:
    """Something in the store that can be removed by itself: a segment, or exported stages."""

    folder: Path
    bytes: int
    last_used: float  # seconds since the epoch


def entries(store: Path) -> list[Entry]:
    """Everything in the store, least recently used first."""
    found = [Entry(path.parent, *_facts(path)) for path in _stamps(store)]
    return sorted(found, key=lambda entry: entry.last_used)


def spaces(store: Path) -> list[dict[str, Any]]:
    """A row per space for people: network, line, examples, bytes, engines and last use; the newest first."""
    rows = []
    for facts in store.glob("*/space.json"):
        opened = segments.segments(facts.parent)
        if not opened:
            continue
        rows.append(
            {
                "space": facts.parent.name,
                **json.loads(facts.read_text()),
                "examples": len({key for segment in opened for key in segment.keys}),
                "bytes": sum(_size(segment.folder) for segment in opened),
                "engines": sorted({segment.engine for segment in opened}),
                "last_used": max(segments.last_used(segment.folder) for segment in opened),
            }
        )
    return sorted(rows, key=lambda row: -float(row["last_used"]))


def free_for(store: Path, budget: float, protected: Collection[Path]) -> float:
    """Bytes that may be added: what the budget and the disk leave once all that is not protected was evicted."""
    store.mkdir(parents=True, exist_ok=True)
    kept = taken = 0
    for entry in entries(store):
        taken += entry.bytes
        kept += entry.bytes if entry.folder.parent in protected else 0
    disk = shutil.disk_usage(store).free - RESERVE + taken - kept
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
    found = entries(store)
    total = sum(entry.bytes for entry in found)
    disk = shutil.disk_usage(store).free - RESERVE if store.exists() else needed
    removed = []
    for entry in found:
        if total + needed <= budget and needed <= disk:
            break
        if entry.folder.parent not in protected:
            segments.remove(entry.folder)
            total, disk = total - entry.bytes, disk + entry.bytes
            removed.append(entry)
    return removed


def prune(store: Path, budget: float, older_than: float) -> list[Entry]:
    """Remove what was not used for `older_than` seconds, then the least recently used beyond `budget` bytes."""
    old = [entry for entry in entries(store) if entry.last_used < time.time() - older_than]
    for entry in old:
        segments.remove(entry.folder)
    removed = [*old, *make_room(store, 0, budget)]
    for facts in store.glob("*/space.json"):
        if not any(facts.parent.glob("*/segment.json")):
            shutil.rmtree(facts.parent, ignore_errors=True)
    return removed


def _stamps(store: Path) -> Iterator[Path]:
    yield from store.glob("[!.]*/[!.]*/segment.json")
    yield from (store / ENGINES).glob("[!.]*/facts.json")


def _facts(stamp: Path) -> tuple[int, float]:
    try:
        return _size(stamp.parent), stamp.stat().st_mtime
    except FileNotFoundError:  # another process evicts too
        return 0, 0.0


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
