"""One run of the whole DAG by the command line, which many tests look at."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pipelines.local.demo import fetch_demo
from tests.conftest import made_once
from tests.fakes.toy import write_points
from tests.support.command import ROOT, TOY, Answer, on_all_cores, thawline

if TYPE_CHECKING:
    from tests.fakes.kubeflow.server import Kubeflow


SECRET = "hunter2"  # noqa: S105 - planted


@dataclass(frozen=True)
class WholeRun:
    """A finished `thawline run … --json` and the folders around it."""

    answer: Answer
    source: Path
    home: Path
    cwd: Path
    temporary: Path  # its TMPDIR

    @property
    def result(self) -> dict[str, Any]:
        """The last line of stdout."""
        result: dict[str, Any] = json.loads(self.answer.out.splitlines()[-1])
        return result


@pytest.fixture(scope="session", autouse=True)
def _kfp_reads_no_source() -> Iterator[None]:
    """What kfp asks the stack for is a function's name.

    `inspect.stack` reads the source around each call besides, and looks through all modules for it: a compilation
    takes 0.6 s where a command has imported little, and 20 s among all that tests import.
    """
    from kfp.dsl import pipeline_task

    def stack() -> list[tuple[None, None, None, str]]:
        frames: list[tuple[None, None, None, str]] = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            frames.append((None, None, None, frame.f_code.co_name))  # as in FrameInfo
            frame = frame.f_back
        return frames

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_task, "inspect", SimpleNamespace(stack=stack))
        yield


@pytest.fixture(scope="session")
def _whole_run(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    def run(folder: Path) -> None:
        (folder / "cwd").mkdir()
        (folder / "t").mkdir()
        points, home = write_points(folder / "points", per_class=60), folder / "home"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(folder / "t"))  # short: sockets lie in it
            for name in ("HTTPS_PROXY", "HTTP_PROXY", "AWS_ENDPOINT_URL"):
                patch.setenv(name, f"http://user:{SECRET}@127.0.0.1:9")
            answer = thawline("run", str(points), *TOY, "--trials", "2", "--json", home=home, cwd=folder / "cwd")
        (folder / "answer.json").write_text(json.dumps(answer))

    folder = made_once(tmp_path_factory, "whole run", run)  # the space is on purpose: a home may have one
    answer = Answer(*json.loads((folder / "answer.json").read_text()))
    return WholeRun(answer, folder / "points", folder / "home", folder / "cwd", folder / "t")


@pytest.fixture
def whole(_whole_run: WholeRun, monkeypatch: pytest.MonkeyPatch) -> WholeRun:
    """A run of all steps by the command line, THAWLINE_HOME set to its home. Not to be changed by a test."""
    assert _whole_run.answer.status == 0, _whole_run.answer.err
    monkeypatch.setenv("THAWLINE_HOME", str(_whole_run.home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return _whole_run


@pytest.fixture(scope="session")
def photos() -> Path:
    """The demo photos, where `make run` keeps them."""
    folder = ROOT / ".thawline/demo/stamps"
    folder.parent.mkdir(parents=True, exist_ok=True)
    fetch_demo(folder)
    return folder


@pytest.fixture(scope="session")
def demo_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """One run with the demo's settings; its result and its home. Not to be changed by a test."""

    def run(folder: Path) -> None:
        demo = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("DEMO := "))
        words = demo.removeprefix("DEMO := ").split()
        done = on_all_cores("run", str(photos), *words, "--json", home=folder / "home")
        assert done.status == 0, done.err
        (folder / "result.json").write_text(done.out.splitlines()[-1])

    folder = made_once(tmp_path_factory, "demo-run", run)
    return json.loads((folder / "result.json").read_text()), folder / "home"


_COMPILED: dict[str, Any] = {}


@pytest.fixture
def kubeflow_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Kubeflow"]:
    """A Kubeflow that commands find by their environment; the DAG is compiled once for the same options."""
    from pipelines.kubeflow import pods, submission
    from tests.fakes.kubeflow.server import serve

    def compile_once(options: pods.Cluster, dag: str) -> pods.Compiled:
        key = dag + options.model_dump_json()
        if key not in _COMPILED:
            _COMPILED[key] = pods.compile_dag(options, dag)
        return _COMPILED[key]  # type: ignore[no-any-return]  # what was put in

    monkeypatch.setattr(submission, "compile_dag", compile_once)
    for name in ("KFP_EXISTING_TOKEN", "KFP_NAMESPACE", "KF_PIPELINES_UI_ENDPOINT", "THAWLINE_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    with serve() as state:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", state.host)
        yield state
