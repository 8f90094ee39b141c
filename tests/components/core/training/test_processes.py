"""Training in several processes: the single process's result, one recorder, one end."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from components.core.compute import child_processes, distributed
from components.core.contract.listener import Callbacks
from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.errors import InputError, StepError, UnavailableError
from components.core.fitting.data import open_data
from components.core.settings import Hyperparameters, Settings
from components.core.tracking import queries
from components.core.tracking.service import connection
from components.core.training import deadlines
from components.core.training.checkpoints import read_facts
from components.core.training.phase import build_network, train_phase
from components.core.training.processes import process_count
from components.fine_tune import fine_tune
from components.train_head import train_head
from tests.conftest import TOY
from tests.data.pictures import write_pictures
from tests.fakes.toy import write_points
from tests.support import forks
from tests.support.command import wait_for

ROOT = Path(__file__).parents[4]
CHOSEN = Hyperparameters(
    head_learning_rate=0.05, thaw_learning_rate=0.05, layer_decay=1.0, thaw=2, thaw_epochs=3, dropout=0.2
)
Trained = tuple[nn.Module, list[dict[str, float]]]


@pytest.fixture(autouse=True)
def _processes_are_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a local run, whose steps are forks themselves; those of a script start as new interpreters."""
    monkeypatch.setattr(child_processes, "context", forks.context)


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 points in classes of 60, 55 and 35, prepared."""
    folder = tmp_path_factory.mktemp("points")
    source = write_points(folder / "source", per_class=60)
    for number, extra in ((1, 5), (2, 25)):
        for path in sorted((source / f"class{number}").iterdir())[:extra]:
            path.unlink()
    return prepared(source, folder / "dataset", Settings(**TOY))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures in three classes, prepared."""
    folder = tmp_path_factory.mktemp("pictures")
    source = write_pictures(folder / "source", per_class=10)
    return prepared(source, folder / "dataset", Settings(near_duplicates=-1))


def prepared(source: Path, dataset: Path, settings: Settings) -> Path:
    prepare(str(source), settings, dataset, Lineage("0"), lambda _done, _total, _text: None)
    return dataset


def trained(dataset: Path, settings: Settings, thaw: int, **options: Any) -> Trained:
    data = open_data(dataset, settings)
    network = build_network(data, CHOSEN)
    return network, train_phase(network, data, CHOSEN, thaw=thaw, processes=process_count(settings), **options)


def difference(dataset: Path, settings: Settings, one: Trained, other: Trained) -> float:
    """The largest distance of two trained networks' parameters and statistics, as a share of what training changed."""
    states = [
        one[0].state_dict(),
        other[0].state_dict(),
        build_network(open_data(dataset, settings), CHOSEN).state_dict(),
    ]
    names = [name for name, tensor in states[0].items() if tensor.is_floating_point()]
    ours, theirs, start = (torch.cat([state[name].flatten().double() for name in names]) for state in states)
    moved = float((theirs - start).norm())
    assert moved > 1e-4 * float(start.norm()), "hardly trained"
    return float((ours - theirs).norm()) / moved


def assert_equal_histories(one: Trained, other: Trained, tolerance: float) -> None:
    for ours, theirs in zip(one[1], other[1], strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs.keys() - {"seconds"}:
            assert ours[name] == pytest.approx(theirs[name], rel=tolerance, abs=tolerance), name


CASES = {
    "head": (0, {"class_weights": "balanced"}),
    "recomputed": (2, {"class_weights": "balanced", "optimizer": "sgd", "activations": "recompute"}),
    "views": (1, {"augment": "basic", "views": 3, "mixup": 0.4}),
    "afresh": (3, {"augment": "basic", "mixup": 0.4, "clip_norm": 0.05, "optimizer": "adam"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_single_ones_result(case: str, home: Path, points: Path) -> None:
    """Weights and history of a batch divided by two are those of the batch, with dropout, and with odd batches."""
    thaw, options = CASES[case]
    settings = Settings(**TOY | {"batch_size": 13, "head_epochs": 4} | options)
    one = trained(points, settings, thaw)
    two = trained(points, settings.model_copy(update={"processes": 2}), thaw)
    assert difference(points, settings, two, one) < 1e-4
    assert_equal_histories(two, one, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["timm/test_resnet", "timm/test_efficientnet", "timm/test_vit"])
def test_a_picture_network_is_the_single_processes(backbone: str, home: Path, pictures: Path) -> None:
    """Convolutional and attention networks with two thawed stages end with the weights of a single process."""
    options = {"backbone": backbone, "weights": "none", "image_size": 32, "near_duplicates": -1}
    settings = Settings(**options, batch_size=7, head_epochs=3, optimizer="sgd")
    one = trained(pictures, settings, 2)
    two = trained(pictures, settings.model_copy(update={"processes": 2}), 2)
    assert difference(pictures, settings, two, one) < 1e-3
    assert_equal_histories(two, one, 1e-3)


@pytest.mark.slow
def test_all_labels_train_in_two_processes(home: Path, points: Path) -> None:
    """The final training on training and validation rows ends with the weights of a single process."""
    settings = Settings(**TOY | {"batch_size": 13})
    one = trained(points, settings, 2, whole_epochs=2)
    two = trained(points, settings.model_copy(update={"processes": 2}), 2, whole_epochs=2)
    assert [len(history) for _, history in (one, two)] == [2, 2]
    assert difference(points, settings, two, one) < 1e-4


@pytest.mark.slow
def test_a_batch_smaller_than_the_processes(home: Path, points: Path) -> None:
    """A last batch of two rows is computed whole by each of three processes."""
    rows = len(open_data(points, Settings(**TOY)).rows["train"])
    size = next(size for size in range(9, rows) if rows % size == 2)
    settings = Settings(**TOY | {"batch_size": size, "head_epochs": 2})
    one = trained(points, settings, 0)
    three = trained(points, settings.model_copy(update={"processes": 3}), 0)
    assert difference(points, settings, three, one) < 1e-4
    assert_equal_histories(three, one, 1e-5)


@pytest.mark.slow
def test_early_stopping_is_the_same(home: Path, points: Path) -> None:
    """Both stop after the same epoch and keep the same one, which is not the last."""
    settings = Settings(**TOY | {"optimizer": "sgd", "patience": 2, "head_epochs": 30, "warmup": 0.9})
    chosen = CHOSEN.model_copy(update={"head_learning_rate": 30.0})
    histories = []
    for count in (1, 2):
        data = open_data(points, settings)
        histories.append(train_phase(build_network(data, chosen), data, chosen, thaw=0, processes=count))
    one, two = histories
    assert len(one) < settings.head_epochs
    assert [figures["best"] for figures in two] == [figures["best"] for figures in one]
    assert one[-1]["best"] == 0.0


@pytest.mark.slow
def test_deterministic_processes_repeat_each_bit(home: Path, points: Path) -> None:
    """With --deterministic, two trainings by two processes end in the same bits."""
    settings = Settings(**TOY | {"batch_size": 13, "head_epochs": 3}, processes=2, deterministic=True)
    one, two = trained(points, settings, 2), trained(points, settings, 2)
    assert all(torch.equal(a, b) for a, b in zip(one[0].parameters(), two[0].parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_step(rank: int, home: Path, points: Path) -> None:
    """Where one process is killed, the others end with it, and the error says so."""
    killed: list[int] = []

    def report(_figures: dict[str, float]) -> None:
        if not killed:
            workers = sorted(multiprocessing.active_children(), key=lambda worker: worker.pid or 0)
            killed.append(workers[rank].pid or 0)
            os.kill(killed[0], signal.SIGKILL)

    settings = Settings(**TOY | {"head_epochs": 100_000, "patience": 100_000}, processes=2)
    with pytest.raises(StepError, match=f"process {rank} of 2 was ended by SIGKILL"):
        trained(points, settings, 0, listener=Callbacks(epoch=report))
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_stuck_process_ends_the_step(home: Path, points: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one process does nothing any more, the others wait for a limited time."""
    monkeypatch.setattr(distributed, "PEER_TIMEOUT", timedelta(seconds=5))

    def report(_figures: dict[str, float]) -> None:
        workers = sorted(multiprocessing.active_children(), key=lambda worker: worker.pid or 0)
        os.kill(workers[1].pid or 0, signal.SIGSTOP)

    settings = Settings(**TOY | {"head_epochs": 100_000, "patience": 100_000}, processes=2)
    with pytest.raises(StepError, match="A training process failed"):
        trained(points, settings, 0, listener=Callbacks(epoch=report))
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_an_error_in_a_process_is_the_steps(home: Path, points: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said by a process with a sentence and a hint is said by the step."""
    (home / "activations").parent.mkdir(parents=True)
    settings = Settings(**TOY, processes=2, activations="keep", cache_budget=0)
    with pytest.raises(UnavailableError, match=r"--cache-budget"):
        trained(points, settings, 0)


@pytest.mark.slow
def test_the_steps_deadline_holds_for_its_processes(home: Path, points: Path) -> None:
    """Before each further epoch the step is asked, with the seconds of the last; all stop when it says so."""
    settings = Settings(**TOY | {"head_epochs": 20}, processes=2)
    asked: list[float] = []
    _, history = trained(
        points, settings, 0, listener=Callbacks(should_stop=lambda seconds: asked.append(seconds) or len(asked) == 3)
    )
    assert len(history) == 3
    assert asked == [figures["seconds"] for figures in history]


def test_gpus_that_are_not_there_are_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """More processes than GPUs, and several on one named GPU, are refused; 0 takes all GPUs there are."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert process_count(Settings(processes=0)) == 2
    assert process_count(Settings(processes=0, device="cpu")) == 1
    with pytest.raises(InputError, match="2 GPUs"):
        process_count(Settings(processes=3))
    with pytest.raises(InputError, match="cuda:1"):
        process_count(Settings(processes=2, device="cuda:1"))


def steps(dataset: Path, settings: Settings, folder: Path, key: str) -> None:
    """Both training steps."""
    chosen, text = CHOSEN.model_dump_json(), settings.to_json()
    train_head(text, key, dataset, chosen, folder / "head")
    fine_tune(text, key, dataset, chosen, folder / "head", folder / "tuned")


@pytest.mark.slow
def test_a_step_has_one_run(tracked_home: Path, points: Path, tmp_path: Path) -> None:
    """MLflow has one run for a step of two processes, with each epoch once, and the single process's checkpoint."""
    settings = Settings(**TOY | {"head_epochs": 4})
    steps(points, settings, tmp_path / "one", "one")
    steps(points, settings.model_copy(update={"processes": 2}), tmp_path / "two", "two")
    assert_one_run_each(tmp_path, "two")


def assert_one_run_each(folder: Path, key: str) -> None:
    found = queries.find_runs("toy", key, "step")
    assert sorted(run.info.run_name for run in found) == ["fine_tune", "train_head"]
    assert {run.info.status for run in found} == {"FINISHED"}
    for name, phase, place in (("train_head", "head", "head"), ("fine_tune", "thaw", "tuned")):
        one, two = (
            [figures for figures in read_facts(folder / which / place)["history"] if figures["phase"] == phase]
            for which in ("one", key)
        )
        assert [f["loss"] for f in two] == pytest.approx([f["loss"] for f in one], rel=1e-5)
        [run] = [run for run in found if run.info.run_name == name]
        logged = connection.client().get_metric_history(run.info.run_id, "val/loss")
        assert [metric.value for metric in logged] == [figures["loss"] for figures in two]


SCRIPT = """
import sys
from pathlib import Path
from components.core.contract.listener import Callbacks
from components.core.settings import Settings
from tests.components.core.training.test_processes import steps

if __name__ == "__main__":
    dataset, settings, folder, key = sys.argv[1:]
    steps(Path(dataset), Settings.from_json(settings), Path(folder), key)
"""


@contextmanager
def script(
    folder: Path, points: Path, settings: Settings, key: str, *launcher: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Both training steps in a process of their own, which torchrun may start."""
    path = folder / "script.py"
    path.write_text(SCRIPT)
    arguments = [str(path), str(points), settings.to_json(), str(folder / key), key]
    step = subprocess.Popen([sys.executable, *launcher, *arguments], env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        yield step
    finally:
        step.terminate()
        step.wait(60)


@pytest.mark.slow
def test_processes_of_torchrun_are_adopted(tracked_home: Path, points: Path, tmp_path: Path) -> None:
    """Under torchrun its processes train; the first one alone records and writes."""
    settings = Settings(**TOY | {"head_epochs": 4})
    steps(points, settings, tmp_path / "one", "one")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    with script(tmp_path, points, settings, "outer", *launcher) as run:
        assert run.wait(400) == 0
    assert_one_run_each(tmp_path, "outer")


@pytest.mark.slow
def test_a_deadline_before_the_thaw_under_torchrun(tracked_home: Path, points: Path, tmp_path: Path) -> None:
    """Processes of torchrun that wait to thaw are not left alone: they train one epoch, and the run says so."""
    settings = Settings(**TOY | {"head_epochs": 4}, step_max_minutes=1e-6)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    with script(tmp_path, points, settings, "late", *launcher) as run:
        assert run.wait(400) == 0
    [pipeline] = queries.find_runs("toy", "late", "pipeline")
    assert "after 1 of 4 epochs" in (told := deadlines.cuts(pipeline.data.tags))
    assert "The thawed training stopped after 1 of 3 epochs" in told


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_step(number: signal.Signals, tracked_home: Path, points: Path, tmp_path: Path) -> None:
    """Where the step is stopped or killed, so are its processes."""
    settings = Settings(**TOY | {"head_epochs": 1_000_000, "patience": 1_000_000}, processes=2)
    events = tracked_home / "runs" / "stopped" / "events.jsonl"
    with script(tmp_path, points, settings, "stopped") as step:
        wait_for(lambda: events.exists() and "validation loss" in events.read_text())
        workers = children(step.pid)
        assert len(workers) >= 2
        step.send_signal(number)
        assert step.wait(20) != 0
        wait_for(lambda: not any(lives(worker) for worker in workers), 10)
    if number == signal.SIGTERM:
        assert [run.info.status for run in queries.find_runs("toy", "stopped", "step")] == ["FAILED"]


def children(pid: int) -> list[int]:
    """Processes whose parent that is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found += [int(path.parent.name)] * (int(fields[1]) == pid)
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
