"""The command `thawline`, as a process of its own and in this process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).with_name("thawline"))
# Enough for a good model of the points, and quick.
TOY_OPTIONS = "--task tests.fakes.toy --model toy --head-solver sgd --head-epochs 12 --thaw-epochs 2"
TOY_OPTIONS += " --head-learning-rate 0.05"
TOY_OPTIONS += " --thaw-learning-rate 0.01 --search-workers 1"
TOY = TOY_OPTIONS.split()


class Answer(NamedTuple):
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str


def environment(home: Path) -> dict[str, str]:
    """The environment of a command: nothing of this session's MLflow or Kubeflow, and the tests importable."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "THAWLINE_", "COLUMNS"))}
    return {**kept, "THAWLINE_HOME": str(home), "PYTHONPATH": str(ROOT), "TERM": "dumb"}


def thawline(*arguments: str, home: Path, cwd: Path) -> Answer:
    """Run the command to its end."""
    done = subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, check=False, cwd=cwd, env=environment(home)
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def on_all_cores(*arguments: str, home: Path) -> Answer:
    """Run the command on real data: with all threads, which toys don't repay, and without asking a hub."""
    inherited = {name: value for name, value in environment(home).items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=inherited | {"HF_HUB_OFFLINE": "1"},
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def loaded(*commands: list[str], libraries: tuple[str, ...]) -> tuple[list[int], list[str]]:
    """Exit statuses of commands in one fresh process, and which of the libraries that process has imported."""
    code = (
        "import json, sys, pipelines.cli as cli; from typer.testing import CliRunner as R\n"
        f"statuses = [R().invoke(cli.app, command).exit_code for command in {commands!r}]\n"
        f"print(json.dumps([statuses, [name for name in {libraries!r} if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    statuses, found = json.loads(done.stdout)
    return statuses, found


def start(*arguments: str, home: Path, cwd: Path) -> "subprocess.Popen[str]":
    """Start the command in a process group of its own; it hears signals that the tests may be deaf to."""
    return subprocess.Popen(
        ["/usr/bin/env", "--default-signal=HUP,INT", COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(home),
        start_new_session=True,
    )


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Answer:
    """Run the command in this process: the same entry point, without the seconds of its imports."""
    from pipelines.cli import main

    monkeypatch.setattr(sys, "argv", [COMMAND, *arguments])
    monkeypatch.setenv("THAWLINE_HOME", os.environ["THAWLINE_HOME"])  # the command sets it: put back after the test
    heard = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        for one, handler in heard.items():
            signal.signal(one, handler)
    printed = capsys.readouterr()
    return Answer(int(end.value.code or 0), printed.out, printed.err)


def is_one_sentence(answer: Answer) -> bool:
    """Whether a failed command said one line on stderr, as an error, and no more."""
    lines = answer.err.splitlines()
    return len(lines) == 1 and lines[0].startswith("Error: ") and lines[0].endswith((".", "?"))


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until something holds; give up long before the test's own timeout."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)


def processes(home: Path) -> list[int]:
    """Processes whose THAWLINE_HOME is this one: all that a run starts inherit it."""
    wanted = f"THAWLINE_HOME={home}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # gone, or another user's
            continue
    return found


def end_all(home: Path) -> None:
    """Kill what a failed test left running."""
    for process in processes(home):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
