"""Real pictures with boxes: tree crowns from the air, in tiles, out of the package deepforest.

    pip download --no-deps deepforest==2.1.0 --dest .thawline/demo
    python -m tests.data.tree_crowns .thawline/demo/deepforest-2.1.0-py3-none-any.whl .thawline/demo/crowns

The package (Weinstein et al. 2020; MIT license) is read without being installed. It carries two annotated pictures of
Yellowstone, by the National Ecological Observatory Network, with 574 and 279 crowns. The larger one becomes tiles for
training and, its lowest rows, for validation; the smaller one, of another place, is the test. FOLDER/boxes.jsonl is a
manifest.
"""

import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from PIL import Image

from tests.data.pasted import Shown, write_manifest

TRAIN, TEST = "2019_YELL_2_528000_4978000_image_crop2", "2019_YELL_2_541000_4977000_image_crop"
SIDE = 200  # pixels of a tile, 20 m; a crown is 40 wide
VALIDATION = 3  # of the larger picture's 12 rows of tiles
LEAST = 0.5  # share of a crown that has to lie in a tile: of a smaller one little is seen
Box = tuple[float, float, float, float]


def tiles(size: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """Corners of the tiles of a picture, and the rows of tiles from there to its end."""
    width, height = size
    for top in range(0, height - SIDE + 1, SIDE):
        for left in range(0, width - SIDE + 1, SIDE):
            yield left, top, (height - top) // SIDE


def within(boxes: list[Box], left: int, top: int) -> list[list[int]]:
    """The boxes of a tile, cut at its edges, in its pixels."""
    found = []
    for box in boxes:
        cut = [max(box[0], left), max(box[1], top), min(box[2], left + SIDE), min(box[3], top + SIDE)]
        shown = max(0.0, cut[2] - cut[0]) * max(0.0, cut[3] - cut[1])
        if shown >= LEAST * (box[2] - box[0]) * (box[3] - box[1]):
            found.append([round(cut[0]) - left, round(cut[1]) - top, round(cut[2]) - left, round(cut[3]) - top])
    return found


def read_crowns(annotation: bytes) -> list[Box]:
    """The boxes of a picture: left, top, right, bottom."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    found = ET.fromstring(annotation).iter("bndbox")  # noqa: S314 - of one version of a package
    return [(x0, y0, x1, y1) for box in found for x0, y0, x1, y1 in [[float(box.findtext(s, "0")) for s in sides]]]


def write_crowns(wheel: Path, folder: Path) -> int:
    """Write the tiles and the manifest; return the number of tiles."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    shown: list[Shown] = []
    with zipfile.ZipFile(wheel) as archive:
        for name in (TRAIN, TEST):
            picture = Image.open(io.BytesIO(archive.read(f"deepforest/data/{name}.png"))).convert("RGB")
            crowns = read_crowns(archive.read(f"deepforest/data/{name}.xml"))
            for left, top, rows in tiles(picture.size):
                split = "test" if name == TEST else "validation" if rows <= VALIDATION else "train"
                tile = f"{split}-{left}-{top}.png"
                picture.crop((left, top, left + SIDE, top + SIDE)).save(folder / "images" / tile)
                boxes = [(box, "tree") for box in within(crowns, left, top)]
                shown.append(Shown(tile, boxes, split, (SIDE, SIDE)))
    write_manifest(folder / "boxes.jsonl", shown)
    return len(shown)


if __name__ == "__main__":
    sys.stdout.write(f"{write_crowns(Path(sys.argv[1]), Path(sys.argv[2]))} tiles\n")
