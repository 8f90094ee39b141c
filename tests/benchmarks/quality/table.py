"""The results of the quality benchmark as Markdown.

`python -m tests.benchmarks.quality.table .thawline/quality/quality.json …` shows all that files hold.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Record = Mapping[str, Any]
HEAD = "| data | contender | salts | accuracy | log loss | seconds | CPU seconds | thawing helped |"
OURS = "defaults"  # whose difference to all others is shown


def markdown(records: Sequence[Record]) -> str:
    """Return a table of every set, then of the differences to Thawline's defaults, and what was measured when."""
    lines = [HEAD, "|---" * 8 + "|"]
    for name in dict.fromkeys(record["data"] for record in records):
        lines += (row(name, some) for some in by_contender(records, name))
    lines += ["", *differences(records), "", about(records)]
    return "\n".join(lines)


def by_contender(records: Sequence[Record], name: str) -> Iterator[list[Record]]:
    """Yield the records of each contender on a set, in the order of the first."""
    mine = [record for record in records if record["data"] == name]
    for contender in dict.fromkeys(record["contender"] for record in mine):
        yield [record for record in mine if record["contender"] == contender]


def row(name: str, records: Sequence[Record]) -> str:
    """Return a line of the table: means and standard errors over the salts."""
    helped = [record["helped"] for record in records if record.get("helped") is not None]
    cells = [
        name,
        str(records[0]["contender"]),
        str(len(records)),
        spread([record["accuracy"] for record in records]),
        spread([record["log_loss"] for record in records]),
        *(f"{mean(record[name] for record in records):.0f}" for name in ("seconds", "cpu_seconds")),
        f"{sum(helped)} of {len(helped)}" if helped else "",
    ]
    return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float], sign: str = "") -> str:
    """Return a mean with its standard error, the latter where there are several values."""
    error = f" ± {stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.3f}{error}"


def differences(records: Sequence[Record]) -> list[str]:
    """Return a table of Thawline's defaults minus each other contender, paired within set and salt; empty without them.

    A set's standard error is that over its salts. In the line of all sets a set counts by its mean over the salts, so
    the standard error there is that over sets.
    """
    found = {(record["data"], record["salt"], record["contender"]): record for record in records}
    rows = []
    for other in dict.fromkeys(record["contender"] for record in records if record["contender"] != OURS):
        gains: dict[str, list[tuple[float, float]]] = {}
        for (data, salt, contender), record in found.items():
            ours = found.get((data, salt, OURS))
            if contender == other and ours is not None:
                pair = ours["accuracy"] - record["accuracy"], ours["log_loss"] - record["log_loss"]
                gains.setdefault(data, []).append(pair)
        rows += [_difference(other, data, pairs, _counted(len(pairs), "salt")) for data, pairs in gains.items()]
        means = [(mean(pair[0] for pair in pairs), mean(pair[1] for pair in pairs)) for pairs in gains.values()]
        rows += [_difference(other, "all", means, _counted(len(means), "set"))] if means else []
    return [f"| {OURS} minus | data | accuracy | log loss | over |", "|---" * 5 + "|", *rows] if rows else []


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)}"


def _difference(other: str, data: str, pairs: Sequence[tuple[float, float]], over: str) -> str:
    cells = [spread([pair[metric] for pair in pairs], "+") for metric in (0, 1)]
    return f"| {other} | {data} | {' | '.join(cells)} | {over} |"


def about(records: Sequence[Record]) -> str:
    """Say which revisions were measured, and when."""
    revisions = sorted({record["revision"][:12] for record in records})
    times = sorted(record["finished"] for record in records)
    salts = len({record["salt"] for record in records})
    return (
        f"Salts: {salts}. Revision {', '.join(revisions)}; {len(records)} runs between {times[0]} and {times[-1]} UTC."
    )


if __name__ == "__main__":
    found = [record for file in sys.argv[1:] for record in json.loads(Path(file).read_text()).values()]
    sys.stdout.write(f"{markdown(found)}\n")
