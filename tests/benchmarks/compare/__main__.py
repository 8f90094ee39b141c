"""Thawline, the plain loop, fastai and Lightning side by side: `python -m tests.benchmarks.compare --help`.

Parts:
  1  head only, at each number of --head-epochs
  2  the first number of head epochs, then 1, 2 and 3 stages thawed
  3  fastai's fine_tune, Lightning's BackboneFinetuning and Thawline with their own defaults: time to accuracy
  4  a search: Thawline, and Optuna around the plain loop
  5  next week: 5% new data
  6  a run without any change: seconds until it says skipped
  7  growth: time and peak memory of Thawline by the number of pictures
  8  the limit: one pass below the line and the top's arithmetic at the machine's own speed

Every run is a process of its own with an empty store of activations (part 5 keeps it for the second run); systems
alternate, and start in another order in each repetition. The peers run the head once and thaw each depth from it;
Thawline runs the whole for each depth, since its phases share a store. The schedule is a cosine, so each number of
head epochs is a run of its own. Results are kept after every run: the same command goes on where it was stopped, and
measures again what ran other code.

Examples:
  python -m tests.benchmarks.compare --quick                   all systems and parts, tiny, in a few minutes
  python -m tests.benchmarks.compare --parts 1,2 --train 500   two parts on fewer pictures
  python -m tests.benchmarks.compare --plain-trials 4          price the plain search by four trials
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from components.core.machine.revision import code_revision
from components.core.storage.home_folder import write_text
from tests.benchmarks.compare.jobs import PEERS, Job, Options, groups, run
from tests.benchmarks.compare.picture import picture
from tests.benchmarks.compare.table import as_json, markdown, sections

QUICK = {
    "data": "fashion",
    "train": 128,
    "validation": 40,
    "test": 100,
    "image_size": 64,
    "head_epochs": "2,3",
    "thaw_epochs": 1,
    "depths": "2",
    "repetitions": 1,
    "trials": 3,
    "plain_trials": 2,
    "growth": "128,256",
    "own_epochs": 3,
}


def numbers(text: str) -> tuple[int, ...]:
    """A list as the command line writes it."""
    return tuple(int(part) for part in text.split(","))


def parsed(arguments: list[str]) -> tuple[Options, bool, Path]:
    """The options, whether to begin anew, and the output folder."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.compare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--parts", default="1,2,3,4,5,6,7,8", help="which parts, by number (default: all)")
    add("--quick", action="store_true", help="tiny sizes and one repetition, for proof that everything runs")
    add("--output", type=Path, help="folder of results, data and homes (default: .thawline/bench)")
    add("--stamps", type=Path, default=Path(".thawline/demo/stamps"), help="the demo's photos")
    add("--fresh", action="store_true", help="forget kept results; otherwise an interrupted benchmark goes on")
    add(
        "--data",
        default="fashion,stamps",
        help="sets of parts 1 to 3; 4, 6 and 8 take the first, 5 and 7 Fashion-MNIST",
    )
    add("--train", type=int, default=2000, help="training pictures of Fashion-MNIST")
    add("--validation", type=int, default=400, help="validation pictures, of which half only calibrate")
    add("--test", type=int, default=2000, help="test pictures, from its own test split")
    add("--image-size", type=int, default=128, help="side in pixels")
    add("--head-epochs", default="10,30", help="epochs of the head phase; the first number is that of all parts")
    add("--thaw-epochs", type=int, default=6, help="epochs of the thawed phase")
    add("--depths", default="1,2,3", help="thawed stages of part 2")
    add("--repetitions", type=int, default=3, help="of everything")
    add("--trials", type=int, default=20, help="of the search")
    add("--plain-trials", type=int, default=0, help="trials that the plain loop runs; 0: all")
    add("--growth", default="1000,2000,4000,8000", help="training pictures of part 7")
    add("--own-epochs", type=int, default=0, help="head epochs of Thawline in part 3; 0: its default")
    add("--peers", default=",".join(PEERS), help="who Thawline is compared with (default: all)")
    if "--quick" in arguments:
        parser.set_defaults(**QUICK)
    given = vars(parser.parse_args(arguments))
    quick, fresh = given.pop("quick"), given.pop("fresh")
    for name in ("parts", "head_epochs", "depths", "growth"):
        given[name] = numbers(given[name])
    for name in ("data", "peers"):
        given[name] = tuple(given[name].split(","))
    given["output"] = given["output"] or Path(".thawline/bench/quick" if quick else ".thawline/bench")
    return Options(**given), fresh, given["output"]


def turns(options: Options) -> Iterator[tuple[int, Job]]:
    """All runs: in a group the systems alternate; each repetition begins with another one and has its own seed."""
    for repetition in range(options.repetitions):
        for group in groups(options):
            shift = repetition % len(group)
            for job in [*group[shift:], *group[:shift]]:
                yield repetition, replace(job, settings={**job.settings, "seed": repetition})


def load(path: Path) -> dict[str, dict[str, Any]]:
    """Kept runs by key; a last line that a kill cut off is passed over."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[record["key"]] = record
    return found


def machine(records: list[dict[str, Any]]) -> dict[str, Any]:
    """What the figures hold for."""
    names = ("torch", "timm", "optuna", "fastai", "lightning")
    times = [record["time"] for record in records]
    return {
        "revision": code_revision(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "runs": len(records),
        "first": time.strftime("%Y-%m-%d %H:%M", time.gmtime(min(times))) if times else "",
        "last": time.strftime("%Y-%m-%d %H:%M", time.gmtime(max(times))) if times else "",
    }


def publish(options: Options, records: list[dict[str, Any]]) -> None:
    """Write Markdown, JSON and the picture."""
    about = machine(records)
    found = list(sections(records, [options.fashion(count) for count in options.growth]))
    names = ("torch", "timm", "fastai", "lightning", "optuna")
    versions = ", ".join(f"{name} {about[name]}" for name in names)
    lines = [
        f"{about['cores']} cores ({about['machine']}), Python {about['python']}, {versions}; {about['revision'][:12]}.",
        f"{about['runs']} runs between {about['first']} and {about['last']} UTC, {options.repetitions} repetitions.",
        "Median [least-greatest]; ratios are taken within a repetition, and each repetition has a seed of its own.",
    ]
    write_text(options.output / "compare.md", markdown(found, lines))
    write_text(options.output / "compare.json", json.dumps(as_json(found, about, records), indent=1))
    if svg := picture(records):
        write_text(options.output / "compare.svg", svg)


def main() -> None:
    """Run what is missing and write the table after every run."""
    options, fresh, output = parsed(sys.argv[1:])
    output.mkdir(parents=True, exist_ok=True)
    kept = output / "compare.jsonl"
    if fresh:
        kept.unlink(missing_ok=True)
    known, records = load(kept), dict[str, dict[str, Any]]()
    planned = list({job.key(repetition): (repetition, job) for repetition, job in turns(options)}.items())
    for number, (key, (repetition, job)) in enumerate(planned, start=1):
        if key not in known:
            text = f"{job.kind} {job.system} {job.data} {' '.join(map(str, job.thaws))}".strip()
            print(f"[{number}/{len(planned)}] repetition {repetition + 1}: {text}", file=sys.stderr, flush=True)
            facts = {name: getattr(job, name) for name in ("kind", "system", "data", "settings", "thaws")}
            known[key] = {"key": key, **facts, "repetition": repetition, "result": run(job, options)}
            known[key]["time"] = time.time()
            with kept.open("a") as file:
                file.write(f"\n{json.dumps(known[key])}\n")  # apart from a line that a kill cut off
        records[key] = known[key]
        publish(options, list(records.values()))
    print((output / "compare.md").read_text())


if __name__ == "__main__":
    main()
