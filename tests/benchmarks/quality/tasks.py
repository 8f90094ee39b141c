"""What each task reaches on real data, and what keeping activations saves its head phase.

    python -m tests.benchmarks.quality.tasks FOLDER [NAME …]

Three runs of the whole pipeline for each: the head alone, the last stages thawed too, and the same with everything
below the thaw line computed in every epoch, the usual loop. Heads train in epochs, since one that is solved for needs
only one pass in any loop. Prints a Markdown row for each: figures on the test rows, of the task's own simple model or
of a linear probe, seconds of the steps' own work, and how much faster the head phase trains from the store than without
one.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.local.demo import fetch_demo
from tests.data.fortunes import write_fortunes
from tests.data.measured_photos import write_measured
from tests.data.pasted import SIZES, write_photos
from tests.data.picture_sets import write_set
from tests.data.snippets import write_snippets
from tests.data.spoken import write_spoken

THAWLINE = str(Path(sys.executable).with_name("thawline"))
HEAD = "| task | trivial | simple model | head only | thawed | usual loop | head s | thawed s | loop s | head phase |"
TEXT = "--task text_classification --weights package:all-minilm-l6-v2"
VOICES = "--task audio_classification --weights {folder}/spoken/speaker.pt"
ALWAYS = ("--trials", "0", "--head-solver", "sgd")
PHOTO = "--weights package:efficientnet-lite0 --image-size 160"


class Work(NamedTuple):
    """One row of the table."""

    write: Callable[[Path], Path]  # fills a folder, gives the source
    options: str  # {folder} is where the source was written
    thawed: str


def _fortunes(folder: Path) -> Path:
    write_fortunes(folder / "fortunes.csv")
    return folder / "fortunes.csv"


def _snippets(folder: Path) -> Path:
    write_snippets(folder / "snippets.csv")
    return folder / "snippets.csv"


def _voices(folder: Path) -> Path:
    write_spoken(folder / "spoken")
    return folder / "spoken/voices.csv"


def _stamps(folder: Path) -> Path:
    fetch_demo(folder / "stamps")
    return folder / "stamps"


def _pasted(folder: Path) -> Path:
    fetch_demo(folder / "stamps")
    write_set("photos", folder / "photos")
    write_photos(folder / "stamps", folder / "photos", folder / "pasted", SIZES)
    return folder / "pasted/boxes.jsonl"


def _measured(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        fetch_demo(folder / "stamps")
        write_measured(folder / "stamps", folder)
        return folder / f"{name}.jsonl"

    return write


WORK = {
    "pictures": Work(_stamps, PHOTO, "--thaw 2"),
    "boxes": Work(
        _pasted,
        "--task object_detection --weights package:efficientnet-lite0 --head-epochs 8",
        "--thaw 2 --thaw-epochs 3",
    ),
    "topics": Work(_fortunes, TEXT, "--thaw 2 --thaw-epochs 4 --thaw-learning-rate 1e-4"),
    "sentiment": Work(_snippets, f"{TEXT} --head-epochs 10", "--thaw 2 --thaw-epochs 2 --thaw-learning-rate 1e-4"),
    "voices": Work(_voices, VOICES, "--thaw 2 --thaw-epochs 6"),
    "cover": Work(
        _measured("cover"),
        f"{PHOTO} --option target=number --head-epochs 150 --patience 40 --head-learning-rate 0.001",
        "--thaw 3 --thaw-epochs 12",
    ),
    "tags": Work(_measured("tags"), f"{PHOTO} --option target=labels", "--thaw 3 --thaw-epochs 12"),
}


def run(source: Path, home: Path, options: str) -> dict[str, Any]:
    """The result of one run in a home of its own."""
    command = [THAWLINE, "run", str(source), *options.split(), *ALWAYS, "--home", str(home), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def row(name: str, head: Mapping[str, Any], thawed: Mapping[str, Any], loop: Mapping[str, Any]) -> str:
    """A line of the table; the task's metric with its 95% interval."""
    metric = head["metric"]

    def figure(result: Mapping[str, Any], prefix: str = "") -> str:
        return f"{result['metrics'][prefix + metric]:.3f}" if prefix + metric in result["metrics"] else ""

    def seconds(result: Mapping[str, Any]) -> float:
        return sum(result["steps"].values())

    faster = loop["steps"]["train_head"] / head["steps"]["train_head"]
    simple = figure(head, "reference_") or figure(head, "probe_")
    figures = [figure(head, "baseline_"), simple, *map(figure, (head, thawed, loop))]
    times = [f"{seconds(result):.0f}" for result in (head, thawed, loop)]
    return f"| {name}, {metric} | {' | '.join([*figures, *times, f'{faster:.1f} times as fast'])} |"


def main(folder: Path, names: list[str]) -> None:
    """Print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.write("\n".join([HEAD, "|" + "---|" * 10]) + "\n")
    for name in names or WORK:
        work = WORK[name]
        source = work.write(folder)
        options = work.options.format(folder=folder)
        whole = f"{options} {work.thawed}"
        head = run(source, folder / f"{name}-head", f"{options} --thaw 0")
        thawed = run(source, folder / f"{name}-thawed", whole)
        loop = run(source, folder / f"{name}-loop", f"{whole} --activations recompute")
        sys.stdout.write(row(name, head, thawed, loop) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
