"""Runs whose interpreters are forks of this process, which has the libraries loaded: a kill costs no imports then.

Commands, the DAG's process and the process that forks the steps are processes as ever, with the same files, the same
store and the same signals; a fork takes the place of each new interpreter but the one that tries a served model out.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NoReturn

from pipelines.local import runner, warm_process

LIBRARIES = (
    *("pipelines.cli", "pipelines.local.changes", "pipelines.local.resume", "pipelines.fine_tuning", "kfp.local"),
    *("kfp.dsl.executor_main", *warm_process.INSIDE, *warm_process.LOCAL_STORE, "tests.fakes.toy"),
    *(f"components.{step}" for step in warm_process.STEPS),
)
_spare: list[tuple[int, int]] = []  # see `_prefork`


class Forked:
    """A process that was forked; what is needed of a Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, or None while it works."""
        if self.returncode is None:
            process, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if process else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Return the exit status when there is one."""
        del timeout  # the test has its own
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


def load() -> None:
    """Import what a run imports, and let forks take the place of new interpreters in this process."""
    for name in LIBRARIES:
        importlib.import_module(name)
    util.spawnv_passfds = _fork_server
    forkserver.ForkServer.ensure_running = _running(forkserver.ForkServer.ensure_running)
    runner.subprocess = SimpleNamespace(  # type: ignore[attr-defined]  # its one use there
        Popen=_driver, STDOUT=subprocess.STDOUT
    )


def start(arguments: Sequence[str], out: IO[bytes], env: Mapping[str, str], cwd: Path) -> Forked:
    """Start the command `thawline`."""

    def work() -> None:
        _spare.append(_prefork())  # now: later this process has connections, which a fork must not share
        sys.argv = list(arguments)
        importlib.import_module("pipelines.cli").main()

    process = os.fork()
    if not process:
        _become(work, out.fileno(), env, cwd)
    while os.getpgid(process) != process:  # else a kill at once would find no group
        time.sleep(0.001)
    return Forked(process)


def _prefork() -> tuple[int, int]:
    """A process that waits to become the one that drives the DAG; its id, and where it takes what it needs for that."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        os.close(writer)
        _wait(reader)
    os.close(reader)
    return process, writer


def _wait(reader: int) -> NoReturn:
    """Become the process that drives the DAG when there is one to drive."""
    with open(reader) as pipe:
        text = pipe.read()
    if not text:
        os._exit(0)
    asked = json.loads(text)
    with Path(asked["out"]).open("ab") as out:
        _become(runner.main, out.fileno(), asked["env"], Path.cwd(), asked["argv"])


def _driver(command: Sequence[str], *, stdout: IO[bytes], env: Mapping[str, str], **_: object) -> Forked:
    """In place of the interpreter that drives the DAG; see `launch`."""
    process, writer = _spare.pop()
    with open(writer, "w") as pipe:  # noqa: PTH123 - no path
        json.dump({"out": stdout.name, "env": dict(env), "argv": ["runner", command[-1]]}, pipe)
    return Forked(process)


def _become(
    work: Callable[[], object], out: int, env: Mapping[str, str], cwd: Path, argv: Sequence[str] = ()
) -> NoReturn:
    """Do some work as a new interpreter in a session of its own would, and end."""
    os.setsid()
    for number in (1, 2):
        os.dup2(out, number)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    tempfile.tempdir = None  # as it is in a new interpreter
    sys.argv = list(argv)
    _close_all_but()
    os._exit(_status(work))


def _fork_server(_path: bytes, arguments: Sequence[str], passed: Sequence[int]) -> int:
    """In place of the interpreter that forks the steps, and of the one that clears up after shared memory."""
    process = os.fork()
    if not process:
        _close_all_but(*passed)
        os._exit(_status(lambda: exec(arguments[-1], {})))  # noqa: S102 - multiprocessing's own text
    return process


def _running(launch: Callable[[Any], None]) -> Callable[[Any], None]:
    """Let a step's own processes be forks of the process that forked it: a fork of the step would have its threads."""

    def ensure(server: Any) -> None:
        if server._forkserver_pid is None and server._forkserver_address:
            resource_tracker.ensure_running()
        else:
            launch(server)

    return ensure


def _close_all_but(*kept: int) -> None:
    """Close files as a new interpreter has them closed: a pipe's end that stays open would keep its reader alive."""
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if number not in (0, 1, 2, *kept):
            with contextlib.suppress(OSError):  # of the listing itself
                os.close(number)


def _status(work: Callable[[], object]) -> int:
    """Do some work as a new interpreter would; return its exit status."""
    try:
        work()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - it ends here
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
