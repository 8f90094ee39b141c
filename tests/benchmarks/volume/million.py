"""Seconds and peak memory of every step over a million small records: `python -m tests.benchmarks.volume.million`.

Texts of twelve words in ten classes, one in fifty a near-duplicate of the one before; a tiny frozen network and a
solved head, so that the product's own work is measured and not a network's. Each step is a process of its own. Two
runs follow each other; the model of the second one, with other settings, is compared with the champion on the locked
test rows, 15% of all.

    python -m tests.benchmarks.volume.million 10000 100000 1000000
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from components.core.networks.network import Network
from components.core.networks.weights import state_digest
from components.core.settings import Settings
from components.core.targets.classification import Classification
from components.tasks import text_classification
from components.tasks.text_classification import check
from tests.benchmarks.volume.hashed_words import WIDTH, encode

__all__ = ["check", "encode"]

NUMBERS = (10_000, 100_000, 1_000_000)
CLASSES, FAVORITES, WORDS, KNOWN, COPIES = 10, 8, 12, 5_000, 50
NAME = "tests.benchmarks.volume.million"  # this module is the task
FIRST, SECOND = {"label_smoothing": 0.0}, {"label_smoothing": 0.1}
STEPS = ("detect_changes", "prepare_data", "train_head", "fine_tune", "evaluate", "register")

backbone = "hashed"
input_name = "text"


def near_duplicates(fingerprints: Sequence[str], new: Sequence[bool], settings: Settings) -> list[tuple[int, int]]:
    """Those of text classification, timed."""
    begin = time.process_time()
    found = text_classification.near_duplicates(fingerprints, new, settings)
    print(f"  near-duplicates: {time.process_time() - begin:.1f} CPU s, {len(found)} pairs", file=sys.stderr)
    return found


def target(_settings: Settings) -> Classification:
    """A class."""
    return Classification()


def build(_settings: Settings, classes: Sequence[str], dropout: float) -> Network:
    """One frozen stage and a linear head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        stage = nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh())
    head = nn.Sequential(nn.Dropout(dropout), nn.Linear(64, len(classes)))
    return Network([stage], head, {"width": WIDTH}, state_digest(stage.state_dict()))


def generate(path: Path, number: int) -> None:
    """Write a manifest of texts: words of a class are more frequent in it."""
    random = np.random.default_rng(0)
    favorites = random.integers(0, KNOWN, (CLASSES, FAVORITES))
    words: list[str] = []
    with path.open("w") as file:
        file.write("text,label\n")
        for i in range(number):
            label = i % CLASSES if i % COPIES or not words else (i - 1) % CLASSES
            if i % COPIES or not words:
                common = random.integers(0, KNOWN, WORDS)
                own = favorites[label][random.integers(0, FAVORITES, WORDS)]
                words = [f"w{word}" for word in np.where(random.random(WORDS) < 0.25, own, common)]
            else:
                words = [*words, "again"]
            file.write(f"{' '.join(words)},class{label}\n")


def settings_of(changed: Mapping[str, Any]) -> Settings:
    """The settings of one of the two runs."""
    return Settings.model_validate({"task": NAME, "model": "million", "trials": 0, "thaw": 0, **changed})


def run_step(step: str, source: str, key: str, folder: Path, changed: Mapping[str, Any]) -> None:
    """Run one step in this process; what it returns is kept for the next ones."""
    from components import detect_changes, evaluate, fine_tune, prepare_data, register, train_head

    text, kept = settings_of(changed).to_json(), folder / "returned.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    dataset, head, tuned, served = (folder / name for name in ("dataset", "head", "tuned", "served"))
    found: Any = None
    if step == "detect_changes":
        found = [*detect_changes.detect_changes(source, text, key)]
    elif step == "prepare_data":
        prepare_data.prepare_data(source, text, key, dataset, known["detect_changes"][2])
    elif step == "train_head":
        train_head.train_head(text, key, dataset, "", head)
    elif step == "fine_tune":
        fine_tune.fine_tune(text, key, dataset, "", head, tuned)
    elif step == "evaluate":
        judged = evaluate.evaluate(text, key, dataset, tuned, None, served, folder / "report.html")
        found = [judged.accepted, judged.champion, judged.metrics["decision"]]
    else:
        accepted, champion, _ = known["evaluate"]
        found = register.register(text, key, served, tuned, champion, accepted=accepted)
    kept.write_text(json.dumps({**known, step: found}))


def measured(number: int, home: Path) -> None:
    """Two runs over so many records; a line for each step."""
    manifest = home / "records.csv"
    generate(manifest, number)
    environment = {**os.environ, "THAWLINE_HOME": str(home / "home")}
    for run, changed in enumerate((FIRST, SECOND), 1):
        folder = home / f"run-{run}"
        folder.mkdir()
        for step in STEPS:
            command = [sys.executable, "-m", NAME, "--step", step, str(manifest), f"run-{run}", str(folder)]
            begin = time.perf_counter()
            done = subprocess.run(
                [*command, json.dumps(changed)], env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                print(f"{number:9,} run {run} {step} failed: {done.stderr[-1500:]}", flush=True)
                return
            cpu, peak = json.loads(done.stdout.splitlines()[-1])
            for line in done.stderr.splitlines():
                if line.startswith("  near-duplicates"):
                    print(line, flush=True)
            seconds = time.perf_counter() - begin
            print(f"{number:9,} {run:3}  {step:15}{cpu:10.1f}{seconds:10.1f}{peak:9.0f}", flush=True)
        size = (folder / "report.html").stat().st_size / 1e6
        said = json.loads((folder / "returned.json").read_text())["evaluate"][2]
        print(f"  report {size:.1f} MB; {said}", flush=True)


def main(numbers: Sequence[int]) -> None:
    """Print the table."""
    print("  records run  step            CPU s   seconds  peak MB", flush=True)
    for number in numbers:
        with tempfile.TemporaryDirectory() as name:
            measured(number, Path(name))


if __name__ == "__main__":
    if "--step" in sys.argv:
        wanted, place, own_key, where, options = sys.argv[2:]
        run_step(wanted, place, own_key, Path(where), json.loads(options))
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("records", nargs="*", type=int, default=NUMBERS, help="how many (default: %(default)s)")
        main(parser.parse_args().records)
