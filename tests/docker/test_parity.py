"""One DAG, three ways to run it, the same model: plain functions, kfp's SubprocessRunner, kfp's DockerRunner."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch

from components.core import run_folder
from components.core.settings import Settings
from components.core.storage import home_folder
from tests.benchmarks.overhead import rows
from tests.conftest import copy_store, use_home
from tests.support.command import ROOT, TOY, thawline
from tests.support.plain import run_steps

if TYPE_CHECKING:
    from tests.services.engine import Engine  # pytest imports the plugin itself, to rewrite its asserts

pytest_plugins = ["tests.services.engine"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # the first build unpacks PyTorch
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier", "ece", "accuracy_low", "accuracy_high")
STEPS = ["detect_changes", "prepare_data", "search", "select_trial", "train_head", "fine_tune", "evaluate", "register"]
USER = 10001


class Run(NamedTuple):
    """What a run left in its home."""

    result: dict[str, Any]
    weights: str  # sha256 of the registered version's weights
    seconds: dict[str, float]  # of each step beside its own work: starting and importing

    @property
    def metrics(self) -> dict[str, float]:
        return {name: self.result["metrics"][name] for name in METRICS}


def read(home: Path) -> Run:
    """The one run of a home, from its files: exit statuses of containers can't be trusted."""
    (folder,) = (home / "runs").iterdir()
    (weights,) = (home / "artifacts").glob("**/checkpoint/network.safetensors")
    seconds = {name: between + imports for name, between, imports, _ in rows(folder)}
    result = json.loads((folder / "result.json").read_text())
    return Run(result, hashlib.sha256(weights.read_bytes()).hexdigest(), seconds)


def run_in_containers(
    engine: "Engine", image: str, home: Path, source: Path, settings: Settings
) -> "subprocess.CompletedProcess[str]":
    """The DAG by DockerRunner, in a process of its own: it knows the image when it imports the steps."""
    key = run_folder.new_run_key()
    home_folder.write_text(home / "settings.json", settings.to_json())
    (home / "runs" / key).mkdir(parents=True)
    (home / "settings.json").rename(home / "runs" / key / "settings.json")
    copied = shutil.copytree(source, home / "points")
    if os.geteuid() == 0:
        os.chown(home, USER, USER)
    return subprocess.run(
        [sys.executable, "-m", "tests.services.containers", str(home), str(copied), settings.to_json(), key],
        env={**engine.environment, "THAWLINE_IMAGE": image},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def in_containers(engine: "Engine", image: str, store: Path, home: Path, source: Path, settings: Settings) -> Run:
    copy_store(store, home)
    done = run_in_containers(engine, image, home, source, settings)
    (outputs,) = home.glob("fine-tuning-*")
    expected = {"prepare-data/dataset/dataset.json", "train-head/checkpoint", "fine-tune/checkpoint", "evaluate/served"}
    assert {path for path in expected if not (outputs / path).exists()} == set(), done.stdout[-3000:]
    return read(home)


def by_plain_functions(store: Path, home: Path, source: Path, settings: Settings) -> Run:
    copy_store(store, home)
    with pytest.MonkeyPatch.context() as patch:
        use_home(home, patch)
        try:
            run_steps(source, settings, home / "outputs")
        finally:
            torch.use_deterministic_algorithms(mode=False)
    return read(home)


@pytest.fixture(scope="module")
def three(
    engine: "Engine", image: str, store: Path, toy_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Run]:
    """The same data, settings and seed, run in three ways into three homes."""
    folder = tmp_path_factory.mktemp("three")
    options = [*TOY, "--trials", "3", "--deterministic"]
    answer = thawline("run", str(toy_source), *options, home=folder / "subprocess", cwd=folder)
    assert answer.status == 0, answer.err
    (run,) = (folder / "subprocess" / "runs").iterdir()
    settings = Settings.from_json((run / "settings.json").read_text())
    return {
        "plain functions": by_plain_functions(store, folder / "plain", toy_source, settings),
        "SubprocessRunner": read(folder / "subprocess"),
        "DockerRunner": in_containers(engine, image, store, folder / "docker", toy_source, settings),
    }


def table(three: dict[str, Run]) -> str:
    """The three runs side by side, and what each step costs beside its own work."""
    shown = {
        "weights": [run.weights[:16] for run in three.values()],
        "dataset": [run.result["dataset_digest"][:16] for run in three.values()],
        **{name: [f"{run.metrics[name]:.12f}" for run in three.values()] for name in METRICS},
        **{f"{name}, s": [f"{run.seconds[name]:.1f}" for run in three.values()] for name in STEPS},
        "sum, s": [f"{sum(run.seconds.values()):.1f}" for run in three.values()],
    }
    lines = [("", *three), *((name, *values) for name, values in shown.items())]
    return "\n".join(f"{name:<20}" + "".join(f"{value:>20}" for value in values) for name, *values in lines)


def test_three_ways_end_in_the_same_model(three: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    """With --deterministic the weights are the same bit for bit, and so is every metric."""
    with capsys.disabled():
        print(f"\n{table(three)}")  # noqa: T201 - what the test is for
    plain, subprocesses, containers = three.values()
    assert plain.weights == subprocesses.weights == containers.weights
    assert plain.metrics == subprocesses.metrics == containers.metrics
    assert plain.result["dataset_digest"] == containers.result["dataset_digest"]


def test_containers_run_every_step(three: dict[str, Run]) -> None:
    """The run in containers, read from its outputs: every step's work, a version, a champion, a report."""
    result = three["DockerRunner"].result
    assert list(result["steps"]) == STEPS
    assert (result["status"], result["version"], result["promoted"]) == ("succeeded", "1", True)
    assert Path(result["report"]).read_text().startswith("<!doctype html>")


def test_a_failure_in_a_container_leaves_its_reason(
    engine: "Engine", image: str, tracked_home: Path, tmp_path: Path
) -> None:
    """Where a step fails, later ones do not run, and the exit handler writes the step's own sentence."""
    (tmp_path / "empty").mkdir()
    settings = Settings(task="tests.fakes.toy", model="toy")
    run_in_containers(engine, image, tracked_home, tmp_path / "empty", settings)
    (folder,) = (tracked_home / "runs").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "failed"
    assert str(tracked_home / "points") in result["reason"]
    assert not list(tracked_home.glob("fine-tuning-*/*/checkpoint"))
