"""Moves of a champion in processes of their own, which may be killed at any write or start at the same moment."""

import itertools
import os
import signal
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from components.core.evaluation import look_budget
from components.core.registry import ledger, promotion, versions
from components.core.settings import Settings
from components.core.tracking import leases, runs
from components.core.tracking.service import connection
from tests.support import forks

# every call of MLflow's client by which the ledger writes
WRITES = (
    "create_run",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_model_version_tag",
    "delete_model_version_tag",
    "set_tag",
    "set_terminated",
)
MOVES: Mapping[str, Callable[[], object]] = {
    "promote": lambda: promotion.promote("toy", "2", why="better", evidence="run"),
    "replace": lambda: promotion.promote("toy", "2", why="better", evidence="run"),
    "rollback": lambda: promotion.rollback("toy"),
    "settle": lambda: promotion.settle("toy"),
    "refused": lambda: promotion.promote("toy", "2", why="late", evidence="run", expected="3"),
}


def process(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """A started process that shares nothing with this one, and has mlflow imported."""
    child = forks.context().Process(target=target, args=(_environment(), *arguments))
    child.start()
    return child


def killed(environment: Mapping[str, str], move: str, write: int) -> None:
    """Carry out a move; the process kills itself in place of its `write`-th write, counted from 1."""
    _adopt(environment)
    client, count = type(connection.client()), itertools.count(1)

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(count) == write:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in WRITES:
        setattr(client, name, counted(getattr(client, name)))
    MOVES[move]()


def at_once(
    environment: Mapping[str, str], home: str, version: str, expected: str | None, barrier: Barrier, results: Any
) -> None:
    """Promote a version together with others; put down whether it became champion, and why not."""
    _adopt({**environment, "THAWLINE_HOME": home})
    ledger.read("toy")  # whatever opens a store the first time is not part of the race
    barrier.wait(60)
    entry = promotion.promote("toy", version, why="first", evidence="run", expected=expected)
    results.put((version, entry.done, entry.reason))


def leasing(environment: Mapping[str, str], key: str, shared: bool, barrier: Barrier, results: Any) -> None:  # noqa: FBT001 - passed by position
    """Ask for the lease together with others; put down the answer."""
    _adopt(environment)
    leases._is_shared = lambda: shared  # type: ignore[assignment]  # this process is the test's own
    with runs.step("detect_changes", key, Settings(model="toy", task="tests.fakes.toy").to_json()) as run:
        barrier.wait(60)
        results.put(leases.take(run))


def looking(
    environment: Mapping[str, str], home: str, name: str, count: int, horizon: int, barrier: Barrier, results: Any
) -> None:
    """Take looks together with others, one after another; put down who took which."""
    _adopt({**environment, "THAWLINE_HOME": home})
    connection.own_experiment("toy")
    barrier.wait(60)
    for number in range(count):
        budget = look_budget.take("toy", f"{name} {number}", 0.05, horizon)
        results.put((budget.look.opening, budget.look.number, budget.level))


def opened(environment: Mapping[str, str], to: str, folder: str) -> None:
    """Open an entry and stay alive until the folder holds a file `end`."""
    import time

    _adopt(environment)
    ledger.open_entry("toy", "promote", versions.current("toy", "champion"), to, "slow", "somebody", "run")
    (Path(folder) / "opened").touch()
    while not (Path(folder) / "end").exists():
        time.sleep(0.05)


def _environment() -> dict[str, str]:
    """What the server that forks the processes can't know: it was started by another test."""
    return {name: os.environ[name] for name in ("THAWLINE_HOME", "MLFLOW_TRACKING_URI") if name in os.environ}


def _adopt(environment: Mapping[str, str]) -> None:
    for name in ("THAWLINE_HOME", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    os.environ.update(environment)
    versions.smoke_test = str  # its seconds are tested in tests/components/test_register.py
