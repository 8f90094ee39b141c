"""The data of the quality benchmark: nine sets of pictures, two of texts and one of voices, each written once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipelines.local.demo import fetch_demo
from tests.benchmarks.compare.data import NAMES, chosen, fetch_fashion, read_idx
from tests.benchmarks.quality.probe import Array
from tests.data.fortunes import write_fortunes
from tests.data.picture_sets import SETS, write_set
from tests.data.snippets import write_snippets
from tests.data.spoken import write_spoken

PICTURES = ("stamps", *SETS, "fashion")
FASHION = 2000  # pictures of its training set, as many of each class


class DataSet(NamedTuple):
    """One set: what writes it into a folder and gives the source, and the options that Thawline runs it with."""

    kind: str  # picture, text or voice
    write: Callable[[Path], Path]
    options: Callable[[Path], dict[str, Any]]  # of `Settings`, from the folder


def write_pictures(folder: Path, name: str) -> Path:
    """Write a set of pictures unless it is there; return the folder with a folder per class."""
    target = folder / name
    if name == "stamps":
        fetch_demo(target)
    elif name == "fashion":
        write_fashion(folder / "fashion-mnist", target)
    else:
        write_set(name, target)
    return target


def write_fashion(source: Path, target: Path, total: int = FASHION) -> None:
    """Write some pictures of Fashion-MNIST's training set into a folder per class, unless it is there."""
    if target.exists():
        return
    fetch_fashion(source)
    pictures, labels = (read_idx(source / f"train-{kind}.gz") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    part = target.with_name(f".{target.name}.part")  # complete or absent, also after a kill
    for row in chosen(len(labels), labels, total, 0)[0].tolist():
        path = part / NAMES[labels[row]] / f"{row:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures[row]).save(path)
    part.replace(target)


def pictures_of(folder: Path, name: str) -> tuple[list[Path], Array]:
    """Return the files of a set in their order, and their labels as int64[N]."""
    files = sorted(write_pictures(folder, name).glob("*/*"))
    labels = [file.parent.name for file in files]
    return files, np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _pictures(name: str) -> DataSet:
    return DataSet(
        "picture", lambda folder: write_pictures(folder, name), lambda _: {"weights": "package:efficientnet-lite0"}
    )


def _texts(write: Callable[[Path], int], file: str) -> DataSet:
    def source(folder: Path) -> Path:
        write(folder / file)
        return folder / file

    options = {"task": "text_classification", "weights": "package:all-minilm-l6-v2"}
    return DataSet("text", source, lambda _: options)


def _voices(folder: Path) -> Path:
    write_spoken(folder / "spoken")
    return folder / "spoken/voices.csv"


DATA = {
    **{name: _pictures(name) for name in PICTURES},
    "fortunes": _texts(write_fortunes, "fortunes.csv"),
    "snippets": _texts(write_snippets, "snippets.csv"),
    "voices": DataSet(
        "voice",
        _voices,
        lambda folder: {"task": "audio_classification", "weights": str((folder / "spoken/speaker.pt").resolve())},
    ),
}
