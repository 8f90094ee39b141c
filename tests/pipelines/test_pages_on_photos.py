"""Commands of the pages as they stand there, in a shell, on the model that `make run` leaves."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services.servers import free_port
from tests.support.command import COMMAND, ROOT, environment
from tests.test_docs import fences

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="no curl or jq here"),
]
BASH = shutil.which("bash") or "bash"


def fences_of(page: str, *begin: str) -> list[str]:
    """The fences of a page that begin so, in their order."""
    return [fence for fence in fences(ROOT / f"docs/{page}.md") if fence.startswith(begin)]


def shell(script: str, folder: Path) -> str:
    """Run a script in bash, as pasted, but ending at the first failure; return what it printed."""
    env = {k: v for k, v in environment(folder).items() if k != "THAWLINE_HOME"}  # the pages' home is .thawline
    env |= {"PATH": f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [BASH, "-euo", "pipefail", "-c", script], check=False, capture_output=True, text=True, cwd=folder, env=env
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(demo_run: tuple[dict[str, Any], Path], photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the reader's after `make run`, with the pictures that the pages speak of."""
    _, home = demo_run
    found = tmp_path_factory.mktemp("pages")
    (found / ".thawline").symlink_to(home)
    (home / "demo").mkdir(exist_ok=True)
    if not (home / "demo/stamps").exists():
        (home / "demo/stamps").symlink_to(photos)
    (found / ".venv").symlink_to(sys.prefix)
    (found / "photos").symlink_to(photos)
    shutil.copy(min((photos / "bird").glob("*.png")), found / "crow.png")
    (found / "vehicles").mkdir()
    for picture in sorted((photos / "vehicle").glob("*.png"))[:3]:
        shutil.copy(picture, found / "vehicles")
    return found


def test_the_page_on_predictions(folder: Path) -> None:
    """An answer as JSON and a heat map come of the commands as pasted, with the answer that the page shows."""
    (as_json,) = (fence for fence in fences_of("predict-and-serve", "thawline predict") if "| jq" in fence)
    assert shell(as_json, folder) in fences(ROOT / "docs/predict-and-serve.md")
    (explain,) = fences_of("predict-and-serve", "thawline explain crow")
    shell(explain, folder)
    assert (folder / "crow-explained.png").stat().st_size


def test_the_page_without_thawline(folder: Path) -> None:
    """The version is downloaded and answers in Python and behind MLflow's server, all as pasted."""
    page = "predict-and-serve"
    (download,) = fences_of(page, "export MLFLOW_TRACKING_URI")
    (python,) = fences_of(page, "from pathlib import Path")
    (serve,) = fences_of(page, "source .venv/bin/activate")
    (ask,) = (fence for fence in fences_of(page, "base64") if "5001" in fence)
    (folder / "ask.py").write_text(python)
    ready = "until curl -sf http://127.0.0.1:5001/ping; do kill -0 $server; sleep 0.2; done"
    script = f"{download}\npython ask.py\n{serve}\ntrap 'kill $server' EXIT\n{ready}\n{ask}"
    printed = shell(script.replace("5001", str(free_port())), folder)
    assert printed.count("bird") >= 2


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[str]:
    """The port of the page's server."""
    (serve,) = fences_of("serving", "thawline serve")
    env = {k: v for k, v in environment(folder).items() if k != "THAWLINE_HOME"}
    words = [COMMAND, *serve.split()[1:], "--port", "0"]
    with subprocess.Popen(words, cwd=folder, env=env, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        said = re.search(r"answers at http://127\.0\.0\.1:(\d+)", server.stderr.readline())
        assert said
        yield said[1]
        server.terminate()
        server.stderr.read()


def test_the_page_on_serving(folder: Path, port: str) -> None:
    """Both requests of the page are answered, one picture by its bytes and two as base64."""
    one, two = (shell(fence.replace("8080", port), folder) for fence in fences_of("serving", "curl", "base64"))
    assert '"label":"bird"' in one
    assert two == '["bird","bird"]\n'


def test_the_quick_start(folder: Path) -> None:
    """The report has a path, and the champion knows the demo's birds."""
    assert shell("".join(fences_of("quick-start", "thawline report")), folder).endswith("report.html\n")
    (ask,) = fences_of("quick-start", "thawline predict")
    answers = shell(ask.partition("\n")[0], folder).splitlines()
    assert sum("\tbird\t" in line for line in answers) > len(answers) / 2


def test_the_page_on_networks(folder: Path) -> None:
    """The loop over a network's stages prints what the page shows."""
    (loop,) = fences_of("backbones", "python - ")
    assert shell(loop, folder) in fences(ROOT / "docs/backbones.md")
