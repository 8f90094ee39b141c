"""JPEGs much larger than the input, decoded in part: `python -m tests.benchmarks.volume.large_jpegs FOLDER`.

Seconds: collages of the photos in FOLDER (one subfolder per class) with 1 to 12 megapixels. Accuracy: a probe of the
frozen features, five folds three times, of the photos as JPEGs at inputs so small that many are decoded in part. Both
for JPEGs decoded whole, and for several multiples of the input that are left; differences are paired by photo.
"""

import io
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from components.core.inference import images
from components.core.settings import Settings
from components.tasks import image_classification

Array: TypeAlias = np.ndarray[Any, Any]

WHOLE, MULTIPLES = 10**6, (3, 2, 1)  # the first leaves every pixel
SIZES, TILE, REPEATS = ((1024, 768), (1920, 1440), (4032, 3024)), 150, 5
INPUTS, FOLDS, SALTS, STRENGTH = (32, 48, 64, 96), 5, 3, 0.01


@contextmanager
def leaving(multiple: int) -> Iterator[None]:
    """Decode so many times the input, inside."""
    before, images.DETAIL = images.DETAIL, multiple
    try:
        yield
    finally:
        images.DETAIL = before


def jpeg(picture: Image.Image) -> bytes:
    """A picture as JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def collage(photos: Sequence[bytes], size: tuple[int, int]) -> bytes:
    """Photos at their own resolution, side by side until the size is filled."""
    random, canvas = np.random.default_rng(0), Image.new("RGB", size)
    for top in range(0, size[1], TILE):
        for left in range(0, size[0], TILE):
            with images.decoded(photos[random.integers(len(photos))]) as photo:
                canvas.paste(photo, (left, top))
    return jpeg(canvas)


def seconds(content: bytes) -> float:
    """CPU seconds to decode and resize a picture for an input of 224 pixels, the best of a few."""
    preprocessing = {"size": 224, "resize": 256, "mode": "squash", "interpolation": "bicubic"}
    preprocessing |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    taken = []
    for _ in range(REPEATS):
        begin = time.process_time()
        images.encode([content], preprocessing)
        taken.append(time.process_time() - begin)
    return min(taken)


def probed(contents: Sequence[bytes], labels: Array, network: Any) -> tuple[Array, Array]:
    """Of each photo whether it was answered right, and its log loss, means over the divisions."""
    with torch.no_grad():
        inputs = images.encode(contents, network.preprocessing)
        features = torch.cat([network.below(part, len(network.stages)) for part in torch.split(inputs, 64)]).numpy()
    scaled = (features - features.mean(0)) / (features.std(0) + 1e-6)
    right, lost = np.zeros(len(labels)), np.zeros(len(labels))
    for salt in range(SALTS):
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=salt)
        model = LogisticRegression(C=STRENGTH, max_iter=300)
        found = cross_val_predict(model, scaled, labels, cv=folds, method="predict_proba")
        right += (found.argmax(1) == labels) / SALTS
        lost -= np.log(found[np.arange(len(labels)), labels]) / SALTS
    return right, lost


def told(found: Array, before: Array) -> str:
    """A mean, and the difference with its standard error."""
    difference = found - before
    return f"{found.mean():.4f} ({difference.mean():+.4f} ± {difference.std() / len(difference) ** 0.5:.4f})"


def main(folder: Path) -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    files = sorted(folder.glob("*/*"))
    photos = [file.read_bytes() for file in files]
    for size in SIZES:
        content = collage(photos, size)
        for multiple in (WHOLE, *MULTIPLES):
            with leaving(multiple):
                print(f"{size[0]} x {size[1]}, {_name(multiple)}: {1e3 * seconds(content):.1f} CPU ms", flush=True)
    labels = np.unique([file.parent.name for file in files], return_inverse=True)[1]
    contents = [jpeg(images.decode(photo)) for photo in photos]
    for side in INPUTS:
        network = image_classification.build(Settings(image_size=side), ["a", "b"], 0.0).eval()
        before: tuple[Array, Array] | None = None
        for multiple in (WHOLE, *MULTIPLES):
            with leaving(multiple):
                right, lost = probed(contents, labels, network)
            before = before or (right, lost)
            figures = f"accuracy {told(right, before[0])}, log loss {told(lost, before[1])}"
            print(f"input {side}, {_name(multiple)}: {figures}", flush=True)


def _name(multiple: int) -> str:
    return "whole" if multiple == WHOLE else f"at least {multiple} times the input"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
