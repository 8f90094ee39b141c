"""What the DAG costs beside the steps' own work, step by step.

`python tests/benchmarks/overhead.py .thawline/runs/RUN_KEY` reads the events of a finished run and prints for each
step: the time since the step before (its process ends, kfp starts the next), imports, and the step's own work.
"""

import json
import sys
from pathlib import Path


def rows(folder: Path) -> list[tuple[str, float, float, float]]:
    """Name, then seconds since the step before, of imports and of work, for each step in order."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    times: dict[str, dict[str, float]] = {}
    for event in events:
        times.setdefault(event["step"], {}).setdefault(event["event"], event["time"])
    found = []
    previous = (folder / "settings.json").stat().st_mtime
    for name, at in times.items():
        started = at.get("started", at.get("working", previous))  # a step called as a plain function starts nothing
        working = at.get("working", started)
        ended = at.get("finished", at.get("failed", working))
        found.append((name, started - previous, working - started, ended - working))
        previous = ended
    return found


def main() -> None:
    """Print the table."""
    table = rows(Path(sys.argv[1]))
    print(f"{'step':<14}{'between':>9}{'imports':>9}{'work':>9}")
    for name, between, imports, work in table:
        print(f"{name:<14}{between:9.1f}{imports:9.1f}{work:9.1f}")
    sums = [sum(row[i] for row in table) for i in (1, 2, 3)]
    print(f"{'sum':<14}" + "".join(f"{value:9.1f}" for value in sums))
    print(f"overhead {sums[0] + sums[1]:.1f} s of {sum(sums):.1f} s, imports {sums[1]:.1f} s of it")


if __name__ == "__main__":
    main()
