"""Fork the steps of a local run from one process that has the libraries loaded.

kfp.local starts a shell and an interpreter for each step, and each of them imports PyTorch and MLflow again, which
takes seconds. `multiprocessing`'s fork server imports them once, while the run begins. It runs nothing in parallel, so
that its forks start as clean as a new interpreter: its only threads are those of OpenBLAS and Arrow, which both prepare
for forks. A pod on Kubeflow is one step, and knows nothing of this.
"""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple

from components.core.compute.child_processes import end_with_parent
from components.core.sources.record_kinds import KIND_OF_TASK
from components.core.storage import home_folder
from components.core.tracking.service.server import is_server
from pipelines.terminal.display import STEPS

LOG = logging.getLogger(__name__)
Run = Callable[[list[str], dict[str, str] | None], int]  # kfp's: a command and more environment, to an exit status
SHELL = ("sh", "-ec")  # what kfp's commands begin with, before the script and the component's code
# Imported where steps need them, and by most of them.
INSIDE = ("components.core.data.lineage_store", "components.core.registry.versions", "components.core.tracking.runs")
FIRST = "pipelines.local.uncollected"
TIMM = "components.core.networks.images.from_timm"
LOCAL_STORE = ("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store")


class _Component(NamedTuple):
    """A step as kfp runs it: the source of its wrapper, and the arguments of kfp's executor."""

    source: str
    arguments: list[str]


@contextmanager
def loading(task: str) -> Iterator[None]:
    """Start the process that loads the libraries, and end it with the run.

    Args:
        task: Name of the task, whose libraries are loaded too unless it is the user's own file.
    """
    libraries = ["kfp.dsl.executor_main", *INSIDE, *(f"components.{step}" for step in STEPS)]
    libraries += [f"components.tasks.{task}"] if task in KIND_OF_TASK else []
    libraries += [TIMM] if KIND_OF_TASK.get(task) == "pictures" else []
    libraries += [] if is_server(home_folder.tracking_uri()) else LOCAL_STORE
    forkserver.set_forkserver_preload([FIRST, *libraries, __name__])
    before = os.environ.get("_KFP_RUNTIME")
    os.environ["_KFP_RUNTIME"] = "true"  # as in kfp's commands: without it kfp imports its compiler and its client
    try:
        forkserver.ensure_running()
    except OSError as error:  # a path of temporary files too long for its socket, among others: steps do without
        LOG.warning("The process that loads the libraries can't be started: %s.", error)
    finally:
        os.environ.pop("_KFP_RUNTIME") if before is None else os.environ.update(_KFP_RUNTIME=before)
    try:
        yield
    finally:
        _stop()


def _stop() -> None:
    """End the process, which has nothing to finish: else it would take a second to clear up after the run."""
    server: Any = forkserver._forkserver  # noqa: SLF001 - multiprocessing has no public way; its own tests take this one
    if server._forkserver_pid is not None:  # noqa: SLF001 - as above
        os.kill(server._forkserver_pid, signal.SIGKILL)  # noqa: SLF001 - as above
        server._stop()  # noqa: SLF001 - as above


def patch() -> None:
    """Replace the one function of kfp.local that starts a step's process."""
    from kfp.local import subprocess_task_handler

    original = subprocess_task_handler.run_local_subprocess

    def run_local_subprocess(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        return run(full_command, env_vars, original)

    subprocess_task_handler.run_local_subprocess = run_local_subprocess


def run(command: list[str], environment: dict[str, str] | None, original: Run) -> int:
    """Run a step's command in a fork, or as kfp does where there is none to be had; return its exit status.

    Args:
        command: As kfp made it for its subprocess runner.
        environment: Variables beside this process's own.
        original: kfp's own way.
    """
    component = _parsed(command)
    if component is None:
        LOG.warning("The step starts in a new interpreter: kfp's command has another form than expected.")
        return original(command, environment)
    process = multiprocessing.get_context("forkserver").Process(target=_execute, args=(*component, environment or {}))
    try:
        process.start()
    except (OSError, EOFError) as error:
        LOG.warning("The step starts in a new interpreter: the process that loads the libraries is gone (%r).", error)
        return original(command, environment)
    process.join()
    status = process.exitcode
    if status is None or status < 0:
        LOG.error("The step's process was killed by signal %s.", -(status or 0))
    return 1 if status is None else status


def _parsed(command: Sequence[str]) -> _Component | None:
    """Return what kfp's command for a lightweight component runs; None for a command of another form."""
    if tuple(command[:2]) != SHELL or "kfp.dsl.executor_main" not in command[2]:
        return None
    return _Component(command[3], list(command[4:]))


def _execute(source: str, arguments: list[str], environment: dict[str, str]) -> None:
    """Do in the fork what kfp's command does in a new interpreter."""
    end_with_parent(signal.SIGTERM)  # nobody would take what it returns
    os.environ.update(environment)
    from kfp.dsl import executor_main

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ephemeral_component.py"
        path.write_text(source)
        sys.argv = [executor_main.__file__, "--component_module_path", str(path), *arguments]
        executor_main.executor_main()
