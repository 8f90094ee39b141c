"""The table of all parts, as Markdown and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.benchmarks.compare.rows import (
    OWN,
    Record,
    Spread,
    by_repetition,
    compared,
    own_best,
    phase_figures,
    priced,
    ratios,
    scenario,
)

RATIO = "times Thawline's"


@dataclass
class Section:
    """One part of the comparison on one set of pictures."""

    part: str
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)  # of text, Spread or None
    note: str = ""


def sections(records: Sequence[Record], growth: Sequence[str]) -> Iterator[Section]:
    """A section for each part that has results.

    Args:
        records: What the runs left.
        growth: The sets of part 7, smallest first.
    """
    figures = phase_figures(records)
    main = {data for kind in ("phases", "defaults") for data in {r["data"] for r in records if r["kind"] == kind}}
    for data in sorted(main):
        some = {name: systems for (where, name), systems in figures.items() if where == data and len(systems) > 1}
        if some:
            yield _phases(data, some)
        if runs := by_repetition(records, "defaults", data):
            yield _own_best(data, runs)
    if runs := by_repetition(records, "search"):
        yield _search(runs)
    if runs := by_repetition(records, "week"):
        yield _week(runs)
    if runs := by_repetition(records, "skip"):
        yield _skip(runs)
    if grown := [r for r in records if r["kind"] == "phases" and r["data"] in growth and tuple(r["thaws"]) == (2,)]:
        yield _growth([r for r in grown if r["system"] == OWN], growth)
    if runs := by_repetition(records, "limit"):
        yield _limit(runs, figures)


def _phases(data: str, scenarios: Mapping[str, Any]) -> Section:
    section = Section("1, 2", f"Same recipe, {data}", ("phases", "system", "seconds", RATIO, "test accuracy"))
    slow = set()
    for name, systems in scenarios.items():
        for row in compared(systems):
            mark = " (slow)" if row["slow"] else ""
            slow |= {row["system"]} if row["slow"] else set()
            section.rows.append((name, row["system"] + mark, row["seconds"], row["ratio"], row["accuracy"]))
    if slow:
        section.note = (
            f"{', '.join(sorted(slow))} took more than 1.3 times the plain loop: profile it and mend its settings "
            "before a ratio against it is published."
        )
    return section


def _own_best(data: str, runs: Mapping[int, Any]) -> Section:
    columns = ("test accuracy to reach", "accuracy", "system", "seconds", RATIO, "reached in")
    section = Section("3", f"Everyone's own defaults, {data}", columns)
    for row in own_best(runs):
        section.rows.append(
            (row["target"], row["accuracy"], row["system"], row["seconds"], row["ratio"], row["reached"])
        )
    section.note = (
        "The greatest test accuracy after any epoch is a peer's best; seconds count to the first that has it."
    )
    return section


def _search(runs: Mapping[int, Any]) -> Section:
    section = Section("4", "Search", ("system", "trials run", "seconds", RATIO, "test accuracy", "validation loss"))
    own = {r: systems[OWN]["result"] for r, systems in runs.items() if OWN in systems}
    plain = {r: systems["plain"]["result"] for r, systems in runs.items() if "plain" in systems}
    times = {r: result["seconds"] for r, result in own.items()}
    full = {r: len(plain[r]["trials"]) >= len(own[r]["trials"]) for r in plain.keys() & own.keys()}
    peer = {
        r: plain[r]["seconds"] if whole else priced(own[r]["trials"], plain[r]["costs"], plain[r]["fixed"])
        for r, whole in full.items()
    }
    for name, results, seconds in ((OWN, own, times), ("plain loop with Optuna", plain, peer)):
        ran = Spread.of([float(len(result["trials"])) for result in results.values()])
        ratio = None if name == OWN else Spread.of(ratios(seconds, times))
        quality = [Spread.of([result[key] for result in results.values()]) for key in ("accuracy", "loss")]
        section.rows.append((name, ran.text(0) if ran else "", Spread.of(list(seconds.values())), ratio, *quality))
    if not all(full.values()):
        section.note = (
            "The plain loop's seconds are extrapolated: it ran fewer trials, each epoch's cost was measured by depth, "
            "and Thawline's own trials, with the epochs that pruning left them, were priced with it. Its accuracy and "
            "loss are those of the trials that it ran."
        )
    return section


def _week(runs: Mapping[int, Any]) -> Section:
    section = Section("5", "Next week: 5% new data", ("phases", "first run", "second run", "second over first"))
    for mark, name in (("head", "head"), ("thaw2", "head, then 2 stages thawed")):
        pairs = [
            [systems[OWN]["result"][turn]["marks"][mark]["seconds"] for turn in ("first", "second")]
            for systems in runs.values()
        ]
        first, second = (Spread.of([pair[turn] for pair in pairs]) for turn in (0, 1))
        section.rows.append((name, first, second, Spread.of([later / before for before, later in pairs])))
    section.note = "The second run trains on all data again; only new pictures pass below the line."
    return section


def _skip(runs: Mapping[int, Any]) -> Section:
    section = Section("6", "A run without any change", ("first run", "until it says skipped"))
    results = [systems[OWN]["result"] for systems in runs.values()]
    first = Spread.of([result["first"]["seconds"] for result in results])
    skipped = all(result["second"]["status"] == "skipped" for result in results)
    second: Any = Spread.of([result["second"]["seconds"] for result in results])
    section.rows.append((first, second if skipped else "not available"))
    return section


def _growth(records: Sequence[Record], growth: Sequence[str]) -> Section:
    columns = ("data", "seconds", "test accuracy", "peak anonymous MB", "MB before training", "peak resident MB")
    section = Section("7", "Growth of Thawline with the data: head, then 2 stages thawed", columns)
    for data in growth:
        results = [record["result"] for record in records if record["data"] == data]
        marks = [result["marks"]["thaw2"] for result in results]
        row = [Spread.of([mark[key] for mark in marks]) for key in ("seconds", "accuracy")]
        row += [Spread.of([result[key] for result in results]) for key in ("anonymous", "before", "resident")]
        section.rows.append((data, *row))
    section.note = "Resident memory counts mapped files too, which the kernel takes back whenever it needs the room."
    return section


def _limit(runs: Mapping[int, Any], figures: Mapping[tuple[str, str], Any]) -> Section:
    section = Section(
        "8", "The limit", ("phases", "limit in seconds", "Thawline's seconds", "Thawline's over the limit")
    )
    found = {r: systems["machine"] for r, systems in runs.items()}
    for (data, name), systems in figures.items():
        record = next(iter(found.values()))
        if data != record["data"] or OWN not in systems or name.partition(", then")[0] != scenario(record, "head"):
            continue
        depth = name.split("then ")[1].split()[0] if "then" in name else "0"
        limits = {r: one["result"]["limits"][depth] for r, one in found.items()}
        own = {r: f["seconds"] for r, f in systems[OWN].items()}
        both = (Spread.of(list(limits.values())), Spread.of(list(own.values())), Spread.of(ratios(own, limits)))
        section.rows.append((name, *both))
    speeds = Spread.of([one["result"]["speed"] / 1e9 for one in found.values()])
    engines = next(iter(found.values()))["result"]["engines"]
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in engines.items())
    section.note = f"Convolution {speeds.text(0) if speeds else ''} GFLOP/s; whole network, pictures a second: {rates}."
    return section


def markdown(found: Sequence[Section], about: Sequence[str]) -> str:
    """All sections as Markdown tables, after some lines about the run."""
    lines = ["# Thawline against its peers", "", *about, ""]
    for section in found:
        lines += [
            f"## {section.part}: {section.title}",
            "",
            _line(section.columns),
            _line(["---"] * len(section.columns)),
        ]
        for row in section.rows:
            lines.append(_line([cell(value, name) for value, name in zip(row, section.columns, strict=True)]))
        lines += ["", section.note, ""] if section.note else [""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def cell(value: Any, column: str) -> str:
    """A value with the digits that its column deserves."""
    if not isinstance(value, Spread):
        return str(value or "")
    if "accuracy" in column or "loss" in column:
        return value.text(4)
    return value.text(0 if "MB" in column else 2)


def as_json(found: Sequence[Section], about: Mapping[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """All sections with numbers as numbers, and every single run."""
    tables = [
        {
            "part": section.part,
            "title": section.title,
            "rows": [
                {
                    name: asdict(value) if isinstance(value, Spread) else value
                    for name, value in zip(section.columns, row, strict=True)
                }
                for row in section.rows
            ],
            "note": section.note,
        }
        for section in found
    ]
    return {"about": dict(about), "tables": tables, "runs": list(records)}
