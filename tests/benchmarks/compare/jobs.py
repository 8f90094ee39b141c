"""What is run for each part, and how one run is carried out and kept."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from components.core.digests import digest
from components.core.settings import Settings
from tests.benchmarks.compare.data import dataset_of
from tests.benchmarks.compare.recipe import searched, settings_of

ROOT = Path(__file__).parents[3]
PEERS = ("plain", "plain-kept", "fastai", "lightning")  # plain-kept: with the allocator set as Thawline sets it
MODULES = {"fastai": "fastai_loop.py", "lightning": "lightning_loop.py"}
PEER_BATCH = 64  # fastai's default; Lightning has none


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    parts: tuple[int, ...]
    data: tuple[str, ...]  # fashion, stamps
    output: Path
    stamps: Path
    train: int
    validation: int
    test: int
    image_size: int
    head_epochs: tuple[int, ...]
    thaw_epochs: int
    depths: tuple[int, ...]
    repetitions: int
    trials: int
    plain_trials: int
    growth: tuple[int, ...]
    own_epochs: int  # of the head phase in part 3; 0: Thawline's default
    peers: tuple[str, ...]  # that Thawline is compared with

    def fashion(self, train: int) -> str:
        """The name of a set of that size."""
        return f"fashion-{train}-{self.validation}-{self.test}"

    def names(self) -> list[str]:
        """The sets that parts 1 to 3 run on; the others run on the first."""
        return [self.fashion(self.train) if name == "fashion" else name for name in self.data]


@dataclass(frozen=True)
class Job:
    """One measured run, or a pair of runs that share a home."""

    kind: str  # phases, defaults, search, week, skip, limit
    system: str
    data: str
    settings: dict[str, Any]
    thaws: tuple[int, ...] = ()
    trials: int = 0
    later: str = ""  # of `week`: the set with new data

    def key(self, repetition: int) -> str:
        """Identifies the run with the code that it measures."""
        facts = [self.kind, self.system, self.data, self.settings, list(self.thaws), self.trials, self.later]
        return digest([*facts, repetition, code_of(self.system)])[:16]


def code_of(system: str) -> str:
    """A digest of the measured code: all of Thawline for Thawline, the peer's own file for a peer."""
    here = Path(__file__).parent
    files = [here / "recipe.py", here / "child.py", here / MODULES.get(system, "plain.py")]
    if system == "thawline":
        files = [*sorted((ROOT / "components").rglob("*.py")), here / "child.py"]
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def groups(options: Options) -> Iterator[list[Job]]:
    """Runs that are compared with each other: their systems alternate."""
    parts, first = set(options.parts), options.head_epochs[0]
    for name in options.names():
        if parts & {1, 2, 8}:
            yield _phases(name, _recipe(options, first), options.depths if parts & {2, 8} else (), options)
        for epochs in options.head_epochs[1:] if 1 in parts else ():
            yield [Job("phases", system, name, _recipe(options, epochs)) for system in ("thawline", *options.peers)]
        if 3 in parts:
            yield _defaults(name, options)
    others = {4: _search, 5: _week, 6: _twice, 7: _growth, 8: _limit}
    for part, make in others.items():
        if part in parts:
            yield make(options, _recipe(options, first))


def _recipe(options: Options, epochs: int) -> dict[str, Any]:
    return settings_of(options.image_size, epochs, options.thaw_epochs).model_dump()


def _search(options: Options, recipe: dict[str, Any]) -> list[Job]:
    free = searched(Settings.model_validate(recipe), options.trials).model_dump()
    plain = Job("search", "plain", options.names()[0], free, trials=options.plain_trials or options.trials)
    return [Job("search", "thawline", options.names()[0], free), plain]


def _week(options: Options, recipe: dict[str, Any]) -> list[Job]:
    later = options.fashion(round(options.train * 1.05))
    return [Job("week", "thawline", options.fashion(options.train), recipe, (2,), later=later)]


def _twice(options: Options, recipe: dict[str, Any]) -> list[Job]:
    return [Job("skip", "thawline", options.names()[0], recipe)]


def _growth(options: Options, recipe: dict[str, Any]) -> list[Job]:
    return [Job("phases", "thawline", options.fashion(count), recipe, (2,)) for count in options.growth]


def _limit(options: Options, recipe: dict[str, Any]) -> list[Job]:
    return [Job("limit", "machine", options.names()[0], recipe)]


def _phases(name: str, settings: dict[str, Any], depths: Sequence[int], options: Options) -> list[Job]:
    """Thawline once for the head and once for each depth, with the peers' runs between: each a home of its own."""
    own = [Job("phases", "thawline", name, settings, thaws) for thaws in [(), *((depth,) for depth in depths)]]
    if not set(options.parts) & {1, 2}:
        return own
    peers = [Job("phases", system, name, settings, tuple(depths)) for system in options.peers]
    mixed = [job for pair in zip(own, peers, strict=False) for job in pair]
    return [*mixed, *own[len(peers) :], *peers[len(own) :]]


def _defaults(name: str, options: Options) -> list[Job]:
    size = {"image_size": options.image_size}
    own = Settings.model_validate({**size, **({"head_epochs": options.own_epochs} if options.own_epochs else {})})
    peers = Settings.model_validate({**size, "batch_size": PEER_BATCH, "thaw_epochs": options.thaw_epochs})
    return [
        Job("defaults", "thawline", name, own.model_dump()),
        *(
            Job("defaults", system, name, peers.model_dump())
            for system in ("fastai", "lightning")
            if system in options.peers
        ),
    ]


def run(job: Job, options: Options) -> dict[str, Any]:
    """Carry a job out in fresh processes with an empty home; the home is removed."""
    dataset, source = dataset_of(job.data, options.output / "compare", options.stamps)
    homes = options.output / "compare" / "homes"
    homes.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=homes) as home:
        if job.kind == "skip":
            return _skip(source, job, home)
        if job.kind == "week":
            later, _ = dataset_of(job.later, options.output / "compare", options.stamps)
            return {"first": _child(job, dataset, home), "second": _child(job, later, home)}
        return _child(job, dataset, home)


def _child(job: Job, dataset: Path, home: str) -> dict[str, Any]:
    spec = {
        "job": "phases" if job.kind == "week" else job.kind,
        "system": job.system,
        "dataset": str(dataset.resolve()),
        "settings": job.settings,
        "home": str(Path(home).resolve()),
        "thaws": job.thaws,
        "trials": job.trials,
    }
    command = [sys.executable, "-m", "tests.benchmarks.compare.child", json.dumps(spec)]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{job.kind} of {job.system} failed:\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _environment() -> dict[str, str]:
    """This environment, without another MLflow server and with nothing that calls home."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "THAWLINE_"))}
    return {**mine, "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet", "PYTHONWARNINGS": "ignore"}


def _skip(source: str, job: Job, home: str) -> dict[str, Any]:
    """The whole pipeline twice by the command line, with nothing changed in between."""
    size = str(job.settings["image_size"])
    command = [sys.executable, "-m", "pipelines.cli", "run", source, "--home", str(Path(home).resolve()), "--json"]
    command += ["--image-size", size, "--trials", "0", "--head-epochs", "1", "--thaw-epochs", "1"]
    command += ["--near-duplicates", "-1"]  # as the benchmark's own data are prepared
    found: dict[str, Any] = {"time": time.time()}
    for turn in ("first", "second"):
        begin = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"thawline run failed:\n{done.stderr[-4000:]}")
        found[turn] = {"seconds": time.perf_counter() - begin, "status": json.loads(done.stdout)["status"]}
    return found
