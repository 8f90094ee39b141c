"""From single runs to medians, ratios and rows: plain arithmetic over what the runs left."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Record: TypeAlias = Mapping[str, Any]  # kind, system, data, settings, thaws, repetition, result
OWN = "thawline"
ORDER = (OWN, "plain", "plain-kept", "fastai", "lightning")
SLOW = 1.3  # a peer slower than the plain loop by this needs other settings before its ratio is published


@dataclass(frozen=True)
class Spread:
    """The median of the repetitions, the least and the greatest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """None without values."""
        return cls(statistics.median(values), min(values), max(values)) if values else None

    def text(self, digits: int) -> str:
        """`12.3 [11.9-12.8]`, or one number where there is one."""
        if self.low == self.high:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}-{self.high:.{digits}f}]"


def ratios(peer: Mapping[int, float], own: Mapping[int, float]) -> list[float]:
    """Peer over own, repetition by repetition: what disturbs the machine for a while falls out."""
    return [peer[repetition] / own[repetition] for repetition in sorted(peer.keys() & own.keys())]


def scenario(record: Record, mark: str) -> str:
    """What was trained, in words."""
    head = f"head, {_several(record['settings']['head_epochs'], 'epoch')}"
    if mark == "head":
        return head
    stages = _several(int(mark.removeprefix("thaw")), "stage")
    return f"{head}, then {stages} thawed, {_several(record['settings']['thaw_epochs'], 'epoch')}"


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


Figures: TypeAlias = dict[tuple[str, str], dict[str, dict[int, dict[str, float]]]]


def phase_figures(records: Sequence[Record]) -> Figures:
    """(data, scenario) -> system -> repetition -> seconds and accuracy.

    A run of Thawline with a thawed phase says nothing of its head: another run measures that alone.
    """
    found: Figures = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record["kind"] != "phases":
            continue
        for mark, figures in record["result"]["marks"].items():
            if record["system"] == OWN and record["thaws"] and mark == "head":
                continue
            place = found[record["data"], scenario(record, mark)][record["system"]]
            place[record["repetition"]] = {**figures, "anonymous": record["result"]["anonymous"]}
    return found


def compared(systems: Mapping[str, Mapping[int, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """A row for each system of one scenario: seconds, accuracy, ratio to Thawline, whether it is too slow."""
    seconds = {system: {r: f["seconds"] for r, f in runs.items()} for system, runs in systems.items()}
    rows = []
    for system, runs in sorted(systems.items(), key=lambda item: ORDER.index(item[0])):
        against_plain = ratios(seconds[system], seconds.get("plain", {}))
        rows.append(
            {
                "system": system,
                "seconds": Spread.of(list(seconds[system].values())),
                "accuracy": Spread.of([figures["accuracy"] for figures in runs.values()]),
                "ratio": Spread.of(ratios(seconds[system], seconds.get(OWN, {}))) if system != OWN else None,
                "slow": system != OWN and bool(against_plain) and statistics.median(against_plain) > SLOW,
            }
        )
    return rows


def reached(curve: Sequence[Sequence[float]], target: float) -> float | None:
    """Seconds until a curve of (seconds, accuracy) is at the target for the first time."""
    return next((seconds for seconds, accuracy in curve if accuracy >= target), None)


def by_repetition(records: Sequence[Record], kind: str, data: str = "") -> dict[int, dict[str, Record]]:
    """Repetition -> system -> record, of one kind."""
    found: dict[int, dict[str, Record]] = defaultdict(dict)
    for record in records:
        if record["kind"] == kind and data in {"", record["data"]}:
            found[record["repetition"]][record["system"]] = record
    return found


def own_best(runs: Mapping[int, Mapping[str, Record]]) -> list[dict[str, Any]]:
    """Time to each peer's best accuracy for it and Thawline, and to the better of these for everyone."""
    curves = {r: {s: record["result"]["curve"] for s, record in systems.items()} for r, systems in runs.items()}
    best = {
        r: {s: max(accuracy for _, accuracy in curve) for s, curve in some.items() if s != OWN}
        for r, some in curves.items()
    }
    peers = sorted({system for some in best.values() for system in some})
    targets = [(f"{peer}'s best", {r: b[peer] for r, b in best.items() if peer in b}, [peer, OWN]) for peer in peers]
    targets.append(("the better of their best", {r: max(b.values()) for r, b in best.items() if b}, [*peers, OWN]))
    rows = []
    for name, target, systems in targets:
        times = {s: {r: reached(curves[r].get(s, []), t) for r, t in target.items()} for s in systems}
        for system in systems:
            arrived = {r: t for r, t in times[system].items() if t is not None}
            own = {r: t for r, t in times[OWN].items() if t is not None}
            rows.append(
                {
                    "target": name,
                    "accuracy": Spread.of(list(target.values())),
                    "system": system,
                    "seconds": Spread.of(list(arrived.values())),
                    "reached": f"{len(arrived)} of {len(target)}",
                    "ratio": Spread.of(ratios(arrived, own)) if system != OWN else None,
                }
            )
    return rows


def priced(trials: Sequence[Mapping[str, int]], costs: Mapping[str, float], fixed: float) -> float:
    """Seconds that the plain loop would take for these trials.

    Args:
        trials: As `counted` gives them.
        costs: Seconds of one epoch by depth, `"0"` being the head phase.
        fixed: Seconds of everything that is no epoch, once for all trials.
    """
    head = sum(trial["head_epochs"] for trial in trials) * costs["0"]
    return fixed + head + sum(trial["thaw_epochs"] * costs[str(trial["thaw"])] for trial in trials)
