"""How good the models are: a linear probe, fastai and Thawline on the same splits of twelve real sets.

    python -m tests.benchmarks.quality.run [--sets stamps clipart …] [--salts 5] [--contenders probe defaults …]

Contenders:
  probe      scikit-learn's logistic regression on the frozen features, C by cross-validation
  tfidf      the same on TF-IDF (texts only)
  fastai-5   fastai's fine_tune with its own augmentation and size, 5 epochs (pictures only)
  fastai-10  the same, 10 epochs
  head       thawline run --thaw 0 --trials 0
  defaults   thawline run --trials 0
  search     thawline run --trials 20

All contenders of a set and a salt share its splits; each runs in a fresh process, Thawline in a home of its own with
an empty store. Seconds are those of the whole command; CPU seconds, of all of its processes, are what to compare where
a machine is shared. Results are kept after every run: the same command goes on where it was stopped, and measures again
what ran other code. `python -m tests.benchmarks.quality.table FILE …` shows everything that files of results hold.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from components.core.data.dataset_info import DatasetInfo
from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.digests import digest
from components.core.machine.revision import code_revision
from components.core.settings import Settings
from components.core.storage.home_folder import write_text
from components.core.tracking.tag_names import THAWING_HELPED
from tests.benchmarks.quality.sets import DATA
from tests.benchmarks.quality.table import markdown

ROOT = Path(__file__).parents[3]
THAWLINE: dict[str, dict[str, int]] = {"head": {"thaw": 0, "trials": 0}, "defaults": {"trials": 0}, "search": {}}
CONTENDERS = ("probe", "tfidf", "fastai-5", "fastai-10", *THAWLINE)
ONLY = {"tfidf": "text", "fastai-5": "picture", "fastai-10": "picture"}


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    sets: tuple[str, ...]
    salts: int
    contenders: tuple[str, ...]
    trials: int
    image_size: int  # 0: what the weights expect
    output: Path

    @property
    def results(self) -> Path:
        """The file that every result is kept in."""
        return self.output / "quality.json"


@dataclass(frozen=True)
class Job:
    """One contender on one set with one salt."""

    data: str
    salt: int
    contender: str

    def settings(self, options: Options) -> dict[str, Any]:
        """Return the options of `thawline run`, as fields of `Settings`."""
        found = dict(DATA[self.data].options(options.output))
        if DATA[self.data].kind == "picture" and options.image_size:
            found["image_size"] = options.image_size
        if self.contender in THAWLINE:
            found |= {"trials": options.trials, **THAWLINE[self.contender]}
        return {**found, "split_salt": str(self.salt)}

    def key(self, options: Options) -> str:
        """Identify the run with the code that it measures."""
        facts = [self.data, self.salt, self.contender, self.settings(options), code_of(self.contender)]
        return digest(facts)[:16]


def code_of(contender: str) -> str:
    """Return a digest of the measured code: all of Thawline for Thawline, the peers' files for a peer.

    The probe's features are those of a run, so its network, its preprocessing and their defaults belong to it.
    """
    here, core = Path(__file__).parent, ROOT / "components/core"
    files = [here / "probe.py", here / "peers.py", core / "inference/images.py"]
    if contender == "probe":
        files += [*sorted((core / "networks").rglob("*.py")), *sorted((ROOT / "components/tasks").glob("*.py"))]
    elif contender in THAWLINE:
        files = [path for path in sorted((ROOT / "components").rglob("*")) if path.suffix in (".py", ".j2")]
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def jobs(options: Options) -> Iterator[Job]:
    """Yield every run: salt by salt, so that a benchmark that was stopped has something of every set."""
    for salt in range(options.salts):
        for name in options.sets:
            for contender in options.contenders:
                if ONLY.get(contender, DATA[name].kind) == DATA[name].kind:
                    yield Job(name, salt, contender)


def run(job: Job, options: Options) -> dict[str, Any]:
    """Carry a job out and return its figures; seconds are those of the whole command."""
    source = DATA[job.data].write(options.output)
    settings = job.settings(options)
    dataset = prepared(job, source, options)
    if job.contender in THAWLINE:
        return thawline(source, settings, DatasetInfo.read(dataset).digest, options.output)
    spec = {"peer": job.contender, "dataset": str(dataset.resolve()), "settings": settings}
    line, seconds = called(["-m", "tests.benchmarks.quality.peers", json.dumps(spec)])
    return {**json.loads(line), **seconds}


def prepared(job: Job, source: Path, options: Options) -> Path:
    """Return the folder of a set's splits with a salt, made once by the code of `prepare_data`."""
    settings = Settings.model_validate(job.settings(options))
    folder = options.output / "prepared" / f"{job.data}-{job.salt}"
    if not (folder / "dataset.json").exists():
        prepare(str(source.resolve()), settings, folder, Lineage(settings.split_salt), lambda *_: None)
    return folder


def thawline(source: Path, settings: dict[str, Any], splits: str, output: Path) -> dict[str, Any]:
    """Run Thawline as a user does, in a new home, and return its figures.

    Args:
        source: The data.
        settings: Options of the command line.
        splits: Digest of the dataset that the peers are measured on.
        output: Where the home is made; it is removed at the end.
    """
    arguments = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with tempfile.TemporaryDirectory(dir=output, prefix="home-") as home:
        command = ["-m", "pipelines.cli", "run", str(source.resolve()), "--home", str(Path(home).resolve())]
        line, seconds = called([*command, *arguments, "--json"])
        result = json.loads(line)
        if result["dataset_digest"] != splits:
            sys.exit(f"Thawline split {source} in another way than its peers")
        metrics = result["metrics"]
        figures = {"accuracy": metrics["accuracy"], "log_loss": metrics["log_loss"]}
        return {**figures, **seconds, "steps": result["steps"], "helped": thawing_helped(Path(home))}


def thawing_helped(home: Path) -> bool | None:
    """Return what `fine_tune` recorded in MLflow; None where nothing was thawed."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home.resolve()}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for found in client.search_runs(experiments):
        if THAWING_HELPED in found.data.tags:
            return bool(found.data.tags[THAWING_HELPED] == "true")
    return None


def called(arguments: list[str]) -> tuple[str, dict[str, float]]:
    """Run Python on some arguments; return the last line that it printed, its seconds and its CPU seconds.

    The CPU seconds are those of all of its processes, in the program and in the kernel.
    """
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "THAWLINE_"))}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet", "PYTHONWARNINGS": "ignore"}
    command, begin = [sys.executable, "-m", "tests.benchmarks.cpu_seconds", *arguments], time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env={**mine, **quiet}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{(done.stderr or done.stdout)[-4000:]}")
    *_, line, spent = filter(None, done.stdout.splitlines())
    return line, {"seconds": time.perf_counter() - begin, "cpu_seconds": float(spent)}


def parsed(arguments: list[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.quality.run",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--sets", nargs="+", choices=DATA, default=list(DATA), help="which data (default: all)")
    add("--salts", type=int, default=5, help="how many splits of each set (default: 5)")
    add("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="who takes part (default: all)")
    add("--trials", type=int, default=20, help="trials of the search (default: 20)")
    add("--image-size", type=int, default=0, help="of pictures (default: what the weights expect)")
    add("--output", type=Path, default=Path(".thawline/quality"), help="folder of data and results")
    found = parser.parse_args(arguments)
    return Options(
        tuple(found.sets), found.salts, tuple(found.contenders), found.trials, found.image_size, found.output
    )


def main() -> None:
    """Run what is missing, and print the tables."""
    options = parsed(sys.argv[1:])
    options.output.mkdir(parents=True, exist_ok=True)
    kept = json.loads(options.results.read_text()) if options.results.exists() else {}
    wanted = list(jobs(options))
    for number, job in enumerate(wanted, start=1):
        key = job.key(options)
        if key not in kept:
            facts = {"data": job.data, "salt": job.salt, "contender": job.contender, "revision": code_revision()}
            kept[key] = {**facts, **run(job, options), "finished": time.strftime("%Y-%m-%d %H:%M", time.gmtime())}
            write_text(options.results, json.dumps(kept, indent=1))
        say(f"{number} of {len(wanted)}", kept[key])
    runs = [kept[job.key(options)] for job in wanted]
    sys.stdout.write(f"\n{markdown(runs)}\n")


def say(place: str, record: dict[str, Any]) -> None:
    """Print one result, so that somebody who waits sees it."""
    told = f"{record['data']:10} salt {record['salt']}  {record['contender']:10} accuracy {record['accuracy']:.3f}"
    sys.stderr.write(f"{place:12} {told}  {record['seconds']:5.0f} s, of the CPU {record['cpu_seconds']:5.0f} s\n")


if __name__ == "__main__":
    main()
