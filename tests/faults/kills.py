"""Kill the pipeline, start the same command again, and compare with a run that nothing disturbed.

    python -m tests.faults.kills 200 --folder /tmp/kills

Each kill is a SIGKILL of the command and of the group of its steps, or of a step's process alone. It comes at a seeded
random moment, or right after an event: between two writes. With `--each 6` a run is killed six times: while the command
starts, and at random moments in five steps. What counts is that the run that went on ends with the same
weights, the same metrics, one pipeline run, which is FINISHED, nothing RUNNING, one version, and no temporary file.
Seconds are those of processors, of all processes, which other work on the machine does not change much; the share is of
the undisturbed run.
"""

import argparse
import contextlib
import ctypes
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from components.core import digests
from components.core.tracking import provenance
from tests.fakes.toy import write_points
from tests.support.command import COMMAND, TOY, environment

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: orphans of a killed command become ours, and their seconds too
TINY = [*TOY, "--trials", "2"]
PHOTOS = ["--weights", "package:efficientnet-lite0", "--image-size", "160", "--trials", "8"]  # as in `make run`
STEPS = ("detect_changes", "prepare_data", "search", "select_trial", "train_head", "fine_tune", "evaluate", "register")
PATIENCE = 3600.0  # seconds that a run may take on a busy machine
POLL, COARSE = 0.002, 0.1
START = 6.0  # seconds of processors before the first step
TICK = os.sysconf("SC_CLK_TCK")


class Moment(NamedTuple):
    """When to kill: so long after an event of a step or after its record, or after so many seconds of processors."""

    step: str = ""
    event: str = ""  # `started`, `working`, `finished` or `record`; empty: count from the command's start
    # of processors from the start, since other work on the machine would move a moment of the clock; else of the clock
    seconds: float = 0.0
    alone: bool = False  # the step's process, and nothing else

    def has_come(self, home: Path) -> bool:
        """Return whether to kill now."""
        if not self.event:
            time.sleep(COARSE)
            return sum(_processes().values()) > self.seconds
        if not any(self._is_in(folder) for folder in (home / "runs").glob("*/")):
            return False
        time.sleep(self.seconds)
        return True

    def _is_in(self, folder: Path) -> bool:
        if self.event == "record":
            return (folder / f"steps/{self.step}.json").exists()
        with contextlib.suppress(OSError):
            return f'"step": "{self.step}", "event": "{self.event}"' in (folder / "events.jsonl").read_text()
        return False


# Between two writes: a step's run is there, its run is closed, its record is written.
POINTS = [Moment(step, event) for step in STEPS for event in ("working", "finished", "record")]
POINTS = [moment for moment in POINTS if moment[:2] != ("detect_changes", "record")]


@dataclass
class Outcome:
    """What a home holds after a run that ended well."""

    weights: str
    metrics: dict[str, float]  # but for seconds
    version: str
    promoted: bool
    pipelines: list[str] = field(default_factory=list)  # their states in MLflow
    running: int = 0
    versions: int = 0
    models: int = 0  # logged ones, of which each belongs to a version
    temporary: list[str] = field(default_factory=list)


@dataclass
class Kill:
    """One kill and what became of it."""

    moment: Moment
    hit: str  # the step that was at work; empty where the run had ended before
    again: list[str]  # steps that were done, in part or whole, by the run that went on
    lost: float  # seconds of processors
    share: float  # of the undisturbed run
    differs: list[str]  # what is not as in the undisturbed run


def adopt_orphans() -> None:
    """Let processes whose parent was killed become children of this one."""
    ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1, 0, 0, 0)


def start(home: Path, arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Start the command in a session of its own."""
    temporary = home.parent / "tmp"
    temporary.mkdir(exist_ok=True)
    command, inherited = [COMMAND, "run", *arguments], {**environment(home), "TMPDIR": str(temporary)}
    with (home.parent / "out.txt").open("ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, cwd=home.parent, env=inherited, start_new_session=True)


def whole(home: Path, arguments: Sequence[str]) -> tuple[int, float]:
    """Run the command to its end; return its exit status, and the seconds of its processes."""
    before = _spent()
    command = start(home, arguments)
    status = command.wait(PATIENCE)
    _wait_until(_are_gone)
    return status, _spent() - before


def killed(home: Path, arguments: Sequence[str], moment: Moment) -> tuple[str, float, int]:
    """Run the command and kill it.

    Returns:
        The step that was hit, empty where the command ended before; the seconds of its processes; its exit status then.
    """
    before = _spent()
    command = start(home, arguments)
    _wait_until(lambda: command.poll() is not None or moment.has_come(home))
    hit = "" if command.poll() is not None else _at_work(home)
    if hit and moment.alone and (process := _step_process(home)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        command.wait(PATIENCE)
    elif hit:
        for process in {command.pid, *_drivers(home)}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL)
        command.wait(60)
    _wait_until(_are_gone)
    return hit, _spent() - before, 0 if hit else command.returncode or 0


def outcome(home: Path) -> Outcome:
    """Read what a home holds."""
    ended = _results(home)
    result = json.loads(ended[0].read_text())
    weights = ended[0].parent / "outputs/fine-tuning/fine-tune/checkpoint/network.safetensors"
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as database:
        # behind the result of a run that was killed then, the next command finds nothing to do
        kinds = (
            "SELECT status FROM runs JOIN tags USING (run_uuid) WHERE key = 'thawline.kind' AND value = 'pipeline'"
            " AND name NOT LIKE 'skipped%'"
        )
        pipelines = [state for (state,) in database.execute(kinds)]
        [(running,)] = database.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'")
        [(versions,)] = database.execute("SELECT count(*) FROM model_versions")
        [(models,)] = database.execute("SELECT count(*) FROM logged_models")
    left = [*home.glob("runs/*/.*"), *home.glob("runs/*/*/.*"), *home.glob("runs/*/training/*")]
    left += (home.parent / "tmp").glob("thawline-*")
    return Outcome(
        weights=digests.of_file(weights),
        metrics={name: value for name, value in result["metrics"].items() if not name.startswith("saved_")},
        version=result["version"],
        promoted=result["promoted"],
        pipelines=pipelines,
        running=running,
        versions=versions,
        models=models,
        temporary=sorted(str(path.relative_to(home.parent)) for path in left),
    )


def survived(
    folder: Path, arguments: Sequence[str], moments: Sequence[Moment], expected: Outcome, seconds: float
) -> list[Kill]:
    """Kill one run at each moment in turn, and let it go on to its end; all of its kills share what was lost.

    Args:
        folder: Empty; the home is made in it.
        arguments: Of `thawline run`.
        moments: One after another, each in the run as the one before left it.
        expected: What an undisturbed run gives.
        seconds: That an undisturbed run takes.
    """
    home, kills, spent, status = folder / "home", list[Kill](), 0.0, 0
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for moment in moments:
        before = _lines(home)
        hit, took, status = killed(home, arguments, moment)
        spent += took
        if kills:
            kills[-1].again = _done(home, before)
        kills.append(Kill(moment, hit, [], 0.0, 0.0, []))
        if not hit or _results(home):  # it ended before, or was killed behind its result
            break
    if kills[-1].hit:
        before = _lines(home)
        status, took = whole(home, arguments)
        spent += took
        kills[-1].again = _done(home, before)
    differs = _differences(expected, outcome(home)) if _results(home) and not status else [f"exit status {status}"]
    lost = max(0.0, spent - seconds) / max(1, sum(bool(kill.hit) for kill in kills))
    for kill in kills:
        kill.lost, kill.share, kill.differs = lost, lost / seconds, differs
    return kills


def table(kills: Sequence[Kill]) -> str:
    """The kills as Markdown: by the step that they hit, and all of them."""
    lines = ["| hit | kills | survived | median lost | most lost |", "|---|---|---|---|---|"]
    hits = [kill for kill in kills if kill.hit]
    for step in [*(step for step in (*STEPS, "finish", "start") if any(kill.hit == step for kill in hits)), ""]:
        some = [kill for kill in hits if step in ("", kill.hit)]
        good = sum(not kill.differs for kill in some)
        shares = [kill.share for kill in some]
        lost = f"{statistics.median(shares):.0%} | {max(shares):.0%}" if some else "|"
        lines.append(f"| {step or 'all'} | {len(some)} | {good} | {lost} |")
    return "\n".join(lines)


def main() -> None:
    """Kill at random moments; print each kill, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--photos", type=Path, help="run on these photos instead of points, whose run is tiny")
    parser.add_argument("--alone", type=float, default=0.2, help="share of kills of a step's process alone")
    parser.add_argument("--each", type=int, default=1, help="kills of one run, before it may go on to its end")
    parser.add_argument("--points", action="store_true", help="kill after events, in their order, first")
    chosen = parser.parse_args()
    adopt_orphans()
    folder: Path = chosen.folder.resolve()
    source = chosen.photos.resolve() if chosen.photos else write_points(folder / "points", per_class=60)
    arguments = [str(source), *(PHOTOS if chosen.photos else TINY), "--deterministic", "--json"]
    expected, seconds = _undisturbed(folder, arguments)
    generator = random.Random(chosen.seed)

    def at_random() -> Moment:
        return Moment(seconds=generator.uniform(0, seconds), alone=generator.random() < chosen.alone)

    def one_after_another() -> list[Moment]:
        """A moment while the command starts, then one in each of some steps: each run that goes on gets further."""
        steps = sorted(generator.sample(range(len(durations)), chosen.each - 1))
        found = [Moment(seconds=generator.uniform(0, START))]
        for step, duration in [list(durations.items())[number] for number in steps]:
            after = generator.uniform(0, duration)
            found.append(Moment(step, "started", after, alone=generator.random() < chosen.alone))
        return found

    durations = _durations(folder / "undisturbed/home")
    moments = [one._replace(alone=generator.random() < chosen.alone) for one in POINTS] if chosen.points else []
    kills = list[Kill]()
    while sum(bool(kill.hit) for kill in kills) < chosen.kills:
        number = len(kills)
        if moments or chosen.each == 1:
            batch = [moments.pop(0) if moments else at_random() for _ in range(chosen.each)]
        else:
            batch = one_after_another()
        found = survived(folder / f"kill-{number}", arguments, batch, expected, seconds)
        kills += found
        _print("\n".join(json.dumps({"kill": number + i, **asdict(kill)}) for i, kill in enumerate(found)))
        if not found[-1].differs:
            shutil.rmtree(folder / f"kill-{number}")
    _print(table(kills))
    sys.exit(any(kill.differs for kill in kills))


def _undisturbed(folder: Path, arguments: Sequence[str]) -> tuple[Outcome, float]:
    """What a run gives, and its seconds of processors; done once for a state of the code."""
    code = digests.digest([provenance.program("tests.fakes.toy"), *arguments])[:16]
    kept = folder / f"undisturbed-{code}.json"
    if not kept.exists():
        shutil.rmtree(folder / "undisturbed", ignore_errors=True)
        (folder / "undisturbed").mkdir(parents=True)
        status, seconds = whole(folder / "undisturbed/home", arguments)
        if status:
            sys.exit((folder / "undisturbed/out.txt").read_text())
        facts = asdict(outcome(folder / "undisturbed/home"))
        kept.write_text(json.dumps([facts, seconds]))
    facts, seconds = json.loads(kept.read_text())
    _print(f"undisturbed: {seconds:.1f} s of processors; {facts}")
    return Outcome(**facts), seconds


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - its result


def _spent() -> float:
    """Seconds of processors that ended descendants of this process have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _processes() -> dict[int, float]:
    """Processes below this one, and the seconds of processors that each of them and of its ended children has taken."""
    parents, used = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            process = int(path.parent.name)
            parents[process], used[process] = int(fields[1]), sum(map(int, fields[11:15])) / TICK
    found, some = {}, {os.getpid()}
    while some := {process for process, parent in parents.items() if parent in some}:
        found |= {process: used[process] for process in some}
    return found


def _are_gone() -> bool:
    """Whether no process of a run is left; orphans that have ended are taken note of."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return not _processes()


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(POLL)


def _events(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(home.glob("runs/*/events.jsonl")) for line in _whole_lines(path)]


def _durations(home: Path) -> dict[str, float]:
    """Seconds of the clock between a step's start and its end, in the order of the steps."""
    began, found = dict[str, float](), dict[str, float]()
    for event in _events(home):
        if event["event"] == "started":
            began.setdefault(event["step"], event["time"])
        elif event["event"] == "finished":
            found[event["step"]] = event["time"] - began[event["step"]]
    return found


def _whole_lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1]


def _lines(home: Path) -> int:
    return len(_events(home))


def _at_work(home: Path) -> str:
    """The step that was at work last; `start` before the first one."""
    events = _events(home)
    return str(events[-1]["step"]) if events else "start"


def _done(home: Path, before: int) -> list[str]:
    """Steps that were done, and not taken over, in the events behind so many."""
    events = _events(home)[before:]
    over = {event["step"] for event in events if event["event"] == "taken_over"}
    return [step for step in dict.fromkeys(event["step"] for event in events) if step not in over]


def _drivers(home: Path) -> list[int]:
    return [int(json.loads(path.read_text())["pid"]) for path in home.glob("runs/*/lease.json")]


def _step_process(home: Path) -> int:
    """The process of the step that is at work, by its sign of life; 0 between two steps."""
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as database, contextlib.suppress(sqlite3.Error):
        for (mark,) in database.execute("SELECT value FROM tags WHERE key = 'thawline.alive'"):
            process = int(mark.split(" ")[2])
            return process if process in _processes() else 0
    return 0


def _results(home: Path) -> list[Path]:
    """Results of runs that trained and succeeded."""
    found = sorted((home / "runs").glob("*/result.json"))
    return [path for path in found if json.loads(path.read_text())["status"] == "succeeded"]


def _differences(expected: Outcome, found: Outcome) -> list[str]:
    return [
        f"{name}: {getattr(found, name)} in place of {value}"
        for name, value in vars(expected).items()
        if getattr(found, name) != value
    ]


if __name__ == "__main__":
    main()
