"""The run's own folder: progress that the terminal shows, errors that kfp.local can't pass on, and the lease.

`THAWLINE_HOME/runs/<run key>/` holds `events.jsonl`, `errors/<step>.json`, `lease.json` and `result.json`.
On a cluster the folder is the container's own and is lost with it; there MLflow carries the same facts.
"""

import atexit
import gc
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from components.core.errors import ExpectedError, StepError
from components.core.machine import cpus
from components.core.storage.hidden_logins import hidden, hide_in_output
from components.core.storage.home_folder import home, writable, write_text

KEPT_SECONDS = 30 * 86_400.0  # that the folder of a cluster run stays on a volume
RESULT = "result.json"  # in a run's folder, written last
STATES = "training"  # there: what a training that was cut off goes on from
EVENT = {"time", "step", "event"}  # what every event has
LEASE = "lease.json"  # there too: the process that drives the run


def new_run_key() -> str:
    """A key that sorts by time and never repeats."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def own_key(run_key: str) -> str:
    """The key of the run that a step belongs to: the one it was given, else its pod's.

    Runs of a schedule and clones have the same parameters, so on Kubeflow none is given; `THAWLINE_RUN_KEY` is then the
    id that Kubeflow gave the run, the same in all pods of it.

    Raises:
        StepError: There is neither.
    """
    key = run_key or os.environ.get("THAWLINE_RUN_KEY", "")
    if not key:
        raise StepError("This run has no key.", "Set the parameter run_key, or THAWLINE_RUN_KEY in the pods.")
    return key


def run_folder(run_key: str) -> Path:
    """The folder of one run, made on demand.

    Raises:
        UnavailableError: The home can't be written to.
    """
    folder = home() / "runs" / run_key
    with writable():
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def emit(run_key: str, step: str, event: str, **facts: Any) -> None:  # noqa: ANN401 - any JSON value
    """Append one event; a line under 4 KiB is written whole even with several writers (O_APPEND)."""
    shown = {name: hidden(fact) if isinstance(fact, str) else fact for name, fact in facts.items()}
    line = json.dumps({"time": time.time(), "step": step, "event": event, **shown})
    path = run_folder(run_key) / "events.jsonl"
    with writable(), path.open("a") as file:
        file.write(line + "\n")


def start(step: str, run_key: str) -> str:
    """Announce a step before its own imports, whose seconds are no work of its own; return the run's key.

    OpenMP learns here, before it is loaded, how many threads it may have. The garbage collector pays nothing back in a
    process that only imports and ends: switched off until the work begins, and with everything frozen at the end, a
    step saves about two seconds.
    """
    key = own_key(run_key)
    hide_in_output()
    emit(key, step, "started")
    cpus.limit_threads(os.environ)
    gc.disable()
    atexit.register(gc.freeze)
    return key


def working(step: str, run_key: str) -> None:
    """Announce that a step's imports are done."""
    gc.enable()
    emit(run_key, step, "working")


def events(run_key: str, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """The events from byte `offset` on, each with the offset behind it."""
    path = run_folder(run_key) / "events.jsonl"
    if not path.is_file():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):  # still being written
                return
            offset += len(line)
            try:
                event = json.loads(line)
            except ValueError:  # what a lost machine wrote half of
                continue
            if isinstance(event, dict) and event.keys() >= EVENT:
                yield event, offset


def read_facts(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty without the file, or if it is damaged, as by a power failure."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_error(run_key: str, step: str, error: ExpectedError) -> None:
    """Keep an expected error where the command line and the exit handler find it."""
    folder = run_folder(run_key) / "errors"
    folder.mkdir(exist_ok=True)
    text = json.dumps({"kind": error.kind, "sentence": error.sentence, "hint": error.hint})
    write_text(folder / f"{step}.json", text)


def forget_error(run_key: str, step: str) -> None:
    """Drop the error of a step that has ended well at another attempt: a later failure has another reason."""
    (home() / "runs" / run_key / "errors" / f"{step}.json").unlink(missing_ok=True)


def read_errors(run_key: str) -> dict[str, dict[str, str]]:
    """The expected errors of a run by step: kind, sentence and hint."""
    folder = home() / "runs" / run_key / "errors"
    found = {path.stem: read_facts(path) for path in sorted(folder.glob("*.json"))}
    # a run of an earlier version wrote its hint under another name
    return {step: {"hint": error.get("mend", ""), **error} for step, error in found.items() if error}


def take_lease(run_key: str) -> None:
    """Mark the run as driven by this process, so that a later run can tell a dead one."""
    pid = os.getpid()
    temporary = str(temporary_folder(run_key))  # of a step, and of the next command, it may be another one
    owner = {"pid": pid, "started": _started(pid), "space": _process_space(), "temporary": temporary}
    write_text(run_folder(run_key) / LEASE, json.dumps(owner))


def temporary_folder(run_key: str) -> Path:
    """The folder for temporary files of a run's steps on this machine; a kill leaves them, so that others remove it."""
    return Path(tempfile.gettempdir()) / f"thawline-{run_key}"


def clear(run_key: str) -> None:
    """Remove what processes of a run that are gone left half-done: temporary files, and writes that were cut off."""
    folder = home() / "runs" / run_key
    shutil.rmtree(_leased_folder(folder) or temporary_folder(run_key), ignore_errors=True)
    for part in [*folder.glob(".*"), *folder.glob("*/.*")]:
        if part.is_file():
            part.unlink()


def clear_all() -> None:
    """Remove the temporary files of all runs whose processes are gone, finished runs included."""
    for lease in (home() / "runs").glob(f"*/{LEASE}"):
        temporary = _leased_folder(lease.parent)
        if temporary and temporary.exists() and driver(lease.parent.name) == "gone":
            shutil.rmtree(temporary, ignore_errors=True)


def _leased_folder(folder: Path) -> Path | None:
    """Return the folder for temporary files that a run's lease names; None without one, and for no such name."""
    temporary = Path(str(read_facts(folder / LEASE).get("temporary", "")))  # none in one of an earlier version
    return temporary if temporary.name == temporary_folder(folder.name).name else None


def abandoned_runs() -> list[str]:
    """Keys of runs without a result whose driving process is gone."""
    return [
        folder.name
        for folder in sorted((home() / "runs").glob("*/"))
        if not (folder / RESULT).exists() and not _alive(folder / LEASE)
    ]


def driver(run_key: str) -> Literal["lives", "gone", "unknown"]:
    """Return the state of the process that drives a run of this home; unknown for runs of other machines."""
    lease = home() / "runs" / run_key / LEASE
    if not run_key or not _is_here(read_facts(lease)):
        return "unknown"
    return "lives" if _alive(lease) else "gone"


def delete_old() -> None:
    """Delete the folders of cluster runs that nobody wrote to for a month; on a volume they would pile up.

    MLflow carries the same facts, and what a later run or a champion needs lies elsewhere in the home. Runs of a
    machine, which have a lease, stay: their reports and logs are read where they are.
    """
    for folder in (home() / "runs").glob("*/"):
        if (folder / LEASE).exists():
            continue
        with suppress(OSError):  # another exit handler may be at it
            if max(path.stat().st_mtime for path in (folder, *folder.rglob("*"))) < time.time() - KEPT_SECONDS:
                shutil.rmtree(folder)


def _alive(lease: Path) -> bool:
    owner = read_facts(lease)
    if not _is_here(owner):
        return True  # a run that some other machine drives, as far as can be known
    return bool(owner["started"]) and _started(owner["pid"]) == owner["started"]


def _is_here(owner: dict[str, Any]) -> bool:
    """Return whether the process of a lease is visible here, and not only from another machine or container."""
    whole = {"pid", "started"} <= owner.keys()
    return whole and bool(owner.get("space", _process_space()) == _process_space())


def process_mark() -> str:
    """This process, told apart from every other on any machine: boot, process namespace, id, start time."""
    return f"{_process_space()} {os.getpid()} {_started(os.getpid())}"


def fate(mark: str) -> Literal["lives", "gone", "unknown"]:
    """Return the state of the process of a `process_mark`; unknown for other machines and containers."""
    space, _, process = mark.partition(" ")
    pid, _, started = process.partition(" ")
    if space != _process_space() or not pid.isdecimal():
        return "unknown"
    return "lives" if _started(int(pid)) == started else "gone"


def _process_space() -> str:
    """Identify the space of process ids: this boot of this machine, and this container."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot: tells a reused process id; empty if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]  # one that ended and was not waited for does nothing any more
