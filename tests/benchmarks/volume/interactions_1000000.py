"""Time and memory of recommendation by step, at 1,000,000 simulated interactions.

    python -m tests.benchmarks.volume.interactions_1000000 [--users 20000] [--items 20000] [--steps 50] [--batches 10]

Each step runs in a process of its own, whose CPU seconds and most memory are printed: prepare the data; train some
batches with every stage thawed; validate, calibrate and answer as after an epoch; fit the models without a network and
let them answer. The seconds of an epoch follow from those of its batches.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.fitting.batches import batch_count
from components.core.fitting.data import Data, open_data
from components.core.fitting.thaw_line import rows_of_split
from components.core.networks.network import set_thawed, set_training
from components.core.settings import Settings
from components.core.targets.references import interaction_models
from components.core.training.phase import build_network, outputs, outputs_by_batch
from components.tasks import recommendation

FAR = 30  # steps to the likely next items


def write_walks(path: Path, users: int, items: int, steps: int, seed: int = 0) -> None:
    """Write users that go from an item to one a few places on, with most of them beginning at the popular ones."""
    rng = np.random.default_rng(seed)
    first = np.minimum(rng.zipf(1.3, users), items) - 1
    walk = (first[:, None] + rng.integers(1, FAR, (users, steps)).cumsum(1)) % items
    moments = rng.integers(0, 10**6, users)[:, None] + rng.integers(1, 60, (users, steps)).cumsum(1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time"])
        for user in range(users):
            writer.writerows((user, item, at) for item, at in zip(walk[user], moments[user], strict=True))


def settings() -> Settings:
    """The task's recipe, on the CPU."""
    return Settings(task="recommendation", device="cpu", option={"split": "last"}, **recommendation.recipe)


def opened(folder: Path) -> Data:
    return open_data(folder / "dataset", settings())


def prepare_data(folder: Path, _batches: int) -> str:
    prepare(str(folder / "walks.csv"), settings(), folder / "dataset", Lineage(salt="0"), lambda *_: None)
    return ""


def train(folder: Path, batches: int) -> str:
    """Take some steps of the thawed phase."""
    import torch

    data = opened(folder)
    network = build_network(data, data.settings.defaults())
    line = set_thawed(network, data.settings.defaults().thaw)
    set_training(network, line)
    optimizer = torch.optim.AdamW([one for one in network.parameters() if one.requires_grad], lr=1e-3)
    rows, size = data.rows["train"], data.settings.batch_size
    begin = time.process_time()
    for first in range(0, batches * size, size):
        some = rows[first : first + size]
        inputs = data.task.encode(data.examples.contents(some), network.preprocessing)
        loss = data.target.loss(network.above(inputs, line), data.targets["train"][first : first + size], 0.0, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    each, count = (time.process_time() - begin) / batches, batch_count(len(rows), size)
    return f"{each:.2f} s a batch, {count} batches: an epoch {each * count:.0f} s"


def validate(folder: Path, _batches: int) -> str:
    """Validate and calibrate, then answer the test rows."""
    data = opened(folder)
    network, thaw = build_network(data, data.settings.defaults()), data.settings.defaults().thaw
    rows_of_split(network, data, {len(network.stages) - thaw: 1.0}, "validation")
    data.target.validate(outputs(network, data, thaw, "validation"), data.targets["validation"])
    labels = data.examples.labels(data.rows["calibrate"])
    found = outputs(network, data, thaw, "calibrate")
    data.target.calibrate(found, data.target.targets(labels, data.examples.classes))
    del found
    serving = {"classes": data.examples.classes}
    parts = outputs_by_batch(network, data, thaw, "test")
    answered = sum(len(data.target.answers(part, serving)) for part in parts)
    return f"{len(data.rows['validation'])} validation and {len(labels)} calibration rows, {answered} answers"


def references(folder: Path, _batches: int) -> str:
    found = interaction_models.answers(opened(folder).examples)
    return ", ".join(name for name, _ in found)


STEPS: Mapping[str, Callable[[Path, int], str]] = {
    "prepare": prepare_data,
    "train": train,
    "validate": validate,
    "references": references,
}


def child(name: str, folder: Path, batches: int) -> None:
    """Carry out one step, and print its figures as JSON."""
    told = STEPS[name](folder, batches)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6, told]))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("users", 20_000), ("items", 20_000), ("steps", 50), ("batches", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--child", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child, asked.folder, asked.batches)
        return
    print("| step | CPU s | GB | |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        write_walks(Path(name) / "walks.csv", asked.users, asked.items, asked.steps)
        for step in STEPS:
            command = [sys.executable, "-m", "tests.benchmarks.volume.interactions_1000000", "--child", step]
            command += ["--folder", name, "--batches", str(asked.batches)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds, gigabytes, told = json.loads(done.stdout.splitlines()[-1])
            print(f"| {step} | {seconds:.0f} | {gigabytes:.1f} | {told} |", flush=True)


if __name__ == "__main__":
    main()
