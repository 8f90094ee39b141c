"""The pictures of the comparison: Fashion-MNIST out of a Debian package, and the demo's stamps; prepared by Thawline.

Fashion-MNIST keeps its own test split: the test rows are the first of t10k, and no other picture of it is used. The
sizes and the 5% of new data are nested: a larger set holds the smaller one, with the same validation and test rows.
"""

import gzip
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from components.core.data.examples import Examples
from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.errors import InputError
from components.core.settings import Settings

PACKAGE = "dataset-fashion-mnist"
NAMES = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def fetch_fashion(target: Path) -> None:
    """Fill `target` with the four IDX files, unless it is there.

    Raises:
        InputError: The package can't be fetched.
    """
    if target.exists():
        return
    print(f"Fetching {PACKAGE} (31 MB, read without installing it)", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="thawline-bench-") as folder:
        Path(folder).chmod(0o755)  # apt's own user downloads
        download = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", PACKAGE]
        if _fails(download, folder) and (_fails(["apt-get", "update", "-qq"], folder) or _fails(download, folder)):
            raise InputError(f"The Debian package {PACKAGE} could not be fetched.", "Run `apt-get update` as root.")
        package = next(Path(folder).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), f"{folder}/x"], check=True)  # noqa: S607 - Debian's own
        part = target.with_name(f".{target.name}.part")  # complete or absent, also after a kill
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(Path(folder) / "x/usr/share/datasets/fashion-mnist", part)
        part.replace(target)


def _fails(command: list[str], folder: str) -> bool:
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode != 0


def read_idx(path: Path) -> np.ndarray:
    """The bytes of an IDX file: pictures [N, 28, 28] or labels [N]."""
    raw = gzip.decompress(path.read_bytes())
    sizes = [int.from_bytes(raw[4 * i : 4 * i + 4], "big") for i in range(1, raw[3] + 1)]
    return np.frombuffer(raw, np.uint8, offset=4 * len(sizes) + 4).reshape(sizes)


def chosen(total: int, labels: np.ndarray, train: int, validation: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of `train` and of `validation` pictures in a fixed shuffled order, as balanced as their classes are.

    The validation pictures come first, so that more training pictures never touch them.
    """
    order = np.random.default_rng(0).permutation(total)
    rank = np.empty(total, dtype=np.int64)  # of each picture within its class: taken turn by turn
    for name in range(int(labels.max()) + 1):
        mine = order[labels[order] == name]
        rank[mine] = np.arange(len(mine))
    turns = order[np.argsort(rank[order], kind="stable")]
    return turns[validation : validation + train], turns[:validation]


def write_fashion(source: Path, folder: Path, train: int, validation: int, test: int) -> Path:
    """Write the pictures as PNG files and a manifest of uri, label and split; return the manifest."""
    pictures, labels = (read_idx(source / f"train-{kind}.gz") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    own, own_labels = (read_idx(source / f"t10k-{kind}.gz") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    train_rows, validation_rows = chosen(len(labels), labels, train, validation)
    parts = [
        ("train", pictures, labels, train_rows),
        ("validation", pictures, labels, validation_rows),
        ("test", own, own_labels, np.arange(test)),
    ]
    lines = ["uri,label,split"]
    for split, some, names, rows in parts:
        for row in rows.tolist():
            path = folder / "pictures" / split / f"{row:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                Image.fromarray(some[row]).save(path)
            lines.append(f"{path.resolve()},{NAMES[names[row]]},{split}")
    manifest = folder / f"fashion-{train}-{validation}-{test}.csv"
    manifest.write_text("\n".join(lines))
    return manifest


def dataset_of(name: str, folder: Path, stamps: Path) -> tuple[Path, str]:
    """Prepare a set once; the folder of its examples and what `thawline run` takes as the source.

    Args:
        name: `stamps`, or `fashion-TRAIN-VALIDATION-TEST` (numbers of pictures; half of VALIDATION calibrates).
        folder: Of all benchmark data.
        stamps: The demo's photos.
    """
    dataset, source = folder / "prepared" / name, str(stamps.resolve())
    if name != "stamps":
        fetch_fashion(folder / "fashion-mnist")
        train, validation, test = map(int, name.split("-")[1:])
        manifest = folder / f"{name}.csv"
        if not manifest.exists():
            write_fashion(folder / "fashion-mnist", folder, train, validation, test)
        source = str(manifest.resolve())
    if not (dataset / "dataset.json").exists():
        print(f"Preparing {name}", file=sys.stderr)
        # the set's own split puts a few pictures that look alike on both sides: it is everybody's here
        prepare(source, Settings(near_duplicates=-1), dataset, Lineage("0"), lambda *_: None)
    assert Examples(dataset).rows("train")
    return dataset, source
