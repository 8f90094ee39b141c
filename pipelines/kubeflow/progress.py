"""The progress of a run's steps on Kubeflow, as events for the display.

Kubeflow lists the nodes of Argo's workflow: a task of the DAG as `NAME`, once more for each attempt as `NAME(0)`, with
its driver beside it, and below it `executor`, whose attempts, `executor(0)`, are the step's own pods. Which executor is
which task's is said by `child_tasks` alone, by Argo's ids: the workflow's name and a hash of the path of names.
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipelines.kubeflow.client import ENDED, TERMINATED, word_of
from pipelines.kubeflow.pods import SAME_PODS

ATTEMPT = re.compile(r"\(\d+\)")
EXECUTOR = "executor"
PENDING_SECONDS = 60.0  # that a pod may take to begin before it is reported
FNV_BASIS, FNV_PRIME, FNV_MASK = 0x811C9DC5, 0x01000193, 0xFFFFFFFF


@dataclass
class Part:
    """A part of a step: one of its search workers, or the step in one branch of the DAG."""

    state: str  # "waiting", "started", "finished" or "failed"
    begin: float
    end: float
    attempts: int = 1
    again: float = 0.0  # when the last of several attempts began
    pod: str = ""  # Argo's id of the last attempt
    pending: datetime | None = None  # since when that has not begun


@dataclass
class Progress:
    """The events of a run, each of them once.

    Args:
        steps: Names of the DAG's steps.
        look: The command that says why a pod does not begin.
    """

    steps: Sequence[str]
    look: str = ""
    _told: dict[str, str] = field(default_factory=dict)  # the last state of each step
    _attempts: dict[str, int] = field(default_factory=dict)
    _noted: set[tuple[str, str]] = field(default_factory=set)

    def events(self, run: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - kfp_server_api's run
        """Return the events since the last call, for the display."""
        listed = (run.run_details and run.run_details.task_details) or []
        tasks = [task for task in listed if task.display_name and task.start_time]
        found: list[dict[str, Any]] = []
        parts = _parts(tasks, self.steps)
        for step, group in parts.items():
            found += self._changes(step, list(group.values()))
            for key, part in group.items():
                found += self._notes(step, key, part)
        found += self._pending_drivers(tasks)
        if word_of(run) != TERMINATED:  # which fails the drivers that are at work
            found += self._driverless(tasks, parts)
        return sorted(found, key=lambda event: float(event["time"]))

    def _changes(self, step: str, parts: list[Part]) -> Iterator[dict[str, Any]]:
        states = {part.state for part in parts}
        if states == {"waiting"}:
            return
        over = states <= {"finished", "failed"}
        state = "failed" if over and "failed" in states else "finished" if over else "started"
        again = not over and self._told.get(step, "started") != "started"  # a branch, or one more worker
        if step not in self._told or again:
            yield {"step": step, "event": "started", "time": min(part.begin for part in parts)}
        if over and self._told.get(step) != state:
            yield {"step": step, "event": state, "time": max(part.end for part in parts)}
        self._told[step] = state

    def _notes(self, step: str, key: str, part: Part) -> Iterator[dict[str, Any]]:
        """Attempts after the first, and a pod that does not begin."""
        if part.attempts > self._attempts.get(key, 1):
            self._attempts[key] = part.attempts
            yield _note(step, f"started again (attempt {part.attempts})", part.again)
        mark = part.pod.rpartition("-")[2]  # some releases of Argo put the template's name before it
        yield from self._pending(step, f"…-{mark}", part.pending, key)

    def _pending_drivers(self, tasks: list[Any]) -> Iterator[dict[str, Any]]:
        for task in tasks:
            name, driver, _ = task.display_name.rpartition("-driver(")
            if driver and task.state == "PENDING" and not _has_ended(task):
                step = _step(name, self.steps) or "Kubeflow"
                yield from self._pending(step, task.display_name, task.start_time)

    def _pending(self, step: str, pod: str, since: datetime | None, key: str = "") -> Iterator[dict[str, Any]]:
        """That a pod has not begun for long, once."""
        if since and time.time() - since.timestamp() >= PENDING_SECONDS and (key, pod) not in self._noted:
            self._noted.add((key, pod))
            text = f"its pod {pod} has not started since {since:%H:%M:%S} UTC; to see why: {self.look}"
            yield _note(step, text, time.time())

    def _driverless(self, tasks: list[Any], begun: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Steps that never begin because Kubeflow could not put their inputs together."""
        for task in tasks:
            name, driver, rest = task.display_name.rpartition("-driver")
            step = _step(name, self.steps)
            failed = driver and not rest and task.state == "FAILED"
            if step and failed and step not in begun and (step, "driver") not in self._noted:
                self._noted.add((step, "driver"))
                text = f"did not start: Kubeflow's driver for it failed; see its log ({task.display_name})"
                yield _note(step, text, (task.end_time or task.start_time).timestamp())


def _note(step: str, text: str, at: float) -> dict[str, Any]:
    return {"step": step, "event": "note", "text": text, "time": at}


def _parts(tasks: list[Any], steps: Sequence[str]) -> dict[str, dict[str, Part]]:
    """The parts of each step by what tells them apart; those that were left out are missing."""
    paths = _paths(tasks)
    executors: dict[str, list[Any]] = {}
    for task in tasks:
        if task.display_name == EXECUTOR:
            executors.setdefault(_own_path(task, paths).removesuffix(f".{EXECUTOR}"), []).append(task)
    latest: dict[str, dict[str, Any]] = {}
    for number, task in enumerate(tasks):
        step = _step(task.display_name, steps)
        if not step or task.state in (None, "SKIPPED"):  # None: left out after a failure
            continue
        key = _own_path(task, paths) or f"{step} {number}"
        group = latest.setdefault(step, {})
        if key not in group or group[key].start_time < task.start_time:  # a branch may be started again as a whole
            group[key] = task
    return {
        step: {key: _part(task, executors.get(key, []), tasks) for key, task in group.items()}
        for step, group in latest.items()
    }


def _part(task: Any, executors: list[Any], tasks: list[Any]) -> Part:  # noqa: ANN401 - kfp_server_api's task
    over = _has_ended(task) and task.state in ENDED
    part = Part("failed" if over and task.state == "FAILED" else "finished" if over else "started", 0.0, 0.0)
    part.begin, part.end = task.start_time.timestamp(), task.end_time.timestamp() if over else 0.0
    part.attempts = sum(len(one.child_tasks or []) for one in executors) or 1
    last = max(executors, key=lambda one: one.start_time, default=None)
    if last and last.child_tasks:
        part.pod = last.child_tasks[-1].pod_name
        attempts = _last_attempts(last, tasks)
        part.again = min((one.start_time.timestamp() for one in attempts), default=part.begin)
        going = [one for one in attempts if not _has_ended(one)]
        waiting = not over and going and all(one.state == "PENDING" for one in going)
        part.pending = min(one.start_time for one in going) if waiting else None
    if part.pending or (task.state == "PENDING" and not over):
        part.state = "waiting" if part.attempts == 1 else part.state
    return part


def _last_attempts(executor: Any, tasks: list[Any]) -> list[Any]:  # noqa: ANN401 - as above
    """The last attempt of an executor; more where others like it began at the same time, for attempts bear no id."""
    number = len(executor.child_tasks) - 1
    return [
        task
        for task in tasks
        if task.display_name == f"{EXECUTOR}({number})"
        and (task.start_time == executor.start_time if number == 0 else task.start_time > executor.start_time)
        and not (_has_ended(executor) and task.start_time > executor.end_time)
    ]


def _has_ended(task: Any) -> bool:  # noqa: ANN401 - as above
    """Return whether a task has an end that is not Go's zero time."""
    return bool(task.end_time and task.end_time.year > 1970)  # noqa: PLR2004 - zero as a Unix time


def _step(display_name: str, steps: Sequence[str]) -> str:
    """The step that a task of Kubeflow is; empty for drivers, branches and loops."""
    name = display_name.replace("-", "_")
    stem, _, number = name.rpartition("_")
    name = stem if number.isdecimal() else name
    name = SAME_PODS.get(name, name)
    return name if name in steps else ""


def _own_path(task: Any, paths: dict[str, str]) -> str:  # noqa: ANN401 - as above
    """Return a task's place in the DAG, the same for all its attempts; empty if its children do not tell."""
    for child in task.child_tasks or []:
        path = ATTEMPT.sub("", paths.get(child.pod_name or "", ""))
        for own in (path, path.rpartition(".")[0]):  # its own attempt, or what it holds
            if f".{own}".endswith(f".{task.display_name}"):
                return own
    return ""


def _paths(tasks: list[Any]) -> dict[str, str]:
    """The path of names of each node that is another one's child, by Argo's id of it."""
    ids = {child.pod_name for task in tasks for child in task.child_tasks or [] if child.pod_name}
    names = {task.display_name for task in tasks}
    attempts = {found for name in names for found in ATTEMPT.findall(name)}
    tails = [*attempts, *(f".{name}" for name in names)]
    found: dict[str, str] = {}
    for root in {identity.rpartition("-")[0] for identity in ids}:
        open_ends = [(root, _hashed(root))]
        while open_ends:
            path, state = open_ends.pop()
            for tail in tails:
                hashed = _hashed(tail, state)
                identity = f"{root}-{hashed}"
                if identity in ids and identity not in found:
                    found[identity] = path + tail
                    open_ends.append((path + tail, hashed))
    return found


def _hashed(text: str, state: int = FNV_BASIS) -> int:
    """FNV-1a of 32 bits, as Argo makes its ids; `state` is the hash of what stands before."""
    for byte in text.encode():
        state = (state ^ byte) * FNV_PRIME & FNV_MASK
    return state
