"""A simulated half year of weekly retraining, and the table of its decisions: `python -m tests.benchmarks.half_year`.

Points in the plane, in three rings that overlap, through all steps as plain functions, with a real MLflow store. The
data grow by 5% a week. In two weeks nothing changes, in one the labels of a class are damaged (in all splits, or with
`--damage train` in training only), from one on the recipe is really better, and otherwise the models are equal within
noise: each week has its own seed. The last lines say whether what should hold held.
"""

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from components.core import run_folder
from components.core.data import lineage_store
from components.core.data.lineage import Lineage
from components.core.registry import versions
from components.core.settings import Settings
from components.core.storage import home_folder
from components.core.tracking.service import local_store
from components.detect_changes import look
from components.finish import finish
from pipelines.commands.options import use_home
from tests.support.plain import run_steps

CLASSES, SPREAD, GROWTH, DAMAGED = 3, 0.25, 0.05, 0.7
THAWED = {"thaw_epochs": 30, "thaw_learning_rate": 2e-2, "layer_decay": 1.0}
WEAK: dict[str, Any] = {"head_solver": "sgd", "head_epochs": 30, "head_learning_rate": 3e-2, **THAWED, "thaw": 1}
STRONG = {**WEAK, "thaw": 3}


@dataclass(frozen=True)
class Week:
    """What happened in one week."""

    number: int
    kind: str  # first, equal, same, damaged or better
    status: str
    version: str
    promoted: bool
    champion: str  # after it
    accuracy: float
    moved: int  # examples that left the split they had
    seconds: float
    reason: str


def plan(weeks: int, same: Sequence[int], damaged: int, better: int) -> list[str]:
    """What each week brings; weeks count from 1."""
    special = {1: "first", damaged: "damaged", better: "better", **dict.fromkeys(same, "same")}
    return [special.get(week, "equal") for week in range(1, weeks + 1)]


def points(count: int) -> list[tuple[str, str]]:
    """The first `count` records of an endless series: content and label."""
    generator = np.random.default_rng(7)
    rows = generator.random((count, 4))  # drawn row by row: a longer series begins with the shorter one
    labels = (rows[:, 0] * CLASSES).astype(np.int64)
    angles, noise = 2 * np.pi * rows[:, 1], SPREAD * stats.norm.ppf(rows[:, 2:])
    places = 0.8 * (labels[:, None] + 0.5) * np.stack([np.cos(angles), np.sin(angles)], axis=1) + noise
    return [(f"{x:.6f},{y:.6f}", f"class{label}") for (x, y), label in zip(places, labels, strict=True)]


def write_source(folder: Path, count: int, wrong: Mapping[int, str]) -> Path:
    """The first `count` points as files and a manifest; `wrong` replaces labels by number."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["uri,label"]
    for number, (content, label) in enumerate(points(10_000)[:count]):
        path = folder / f"{number:05}.txt"
        if not path.exists():
            path.write_text(content)
        rows.append(f"{path.name},{wrong.get(number, label)}")
    (folder / "points.csv").write_text("\n".join(rows))
    return folder / "points.csv"


def damage(folder: Path, count: int, lineage: Lineage, where: str) -> dict[int, str]:
    """Another label for most points of one class, in all splits or in training only."""
    generator, found = np.random.default_rng(3), {}
    for number, (content, label) in enumerate(points(10_000)[:count]):
        known = lineage.members.get(hashlib.sha256(content.encode()).hexdigest())
        hit = label == "class0" and generator.random() < DAMAGED
        if hit and (where == "all" or (known is not None and known.split == "train")):
            found[number] = "class1"
    return found


def simulate(folder: Path, kinds: Sequence[str], start: int, where: str, **rules: Any) -> list[Week]:
    """Live through the weeks; THAWLINE_HOME becomes a folder below `folder`."""
    use_home(folder / "home")
    home_folder.home().mkdir(parents=True, exist_ok=True)
    local_store.migrate()
    found: list[Week] = []
    count, recipe, seed = float(start), WEAK, 0
    for number, kind in enumerate(kinds, start=1):
        count *= 1.0 if kind in ("first", "same") else 1 + GROWTH
        recipe = STRONG if kind == "better" else recipe
        seed = seed if kind == "same" else number
        before = lineage_store.previous_lineage("half-year")
        wrong = damage(folder, round(count), before, where) if kind == "damaged" else {}
        source = write_source(folder / "points", round(count), wrong)
        settings = Settings(task="tests.fakes.toy", model="half-year", trials=0, seed=seed, **recipe, **rules)
        found.append(_week(number, kind, source, settings, folder / f"week{number:02}", before))
        print(row(found[-1]), file=sys.stderr, flush=True)
    return found


def _week(number: int, kind: str, source: Path, settings: Settings, folder: Path, before: Lineage) -> Week:
    begin, key = time.perf_counter(), run_folder.new_run_key()
    home_folder.write_text(run_folder.run_folder(key) / "settings.json", settings.to_json())
    decision = look(str(source), settings, key)
    if decision.change == "skip":
        result = finish(settings.to_json(), key, "SUCCEEDED").model_dump()
    else:
        result = run_steps(source, settings, folder, key).result
    after = lineage_store.previous_lineage("half-year")
    moved = sum(after.members[id_].split != member.split for id_, member in before.members.items())
    return Week(
        number,
        kind,
        result["status"],
        result["version"],
        result["promoted"],
        versions.current("half-year", "champion"),
        result["metrics"].get("accuracy", float("nan")),
        moved,
        time.perf_counter() - begin,
        result["reason"],
    )


def verdicts(weeks: Sequence[Week]) -> dict[str, bool]:
    """What should hold, and whether it did."""
    by_kind = {kind: [week for week in weeks if week.kind == kind] for kind in {week.kind for week in weeks}}
    quiet = [week for kind in ("equal", "damaged", "same") for week in by_kind.get(kind, [])]
    return {
        "no equal or damaged model was promoted": not any(week.promoted for week in quiet),
        "the better model was promoted": all(week.promoted for week in by_kind.get("better", [])),
        "weeks without change were skipped": all(week.status == "skipped" for week in by_kind.get("same", [])),
        "skips took under 5 s": all(week.seconds < 5 for week in by_kind.get("same", [])),
        "no example moved": not any(week.moved for week in weeks),
    }


def row(week: Week) -> str:
    """One line of the table."""
    cells = [week.number, week.kind, week.status, week.version, "yes" if week.promoted else "no", week.champion]
    return "| " + " | ".join(map(str, [*cells, f"{week.accuracy:.3f}", week.moved, f"{week.seconds:.1f}"])) + " |"


def main() -> None:
    """Simulate, print the table and what held."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.half_year", description=__doc__)
    parser.add_argument("--damage", choices=("all", "train"), default="all", help="where labels are damaged")
    parser.add_argument("--start", type=int, default=900, help="points in the first week")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weeks = simulate(Path(folder), plan(26, (7, 15), 10, 18), arguments.start, arguments.damage)
    print("| week | data | status | version | promoted | champion | accuracy | moved | seconds |")
    print("|---" * 9 + "|")
    print("\n".join(map(row, weeks)))
    held = verdicts(weeks)
    print("\n".join(f"{'yes' if ok else 'NO '}  {text}" for text, ok in held.items()))
    sys.exit(not all(held.values()))


if __name__ == "__main__":
    main()
