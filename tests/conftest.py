"""Fixed seeds, a home folder of its own for every test, and runs of the DAG that several tests look at."""

import ctypes
import gc
import os
import random
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from components.core.storage import home_folder

if TYPE_CHECKING:
    from tests.support.plain import PlainRun

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before mlflow is imported anywhere: tests reach no network
os.environ["HF_HUB_OFFLINE"] = "1"  # as above
os.environ["GIT_PYTHON_REFRESH"] = "quiet"
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side; threads that wait for each other cost minutes


# Fixtures that cost a session much: their tests stay on one of several workers, each group on one of its own.
# The engine comes first: a worker that has it keeps others from it to its end, so no test of it may go elsewhere.
GROUPS = {"engine": "engine", "mlflow_server": "services", "postgres": "services", "_whole_run": "whole run"}

MEMORY = 2 * 1024**3  # bytes of a process
GROWTH = 1024**3  # bytes more than were left after a search for garbage, before the next one


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among what modules import: that took a third of the collection, and goes on in every test."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before xdist reads the marks, which it does first of all
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Let parallel workers take single tests, but those together that share a costly fixture; runs of the DAG first.

    What depends on a parameter of a module's fixture stays together by the parameter: each network is built once.
    """
    for item in items:
        assert isinstance(item, pytest.Function)
        group = next((GROUPS[name] for name in GROUPS if name in item.fixturenames), "") or _shared_in_module(item)
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_place)  # type: ignore[arg-type]  # they are functions, as said above
    yield


# Minutes at the end would leave the other workers idle.
LONG = (
    *("tests/docker", "tests/pipelines", "tests/test_half", "tests/faults", "tests/components/tasks"),
    *("tests/thawline", "tests/test_contributing", "tests/test_quality", "tests/components/core/activations"),
)


def _place(item: pytest.Function) -> tuple[int, bool, int]:
    """Groups first, as they stand above, then who looks at the toy's run, then folders of long tests.

    While one worker has a group, another one makes the run, and none waits for it.
    """
    groups = list(dict.fromkeys(GROUPS.values()))
    names = [mark.args[0] for mark in item.iter_markers("xdist_group")]
    place = min((groups.index(name) for name in names if name in groups), default=len(groups))
    folder = min((i for i, name in enumerate(LONG) if item.location[0].startswith(name)), default=len(LONG))
    return place, "_toy_run" not in item.fixturenames, folder


def _shared_in_module(item: pytest.Function) -> str:
    scopes = {name: found[-1].scope for name, found in item._fixtureinfo.name2fixturedefs.items()}
    shared = [name for name, scope in scopes.items() if scope in ("class", "module", "package")]
    parameters = item.callspec.indices if hasattr(item, "callspec") else {}
    values = [f"{name} {parameters[name]}" for name in shared if name in parameters]
    return " ".join([item.location[0], *values]) if shared else ""


@pytest.fixture(autouse=True)
def _seeds_fixed() -> Iterator[None]:
    """Begin each test with the same random numbers, and leave none of its `deterministic` to the next."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - seeds what libraries draw from the global generator
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture(scope="session")
def _most_memory() -> list[int]:
    """The bytes beyond which a search for garbage is worth its seconds: a process may stay above `MEMORY` for good."""
    return [MEMORY]


@pytest.fixture(autouse=True)
def _memory_goes_back(_most_memory: list[int]) -> Iterator[None]:
    """Return freed memory to the system where a process has more than 2 GB: two workers reached 10 GB each.

    Networks that were built and dropped leave cycles, and holes in glibc's heap, which keeps them.
    """
    yield
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim and _resident() > _most_memory[0]:
        gc.collect()
        trim(0)
        _most_memory[0] = max(MEMORY, _resident() + GROWTH)


def _resident() -> int:
    """The bytes of this process; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@pytest.fixture(scope="session", autouse=True)
def _stores_are_not_synced() -> Iterator[None]:
    """Let the system choose when SQLite's writes reach the disk: a test's store need not survive a loss of power."""
    import sqlite3

    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def connected(connection: object, _record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", connected)
    yield
    event.remove(Engine, "connect", connected)


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that the first of all parallel workers makes, and that all look at."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, finished = shared / name, shared / f"{name}.finished"
    with FileLock(shared / f"{name}.lock"):
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            finished.touch()
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty THAWLINE_HOME."""
    folder = tmp_path / "home"
    use_home(folder, monkeypatch)
    return folder


def use_home(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make a folder THAWLINE_HOME and forget the store of the test before: mlflow keeps it in the environment."""
    patch.setenv("THAWLINE_HOME", str(folder))
    patch.setenv("THAWLINE_OUTAGE_SECONDS", "0")  # a server that a test has taken away does not come back
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        patch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def _stores_are_alike() -> Iterator[None]:
    """Compile SQL, and look up the schema that MLflow expects, once for all stores: each of them took 80 ms for it."""
    from functools import cache

    from mlflow.store.db import utils
    from sqlalchemy.engine import Engine

    open_one, known = utils.create_sqlalchemy_engine, list[Engine]()

    def opened(uri: str) -> Engine:
        engine: Engine = open_one(uri)
        if engine.dialect.name == "sqlite":
            first = (known or known.append(engine) or known)[0]
            engine.dialect = engine.pool._dialect = first.dialect  # the keys of what was compiled have it
            engine._compiled_cache = first._compiled_cache
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "create_sqlalchemy_engine", opened)
        patch.setattr(utils, "_get_latest_schema_revision", cache(utils._get_latest_schema_revision))
        yield


@pytest.fixture(scope="session")
def store(_stores_are_alike: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty MLflow store: copied into a home, it saves the seconds of a migration."""

    def migrated(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            use_home(folder, patch)
            from components.core.tracking.service import local_store

            local_store.migrate()

    return made_once(tmp_path_factory, "store", migrated)


@pytest.fixture
def tracked_home(home: Path, store: Path) -> Path:
    """A home whose MLflow store is ready."""
    copy_store(store, home)
    return home


TOY = {
    "task": "tests.fakes.toy",
    "model": "toy",
    "head_solver": "sgd",  # most of what is tested on it is about epochs; tests of a solved head ask for it
    "head_epochs": 12,
    "head_learning_rate": 0.05,
    "thaw_learning_rate": 0.01,
}


@pytest.fixture(scope="session")
def toy_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 180 points in three classes."""
    from tests.fakes.toy import write_points

    return write_points(tmp_path_factory.mktemp("points"), per_class=60)


@pytest.fixture(scope="session")
def toy_dataset(toy_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The points, prepared."""
    from components.core.data.lineage import Lineage
    from components.core.data.preparation import prepare
    from components.core.settings import Settings

    folder = tmp_path_factory.mktemp("dataset")
    prepare(str(toy_source), Settings(**TOY), folder, Lineage("0"), lambda _done, _total, _text: None)
    return folder


def copy_store(store: Path, home: Path) -> None:
    """Give a home a ready MLflow store."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(store / "mlflow.db", home)
    home_folder.mark_store_current(home / "mlflow.db")


@pytest.fixture(scope="session")
def _toy_run(toy_source: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "PlainRun"]:
    from components.core.compute import child_processes
    from components.core.registry import versions
    from components.core.settings import Settings
    from tests.support import forks
    from tests.support.plain import PlainRun, run_steps

    def run(folder: Path) -> None:
        copy_store(store, folder / "home")
        with pytest.MonkeyPatch.context() as patch:
            use_home(folder / "home", patch)
            patch.setattr(child_processes, "context", forks.context)
            # the seconds of its clean process are spent in the run by the command line
            patch.setattr(versions, "trying_out", lambda _folder: nullcontext(lambda: lambda: "[]"))
            done = run_steps(toy_source, Settings(**TOY, trials=3, search_workers=1), folder / "artifacts")
        (folder / "run.json").write_text(done.to_json())

    folder = made_once(tmp_path_factory, "toy-run", run)
    return folder / "home", PlainRun.from_json((folder / "run.json").read_text())


@pytest.fixture(scope="session")
def _three_versions(_toy_run: tuple[Path, "PlainRun"], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from components.core.registry import versions
    from components.core.tracking import runs

    home, toy = _toy_run

    def add_two(folder: Path) -> None:
        copy_home(home, folder / "home")
        with pytest.MonkeyPatch.context() as patch:
            use_home(folder / "home", patch)
            patch.setattr(versions, "smoke_test", str)
            for _ in range(2):
                run = runs.StepRun("register", "key", toy.settings, "", "")
                versions.add_version("toy", toy.folder / "served", run, {"thawline.accepted": "true"})

    return made_once(tmp_path_factory, "three-versions", add_two) / "home"


@pytest.fixture
def toy_run(_toy_run: tuple[Path, "PlainRun"], monkeypatch: pytest.MonkeyPatch) -> "PlainRun":
    """A finished run of all steps on the toy task, THAWLINE_HOME set to its home. Not to be changed by a test."""
    home, run = _toy_run
    use_home(home, monkeypatch)
    return run


@pytest.fixture
def toy_home(_toy_run: tuple[Path, "PlainRun"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "PlainRun":
    """A copy of that run's home that a test may change."""
    home, run = _toy_run
    copy_home(home, tmp_path / "home")
    use_home(tmp_path / "home", monkeypatch)
    return run


@pytest.fixture
def three_versions(
    _toy_run: tuple[Path, "PlainRun"], _three_versions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> "PlainRun":
    """A copy of that run's home with versions 2 and 3 of the same files; version 1 is champion."""
    copy_home(_three_versions, tmp_path / "home")
    use_home(tmp_path / "home", monkeypatch)
    return _toy_run[1]


@pytest.fixture
def smoke_tested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The clean process of the smoke test is taken for granted; the list holds the folders that were to be tried."""
    from components.core.registry import versions

    tried: list[str] = []

    def answered(folder: Path) -> str:
        tried.append(str(folder))
        return "[]"

    monkeypatch.setattr(versions, "smoke_test", answered)
    monkeypatch.setattr(versions, "trying_out", lambda folder: nullcontext(lambda: partial(answered, folder)))
    return tried


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are empty: drawing them is half of an evaluation, and tested beside them and in whole runs."""
    from components.core.reporting import charts

    monkeypatch.setattr(charts, "to_svg", lambda _figure: "<svg></svg>")


def copy_home(home: Path, copy: Path) -> None:
    """Copy a home with its MLflow store, in which MLflow keeps absolute paths."""
    from components.core.tracking.service.relocation import relocate

    shutil.copytree(home, copy)
    relocate(copy)
    home_folder.mark_store_current(copy / "mlflow.db")
