"""`thawline cache`: what kept activations take on the disk, and a way to take it back.

Nothing here imports torch, so the answer comes at once.
"""

import json
import math
import re
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from components.core.activations import store as cache
from components.core.activations.store import Entry
from components.core.errors import InputError
from components.core.settings import Settings
from pipelines.commands.options import HomeOption, JsonOption, use_home
from pipelines.commands.tables import table
from pipelines.terminal.surroundings import near

app = typer.Typer(help="List and remove cached activations.", no_args_is_help=True)
GIGABYTE = 1e9
HOURS = {"h": 1, "d": 24, "w": 24 * 7}
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
_AGES = ((86_400.0, "day"), (3600.0, "hour"), (60.0, "minute"))
_COLUMNS = ("network", "thaw line", "examples", "size", "precision", "engines", "last use")
_NUMBERS = ("examples", "size")  # columns that stand to the right


@app.command("list", epilog="Example: thawline cache list --json | jq .bytes")
def list_(
    *,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List cached activations by network and thaw line, the most recently used first, and their budget."""
    use_home(home)
    store = cache.store()
    spaces, found = cache.spaces(store), cache.entries(store)
    exports = [entry for entry in found if entry.is_export]
    total, budget = sum(entry.bytes for entry in found), _default_budget()
    if as_json:
        kept = {"count": len(exports), "bytes": sum(entry.bytes for entry in exports)}
        answer = {"store": str(store), "shared": cache.shared_prefix(), "spaces": spaces, "exports": kept}
        sys.stdout.write(json.dumps({**answer, "bytes": total, "budget": budget}) + "\n")
        return
    lines = table(_COLUMNS, [_row(space) for space in spaces] + ([_export_row(exports)] if exports else []), _NUMBERS)
    lines.append(f"{_size(total)} of a budget of {_size(budget)} in {near(str(store))}")
    if cache.shared_prefix():
        lines.append(f"Shared through {cache.shared_prefix()}, which is not counted here")
    sys.stdout.write("\n".join(lines) + "\n")


@app.command(
    epilog="Examples: thawline cache prune --max-gb 20; thawline cache prune --older-than 30d --dry-run; "
    "thawline cache prune --all"
)
def prune(
    *,
    home: HomeOption = None,
    max_gb: Annotated[
        float | None,
        typer.Option(help="Gigabytes to keep; the least recently used are removed first.", show_default="50"),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Also remove everything unused for this long: 12h, 30d or 8w.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove everything.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be removed, and remove nothing.")
    ] = False,
) -> None:
    """Remove cached activations and exports down to a budget; runs recompute what they need."""
    use_home(home)
    if everything and (max_gb is not None or older_than is not None):
        raise InputError("--all removes everything, whatever its size or age.", "Leave out --max-gb and --older-than.")
    if max_gb is not None and not max_gb >= 0:  # nor is NaN
        raise InputError(f"--max-gb can't be {max_gb:g}.", "Use a number of gigabytes, 0 or more.")
    age = math.inf if older_than is None else _seconds(older_than)
    budget = _default_budget() if max_gb is None else max_gb * GIGABYTE
    store = cache.store()
    try:
        removed = cache.prune(store, -1 if everything else budget, age, dry_run=dry_run)
        leftovers = cache.sweep(store, dry_run=dry_run)
    except OSError as error:
        raise InputError(
            f"{error.filename or store} can't be removed ({error.strerror}).", "Run this as its owner."
        ) from error
    verb = "Would remove" if dry_run else "Removed"
    exports = [entry for entry in removed if entry.is_export]
    rows = [entry for entry in removed if not entry.is_export]
    parts = [f"{_count(some, what)}, {_sum(some)}" for some, what in ((rows, "segment"), (exports, "export")) if some]
    parts += [f"{leftovers} leftover{'s' if leftovers > 1 else ''} of killed processes"] if leftovers else []
    stays = sum(entry.bytes for entry in cache.entries(store)) - (sum(e.bytes for e in removed) if dry_run else 0)
    what = "; ".join(parts) or "nothing"
    sys.stdout.write(f"{verb} {what}. {_size(stays)} {'would stay' if dry_run else 'stay'} in {near(str(store))}\n")


def _default_budget() -> float:
    return float(Settings.model_fields["cache_budget"].default) * GIGABYTE


def _seconds(duration: str) -> float:
    """A duration as 12h, 30d or 8w.

    Raises:
        InputError: It is none.
    """
    found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([hdw])", duration.strip(), re.ASCII)
    if found is None:
        raise InputError(f"--older-than can't be {duration!r}.", "Use hours, days or weeks: 12h, 30d or 8w.")
    return float(found[1]) * HOURS[found[2]] * 3600


def _row(space: dict[str, Any]) -> tuple[str, ...]:
    stages, line = space["stages"], space["line"]
    where = f"below stage {line + 1} of {stages}" if line < stages else "below the head" if stages else "unknown"
    return (
        space["weights_digest"][:8] or space["space"][:8],
        where,
        f"{space['examples']:,}",
        _size(space["bytes"]),
        space["precision"] or "unknown",
        ", ".join(space["engines"]),
        _age(space["last_used"]),
    )


def _export_row(exports: Sequence[Entry]) -> tuple[str, ...]:
    latest = max(entry.last_used for entry in exports)
    return (_count(exports, "export"), "", "", _sum(exports), "", "", _age(latest))


def _count(entries: Sequence[Entry], what: str) -> str:
    return f"{len(entries)} {what}{'s' if len(entries) > 1 else ''}"


def _sum(entries: Sequence[Entry]) -> str:
    return _size(sum(entry.bytes for entry in entries))


def _size(size: float) -> str:
    scale, unit = next(((scale, unit) for scale, unit in _UNITS if size >= scale), _UNITS[-1])
    return f"{size / scale:.{1 if scale > 1 else 0}f} {unit}"


def _age(moment: float) -> str:
    seconds = time.time() - moment
    for length, name in _AGES:
        if seconds >= length:
            number = int(seconds / length)
            return f"{number} {name}{'s' if number > 1 else ''} ago"
    return "just now"
