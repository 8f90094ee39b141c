"""One run of the whole DAG by the command line, which many tests look at."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from tests.fakes.toy import write_points
from tests.support.command import TOY, Answer, thawline

if TYPE_CHECKING:
    from tests.fakes.kubeflow.server import Kubeflow


@dataclass(frozen=True)
class WholeRun:
    """A finished `thawline run … --json` and the folders around it."""

    answer: Answer
    source: Path
    home: Path
    cwd: Path

    @property
    def result(self) -> dict[str, Any]:
        """The last line of stdout."""
        result: dict[str, Any] = json.loads(self.answer.out.splitlines()[-1])
        return result


@pytest.fixture(scope="session")
def _whole_run(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # parallel workers look at one run
    folder = shared / "whole run"  # the space is on purpose: a home may have one
    with FileLock(shared / "whole-run.lock"):
        said = folder / "said.json"
        run = WholeRun(Answer(0, "", ""), folder / "points", folder / "home", folder / "cwd")
        if not said.exists():
            shutil.rmtree(folder, ignore_errors=True)
            run.cwd.mkdir(parents=True)
            write_points(run.source, per_class=60)
            answer = thawline("run", str(run.source), *TOY, "--trials", "2", "--json", home=run.home, cwd=run.cwd)
            said.write_text(json.dumps(answer))
        return WholeRun(Answer(*json.loads(said.read_text())), run.source, run.home, run.cwd)


@pytest.fixture
def whole(_whole_run: WholeRun, monkeypatch: pytest.MonkeyPatch) -> WholeRun:
    """A run of all steps by the command line, THAWLINE_HOME set to its home. Not to be changed by a test."""
    assert _whole_run.answer.status == 0, _whole_run.answer.err
    monkeypatch.setenv("THAWLINE_HOME", str(_whole_run.home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return _whole_run


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
