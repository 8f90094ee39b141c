"""The demo's photos with labels that can be measured: a number, or several names, as JSON lines.

`python -m tests.data.measured_photos .thawline/demo/stamps FOLDER` writes FOLDER/cover.jsonl, how much of its picture
each thing covers in percent, and FOLDER/tags.jsonl: its category, its colour if it has one, and what its shape is.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HUES = ("red", "yellow", "green", "blue")  # a quarter of the circle each, red around 0
OPAQUE = 127  # of 255
COLOURFUL = 0.25  # mean saturation of the opaque pixels from which a photo has a colour
LONG = 1.25  # ratio of the sides


def cover(photo: Path) -> float:
    """Percent of the pixels that are more opaque than not."""
    return float(100 * (_rgba(photo)[..., 3] > OPAQUE).mean())


def tags(photo: Path) -> list[str]:
    """Category, colour and shape."""
    rgba = _rgba(photo)
    hsv = np.asarray(Image.fromarray(rgba[..., :3]).convert("HSV"), dtype=np.float64) / 255
    some = hsv[rgba[..., 3] > OPAQUE]
    found = [photo.parent.name]
    if some[:, 1].mean() >= COLOURFUL:
        angle = 2 * np.pi * some[:, 0]
        weight = some[:, 1] * some[:, 2]  # grey and dark pixels have no hue to speak of
        mean = np.arctan2((weight * np.sin(angle)).sum(), (weight * np.cos(angle)).sum()) / (2 * np.pi)
        found.append(HUES[int(((mean + 1 / 8) % 1) * len(HUES))])
    height, width = rgba.shape[:2]
    found += ["wide"] * (width > LONG * height) + ["tall"] * (height > LONG * width)
    return found


def write_measured(photos: Path, folder: Path) -> None:
    """Write both manifests of the photos below a folder with a subfolder per category."""
    folder.mkdir(parents=True, exist_ok=True)
    some = sorted(photos.glob("*/*.png"))
    rows: dict[str, list[dict[str, Any]]] = {
        "cover": [{"uri": str(photo.resolve()), "label": round(cover(photo), 2)} for photo in some],
        "tags": [{"uri": str(photo.resolve()), "label": tags(photo)} for photo in some],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _rgba(photo: Path) -> np.ndarray[Any, Any]:
    """Pixels [H, W, 4]; Pillow asks for the detour where a palette has transparent colours."""
    with Image.open(photo) as picture:
        return np.asarray((picture.convert("PA") if picture.mode == "P" else picture).convert("RGBA"))


if __name__ == "__main__":
    write_measured(Path(sys.argv[1]), Path(sys.argv[2]))
