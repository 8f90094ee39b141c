"""Run the DAG on this machine with kfp's own local runner.

`python -m pipelines.local.runner` is the child process that drives kfp; the command line starts it, so that kfp's
output goes to `runs/<run key>/log.txt` and the terminal stays free for progress.
"""

import atexit
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Never
from urllib.parse import urlsplit

from components.core import run_folder
from components.core.contract.task import TASKS_FOLDER
from components.core.machine import cpus
from components.core.run_result import RunResult
from components.core.settings import Settings
from components.core.storage import disk_space, home_folder

LONGEST = 70  # characters: the sockets of `multiprocessing` lie 32 deeper, and take 107


@disk_space.explained(home_folder.home)
def launch(source: str, settings: Settings, run_key: str, output: str = "") -> "subprocess.Popen[bytes]":
    """Start the DAG in a process group of its own; its steps inherit the environment.

    Args:
        source: See `pipelines/fine_tuning.py`.
        settings: As above.
        run_key: As above.
        output: The folder that a pretraining writes; empty for a whole run.
    """
    with home_folder.writable():
        disk_space.reserve(home_folder.home())
    folder = run_folder.run_folder(run_key)
    if not (folder / "settings.json").exists():
        home_folder.write_text(folder / "settings.json", settings.to_json())
    given = {"source": source, "settings": settings.to_json(), "run_key": run_key}
    arguments = json.dumps({**given, **({"output": output} if output else {})})
    log: IO[bytes]
    with (folder / "log.txt").open("ab") as log:  # behind what it holds, if the run goes on
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.local.runner", arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment(),
        )


def fetch_report(result: RunResult, run_key: str) -> RunResult:
    """Download a report from the server into the run's folder; return the result with its path."""
    if not urlsplit(result.report).scheme:
        return result
    from components.core.tracking import queries

    path = queries.download(result.same_as or result.mlflow_run_id, "report.html", run_folder.run_folder(run_key))
    if path is None:
        return result
    result = result.but(report=str(path))
    result.write(run_key)
    return result


def lives(child: "subprocess.Popen[bytes]", *, group: bool) -> bool:
    """Return whether the DAG's process still runs; with `group`, whether any process of its steps does."""
    if child.poll() is None:
        return True
    try:
        os.killpg(child.pid, 0)
    except ProcessLookupError:
        return False
    return group


def stop(child: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal to the DAG's process and to all of its steps."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def environment() -> dict[str, str]:
    """The environment of the steps: where they write, and nothing that calls home."""
    root = str(Path(__file__).parents[2])
    # the working folder is none of these: a queue.py of the user's would hide the standard library's
    path = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {
        **os.environ,
        TASKS_FOLDER: str(Path.cwd()),
        "THAWLINE_HOME": str(home_folder.home()),
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONSAFEPATH": "1",
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore"),
        # else an empty folder among the temporary files outlives each run
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR") or str(home_folder.home() / "inductor"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "GIT_PYTHON_REFRESH": "quiet",
        "MPLBACKEND": "agg",  # a notebook's own draws below its cells, and steps may not find it
    }
    cpus.limit_threads(found)
    return found


def main() -> None:
    """Run the DAG with `SubprocessRunner`; steps use this interpreter, so nothing is installed per step.

    Raises:
        RuntimeError: A step failed; kfp passes no reason on, the step wrote it to the run's folder.
    """
    gc.disable()  # it imports kfp and, for a new store, MLflow, and waits: what becomes garbage is a few objects
    atexit.register(gc.freeze)
    from pipelines.local import warm_process

    arguments = json.loads(sys.argv[1])
    settings, run_key = Settings.from_json(arguments["settings"]), arguments["run_key"]
    with _run_begun(run_key), warm_process.loading(settings.task):
        if not home_folder.store_is_ready():
            from components.core.tracking.service import local_store

            local_store.migrate()
        warnings.simplefilter("ignore")  # kfp warns of what a local run ignores
        from kfp import local
        from kfp.local import executor_input_utils

        from pipelines.fine_tuning import dag_for
        from pipelines.pretraining import pretraining_for

        warm_process.patch()
        # no time in it: a run that goes on finds the outputs of its steps where they were
        executor_input_utils.get_local_pipeline_resource_name = lambda name: name
        runner = local.SubprocessRunner(use_venv=False)
        folder = run_folder.run_folder(run_key)
        places = {"pipeline_root": str(folder / "outputs"), "workspace_root": str(folder / "workspace")}
        local.init(runner, **places, raise_on_error=True)
        dag = pretraining_for if "output" in arguments else dag_for
        dag(settings.trials)(**arguments)


@contextlib.contextmanager
def _run_begun(run_key: str) -> Iterator[None]:
    """Hold the run and its temporary files; a SIGTERM reaches the steps, which share this process group."""
    signal.signal(signal.SIGTERM, _stop)
    run_folder.take_lease(run_key)
    # what it compiled for a GPU serves later runs, and must not go with this one's folder
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{os.getuid()}")
    temporary = run_folder.temporary_folder(run_key)
    if len(str(temporary)) <= LONGEST:
        temporary.mkdir(mode=0o700, exist_ok=True)
        tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
    try:
        with disk_space.explained(home_folder.home):
            yield
    except disk_space.FullDiskError as error:  # of kfp's own files
        if not run_folder.read_errors(run_key):
            run_folder.write_error(run_key, "local", error)
        raise


def _stop(_signal: int, _frame: FrameType | None) -> Never:
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
