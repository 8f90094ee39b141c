"""Steps as forks of one process that has the libraries loaded."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipelines.fine_tuning import fine_tuning
from pipelines.local import warm_process
from pipelines.terminal.display import STEPS
from tests.support.command import ROOT

SHELL = ["sh", "-ec", 'python3 -m kfp.dsl.executor_main --component_module_path "$program_path/…" "$@"']


def command(body: str, folder: Path) -> list[str]:
    """What kfp.local runs for a component whose body is given; it may use `folder`."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    outputs = {"outputFile": str(folder / "output.json"), "parameters": {"Output": {"outputFile": "unused"}}}
    inputs = {"inputs": {"parameterValues": {"folder": str(folder)}}, "outputs": outputs}
    arguments = ["--executor_input", json.dumps(inputs), "--function_to_execute", "step"]
    return [*SHELL, f"def step(folder: str) -> str:\n{lines}", *arguments]


def run(body: str, folder: Path, environment: Mapping[str, str] | None = None) -> int:
    """Run a component in a fork, and nothing else."""

    def original(_command: list[str], _environment: dict[str, str] | None) -> int:
        pytest.fail("kfp's own way was taken")

    return warm_process.run(command(body, folder), dict(environment or {}), original)


def said(folder: Path) -> str:
    """What the component returned."""
    output = json.loads((folder / "output.json").read_text())
    return str(output["parameterValues"]["Output"])


def test_kfp_writes_commands_of_the_known_form() -> None:
    """The commands of the compiled DAG are those that a fork can do."""
    executors = fine_tuning.pipeline_spec.deployment_spec["executors"]
    commands = [[*executors[name]["container"]["command"]] for name in executors]
    assert len(commands) == len(STEPS) - 1  # one pod searches and selects
    assert all(warm_process._parsed(one) for one in commands)


def test_a_fork_does_what_kfps_command_does(tmp_path: Path) -> None:
    """A step gets its inputs and its environment, and what it returns is where kfp looks."""
    assert run("import os\nreturn f'{os.environ[\"MORE\"]} in {folder}'", tmp_path, {"MORE": "told"}) == 0
    assert said(tmp_path) == f"told in {tmp_path}"


def test_a_step_that_fails_is_a_failure_of_its_own(tmp_path: Path) -> None:
    """An exception, an exit status and a kill end one step, and the next one runs."""
    assert run("raise ValueError('broken')", tmp_path) == 1
    assert run("raise SystemExit(3)", tmp_path) == 3
    assert run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", tmp_path) == -signal.SIGKILL
    assert run("return 'goes on'", tmp_path) == 0
    assert said(tmp_path) == "goes on"


def test_a_step_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    """Variables, modules, the working folder, threads and temporary files end with their step."""
    mess = (
        "import os, sys, threading, time\n"
        "os.environ['LEFT'] = 'over'\nsys.modules['left'] = sys\nos.chdir(folder)\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\nreturn ''"
    )
    look = (
        "import os, sys, threading\n"
        "return f\"{'LEFT' in os.environ} {'left' in sys.modules} {os.getcwd() == folder} \""
        'f"{[t.name for t in threading.enumerate() if not t.daemon]}"'
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    assert run(mess, tmp_path, {"TMPDIR": str(temporary)}) == 0
    assert run(look, tmp_path, {"TMPDIR": str(temporary)}) == 0
    assert said(tmp_path) == "False False False ['MainThread']"
    assert [*temporary.iterdir()] == []


def test_an_unknown_command_goes_kfps_own_way(tmp_path: Path) -> None:
    """A command of another form is left to kfp."""
    asked: list[list[str]] = []

    def original(command: list[str], _environment: dict[str, str] | None) -> int:
        asked.append(command)
        return 5

    assert warm_process.run(["python", "-m", "other"], None, original) == 5
    assert asked == [["python", "-m", "other"]]


def script(code: str, folder: Path) -> str:
    """What a program printed that forks steps; the fork server of this process has other libraries."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"},
    )
    return done.stdout


def test_a_process_that_dies_while_it_loads_is_done_without(tmp_path: Path) -> None:
    """Steps run as kfp runs them where the libraries' process is gone, and the log says so."""
    (tmp_path / "deadly.py").write_text("import os\nos._exit(3)\n")
    code = (
        "import logging, sys\nfrom multiprocessing import forkserver\nfrom pipelines.local import warm_process\n"
        "logging.basicConfig(stream=sys.stdout, format='%(message)s')\n"
        "forkserver.set_forkserver_preload(['deadly'])\n"
        f"print(warm_process.run({command('return 0', tmp_path)!r}, None, lambda *_: 7))"
    )
    out = script(code, tmp_path)
    assert "The step starts in a new interpreter: the process that loads the libraries is gone" in out
    assert out.endswith("7\n")


def test_processes_of_a_step_have_the_libraries_too(tmp_path: Path) -> None:
    """What a step starts is forked from the same process, and imports nothing again."""
    (tmp_path / "library.py").write_text(
        "import os, pathlib\nLOADED_BY = os.getpid()\n"
        "def tell(path):\n    pathlib.Path(path).write_text(f'{LOADED_BY} {os.getpid()}')\n"
    )
    step = (
        "import os, library\nfrom components.core.compute import child_processes\n"
        "child = child_processes.context().Process(target=library.tell, args=(f'{folder}/told',))\n"
        "child.start()\nchild.join()\n"
        "return f'{library.LOADED_BY} {os.getpid()} {child.exitcode}'"
    )
    code = (
        "from multiprocessing import forkserver\nfrom pipelines.local import warm_process\n"
        "forkserver.set_forkserver_preload(['library'])\n"
        f"print(warm_process.run({command(step, tmp_path)!r}, None, lambda *_: 7))"
    )
    assert script(code, tmp_path).endswith("\n0\n")
    server, own, status = map(int, said(tmp_path).split())
    loaded_by, child = map(int, (tmp_path / "told").read_text().split())
    assert status == 0
    assert loaded_by == server
    assert len({server, own, child}) == 3


def test_a_step_collects_its_own_garbage_alone(tmp_path: Path) -> None:
    """In a step garbage is searched for, and not among what the libraries' process has loaded."""
    step = (
        "import gc, os\nfound = f'{gc.isenabled()} {gc.get_freeze_count() > 1000}'\n"
        "before = gc.get_freeze_count()\n"
        "if not (child := os.fork()):\n    os._exit(0)\n"
        "os.waitpid(child, 0)\nreturn f'{found} {gc.get_freeze_count() == before}'"
    )
    code = (
        "from multiprocessing import forkserver\nfrom pipelines.local import warm_process\n"
        "forkserver.set_forkserver_preload([warm_process.FIRST])\n"
        f"print(warm_process.run({command(step, tmp_path)!r}, None, lambda *_: 7))"
    )
    assert script(code, tmp_path).endswith("\n0\n")
    assert said(tmp_path) == "True True True"


def test_a_long_path_of_temporary_files_is_done_without(tmp_path: Path) -> None:
    """Where a socket's path would be too long, steps run as kfp runs them, and the log says why."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    code = (
        "import logging, sys, tempfile\nfrom pipelines.local import warm_process\n"
        f"tempfile.tempdir = {str(long)!r}\nlogging.basicConfig(stream=sys.stdout, format='%(message)s')\n"
        "with warm_process.loading('own'):\n"
        f"    print(warm_process.run({command('return 0', tmp_path)!r}, None, lambda *_: 7))"
    )
    out = script(code, tmp_path)
    assert "can't be started: AF_UNIX path too long" in out
    assert out.endswith("7\n")


@pytest.mark.slow
def test_libraries_are_loaded_without_a_trace_of_work(tmp_path: Path) -> None:
    """What steps import is loaded, the GPU untouched, and no thread is there but Arrow's, which handles forks."""
    body = (
        "import os, sys\nimport torch\n"
        "threads = len(os.listdir(f'/proc/{os.getppid()}/task'))\n"
        "missing = {'mlflow', 'timm', 'torchvision', 'components.evaluate'} - set(sys.modules)\n"
        "return f'{threads} {torch.cuda.is_initialized()} {missing} {\"kfp.client\" in sys.modules}'"
    )
    code = (
        "from pipelines.local import warm_process\nwith warm_process.loading('image_classification'):\n"
        f"    print(warm_process.run({command(body, tmp_path)!r}, {{}}, None))"
    )
    assert script(code, tmp_path).endswith("0\n")
    assert said(tmp_path) in ("1 False set() False", "2 False set() False")
