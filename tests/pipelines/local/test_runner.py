"""The DAG on this machine: its processes, and how it ends when something ends it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from components.core import run_folder
from components.core.settings import Settings
from components.core.tracking import queries, tag_names
from pipelines.commands.run import _catch_signals as catch_signals
from pipelines.local import runner
from tests.fakes.toy import write_points
from tests.fakes.webhook import SECRET, listening
from tests.support.command import COMMAND, ROOT, TOY, end_all, environment, processes, start, thawline, wait_for

SEARCHING = ["--trials", "500", "--patience", "500", "--head-epochs", "500"]  # long enough to be interrupted


@pytest.fixture
def ended(home: Path) -> Iterator[Path]:
    """A home whose processes are gone after the test, whatever becomes of it."""
    yield home
    end_all(home)


def statuses() -> dict[str, str]:
    """The status of every run in MLflow by name; trials left out."""
    found = queries.find_runs("toy", "")
    return {
        "pipeline" if run.data.tags[tag_names.KIND] == "pipeline" else run.info.run_name: run.info.status
        for run in found
        if run.data.tags[tag_names.KIND] != "trial"
    }


def is_searching(home: Path) -> bool:
    """Whether a search has a finished trial and is at work on another."""
    for path in (home / "runs").glob("*/events.jsonl"):
        for event, _ in run_folder.events(path.parent.name):
            if event["step"] == "search" and event["event"] == "progress" and event["total"] == 500 and event["done"]:
                return True
    return False


# --- processes -------------------------------------------------------------------------------------------------------


def test_steps_inherit_where_they_write(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps get the home as an absolute path, and nothing of theirs calls home."""
    monkeypatch.setenv("THAWLINE_HOME", "somewhere")
    environment = runner.environment()
    assert environment["THAWLINE_HOME"] == str(Path.cwd() / "somewhere")
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_modules_of_the_users_hide_none_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Called where another `components` and another queue.py lie, steps import ours and the standard library's.

    A task module that lies there is found all the same.
    """
    for name in ("components", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "mine/task.py").write_text("metric = 'accuracy'\n")
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong queue')\n")
    monkeypatch.chdir(tmp_path)
    code = "import components, queue; from components.core import contract; print(components.__file__)\n"
    code += "import os, sys; sys.path.append(os.environ[contract.TASKS_FOLDER]); import mine.task"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=runner.environment()
    )
    assert done.stdout == f"{ROOT / 'components/__init__.py'}\n", done.stderr


def test_a_process_lives_until_its_group_is_gone(tmp_path: Path) -> None:
    """A run lives while its process does, and after an interruption while any process of its steps does."""
    code = "import subprocess, sys; subprocess.Popen(['sleep', '600']); print('ready', flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    assert runner.lives(child, group=False)
    child.stdin.close()
    child.wait(60)
    assert not runner.lives(child, group=False)
    assert runner.lives(child, group=True)
    runner.stop(child, signal.SIGKILL)
    wait_for(lambda: not runner.lives(child, group=True), 60)
    runner.stop(child, signal.SIGKILL)  # a group that is gone is no error
    child.stdout.close()


def test_launch_leaves_what_the_exit_handler_needs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's folder holds its settings before the DAG's process starts, and that process's output."""
    seen: dict[str, object] = {}

    def popen(command: list[str], **options: object) -> str:
        seen.update(options, command=command)
        return "child"

    monkeypatch.setattr(subprocess, "Popen", popen)
    settings = Settings(model="toy", trials=0)
    runner.launch("points", settings, "key")
    folder = home / "runs/key"
    assert Settings.from_json((folder / "settings.json").read_text()) == settings
    assert (folder / "log.txt").exists()
    assert seen["start_new_session"] is True
    assert json.loads(seen["command"][-1]) == {  # type: ignore[index]  # a list
        "source": "points",
        "settings": settings.to_json(),
        "run_key": "key",
    }


# --- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_signal_is_an_interruption(number: signal.Signals, ignored: bool) -> None:  # noqa: FBT001 - passed by name
    """SIGTERM and a closed terminal are what Ctrl-C is to Python; under nohup a closed terminal stays ignored."""
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        catch_signals()
        with nullcontext() if ignored and number == signal.SIGHUP else pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@pytest.mark.slow
def test_an_interrupted_run_closes_its_runs(tmp_path: Path, ended: Path) -> None:
    """A signal in the search: status 1, no run RUNNING, no process left."""
    source = write_points(tmp_path / "points", per_class=20)
    command = start("run", str(source), *TOY, *SEARCHING, "--json", home=ended, cwd=tmp_path)
    wait_for(lambda: is_searching(ended))
    command.send_signal(signal.SIGTERM)
    out, err = command.communicate(timeout=120)
    assert command.returncode == 1
    result = json.loads(out)
    assert (result["status"], result["reason"]) == ("failed", "The run was interrupted.")
    assert err.splitlines()[-1].startswith("Error: The run was interrupted.")
    assert "Traceback" not in err
    assert processes(ended) == []
    assert statuses() == {
        "pipeline": "FAILED",
        "detect_changes": "FINISHED",
        "prepare_data": "FINISHED",
        "search": "FAILED",
    }
    trials = queries.find_runs("toy", "", "trial")
    assert trials
    assert "RUNNING" not in {run.info.status for run in trials}


@pytest.mark.slow
def test_the_next_run_closes_what_a_kill_left(tmp_path: Path, ended: Path) -> None:
    """A run whose processes are killed stays RUNNING in MLflow until the next run closes it at its start."""
    source = write_points(tmp_path / "points", per_class=20)
    command = start("run", str(source), *TOY, *SEARCHING, home=ended, cwd=tmp_path)
    wait_for(lambda: is_searching(ended))
    [killed] = (ended / "runs").iterdir()
    os.killpg(command.pid, signal.SIGKILL)  # first the command: it would clean up
    os.killpg(json.loads((killed / "lease.json").read_text())["pid"], signal.SIGKILL)
    command.communicate(timeout=60)
    wait_for(lambda: processes(ended) == [], 60)
    assert statuses() == {
        "pipeline": "RUNNING",
        "detect_changes": "FINISHED",
        "prepare_data": "FINISHED",
        "search": "RUNNING",
    }
    assert not (killed / "result.json").exists()

    (source / "class0/broken.txt").write_text("no point")
    answer = thawline("run", str(source), *TOY, "--max-rejected", "0", home=ended, cwd=tmp_path)  # ends soon
    assert answer.status == 2, answer.err
    found = queries.find_runs("toy", killed.name)
    assert {run.info.status for run in found if run.data.tags[tag_names.KIND] != "trial"} == {"KILLED", "FINISHED"}
    assert "RUNNING" not in statuses().values()
    assert json.loads((killed / "result.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_an_unexpected_failure_names_its_step_and_log(tmp_path: Path, ended: Path) -> None:
    """A step that breaks: status 1, the reason names the step, the log holds the traceback, no run is RUNNING."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/task.py").write_text(
        "from tests.fakes import toy\n"
        "globals().update({k: v for k, v in vars(toy).items() if not k.startswith('__')})\n"
        "from components.core.targets.classification import Classification\n"
        "class Failing(Classification):\n    def loss(*_arguments, **_options):\n"
        "        raise RuntimeError('boom at the first batch')\n"
        "def target(settings):\n    return Failing()\n"
    )
    source = write_points(tmp_path / "points", per_class=20)
    options = ["--task", "mine.task", "--model", "toy", "--trials", "0", "--json"]
    answer = thawline("run", str(source), *options, home=ended, cwd=tmp_path)
    assert answer.status == 1
    result = json.loads(answer.out)
    assert (result["status"], result["reason"]) == ("failed", "The step train_head failed.")
    last = answer.err.splitlines()[-1]
    log = Path(last.partition("Its log is ")[2].removesuffix("."))
    assert last == f"Error: The step train_head failed. Its log is {log}."
    assert "boom at the first batch" in log.read_text()
    assert "Traceback" not in answer.err
    assert processes(ended) == []
    assert statuses() == {
        "pipeline": "FAILED",
        "detect_changes": "FINISHED",
        "prepare_data": "FINISHED",
        "train_head": "FAILED",
    }


@pytest.mark.slow
def test_a_run_that_is_cut_short_and_the_next_one(tmp_path: Path, ended: Path) -> None:
    """Without time one epoch is trained, registered and told; nothing is promoted, and the next run trains again."""
    source = write_points(tmp_path / "points", per_class=60)
    command = [
        COMMAND,
        "run",
        str(source),
        *TOY,
        "--trials",
        "2",
        "--json",
        "--machine",
        "m1",
        "--price-per-hour",
        "3.6",
    ]
    with listening() as hook:
        address = {"THAWLINE_WEBHOOK_URL": hook.address, "NO_PROXY": "127.0.0.1"}
        for limit in (["--step-max-minutes", "1e-9"], []):
            done = subprocess.run(
                [*command, *limit],
                capture_output=True,
                text=True,
                check=False,
                cwd=tmp_path,
                env={**environment(ended), **address},
            )
            assert done.returncode == 0, done.stderr
    first, second = hook.messages
    assert first["run"]["cut"].startswith("The search was skipped: --step-max-minutes 1e-09 was used up.")
    assert "The training of the head stopped after 1 of 12 epochs" in first["run"]["reason"]
    assert (first["run"]["version"], first["run"]["promoted"]) == ("1", False)
    assert " on m1, about 0." in first["run"]["cost"]
    assert second["run"]["changes"].startswith("A deadline cut the run")
    assert (second["run"]["version"], second["run"]["cut"]) == ("2", "")
    assert json.loads(done.stdout) == {**json.loads(done.stdout), "promoted": True, "cut": ""}
    assert SECRET not in done.stdout + done.stderr
    holding = [path for path in ended.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert holding == []
