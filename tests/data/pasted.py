"""Pictures with boxes: objects pasted by their alpha mask on backgrounds, by a seed.

`python -m tests.data.pasted .thawline/demo/stamps BACKGROUNDS FOLDER` pastes the demo's photos of five kinds on the
photos below BACKGROUNDS (`python -m tests.data.picture_sets FOLDER photos` writes some). No object and no background is
in two splits. FOLDER/boxes.jsonl is a manifest, and `write_coco` and `write_voc` write the other formats.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from PIL import Image, ImageDraw

KINDS = ("bird", "food", "mammal", "money", "vehicle")
SPLITS = {"train": 0.6, "validation": 0.15, "test": 0.25}  # share of the objects and of the backgrounds
SIZES = {"train": 400, "validation": 100, "test": 300}  # pictures
SIDE = 320
OPAQUE = 127  # of 255
MOST_COVERED = 0.3  # of an object's box, by one that is pasted later


class Shown(NamedTuple):
    """A picture with its boxes."""

    name: str
    boxes: list[tuple[list[int], str]]  # left, top, right, bottom
    split: str
    size: tuple[int, int]


def write_photos(objects: Path, backgrounds: Path, folder: Path, counts: Mapping[str, int], seed: int = 0) -> None:
    """Write pictures of each split, and boxes.jsonl."""
    generator = np.random.default_rng(seed)
    pools = {kind: _parted(sorted((objects / kind).glob("*.png")), generator) for kind in KINDS}
    behind = _parted(sorted(backgrounds.rglob("*.webp")), generator)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    found = []
    for split, count in counts.items():
        for number in range(count):
            canvas = _cropped(behind[split][generator.integers(len(behind[split]))], generator)
            some = [str(kind) for kind in generator.choice(KINDS, size=generator.integers(1, 5))]
            opened = ((kind, _opened(pools[kind][split], generator)) for kind in some)
            found.append(_write(folder, f"{split}-{number:04}.jpg", canvas, opened, split, generator))
    write_manifest(folder / "boxes.jsonl", found)


def write_shapes(folder: Path, count: int, seed: int = 0, side: int = 64) -> list[Shown]:
    """Write small pictures of disks and bars on noise, for tests."""
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        canvas = Image.fromarray(generator.integers(60, 190, (side, side + 16, 3), dtype=np.uint8))
        kinds = [str(kind) for kind in generator.choice(["bar", "disk"], size=generator.integers(1, 3))]
        found.append(
            _write(folder, f"{number:03}.png", canvas, ((kind, _shape(kind)) for kind in kinds), "", generator)
        )
    return found


def write_manifest(path: Path, shown: Sequence[Shown]) -> None:
    """Write uri, label and split of each picture as JSON lines; pictures lie in images/ beside the file."""
    lines = []
    for one in shown:
        label = [{"box": box, "class": name} for box, name in one.boxes]
        split = {"split": one.split} if one.split else {}
        lines.append(json.dumps({"uri": f"images/{one.name}", "label": label, **split}))
    path.write_text("\n".join(lines) + "\n")


def coco(shown: Sequence[Shown]) -> dict[str, Any]:
    """The content of COCO's annotations.json."""
    names = sorted({name for one in shown for _, name in one.boxes})
    images = [
        {"id": number, "file_name": one.name, "width": one.size[0], "height": one.size[1]}
        for number, one in enumerate(shown)
    ]
    boxes = [(number, box, name) for number, one in enumerate(shown) for box, name in one.boxes]
    annotations = [
        {
            "id": i,
            "image_id": number,
            "category_id": names.index(name) + 1,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "iscrowd": 0,
        }
        for i, (number, box, name) in enumerate(boxes)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_voc(folder: Path, shown: Sequence[Shown]) -> None:
    """Write Annotations/*.xml beside images/."""
    (folder / "Annotations").mkdir(exist_ok=True)
    for one in shown:
        (folder / "Annotations" / f"{Path(one.name).stem}.xml").write_bytes(tostring(voc(one)))


def voc(one: Shown) -> Element:
    """An annotation in the form of Pascal VOC."""
    top = Element("annotation")
    SubElement(top, "filename").text = one.name
    size = SubElement(top, "size")
    for name, length in zip(("width", "height"), one.size, strict=True):
        SubElement(size, name).text = str(length)
    for box, name in one.boxes:
        cutout = SubElement(top, "object")
        SubElement(cutout, "name").text = name
        corners = SubElement(cutout, "bndbox")
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            SubElement(corners, side).text = str(value)
    return top


def _parted(files: Sequence[Path], generator: np.random.Generator) -> dict[str, list[Path]]:
    order = [files[i] for i in generator.permutation(len(files))]
    ends = np.round(np.cumsum([0, *SPLITS.values()]) * len(order)).astype(int)
    return {split: order[begin:end] for split, begin, end in zip(SPLITS, ends[:-1], ends[1:], strict=True)}


def _cropped(path: Path, generator: np.random.Generator) -> Image.Image:
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    ratio = generator.uniform(0.7, 1.4)
    width, height = (SIDE, round(SIDE / ratio)) if ratio > 1 else (round(SIDE * ratio), SIDE)
    scale = max(width / picture.width, height / picture.height) * generator.uniform(1.0, 1.5)
    picture = picture.resize((round(picture.width * scale) + 1, round(picture.height * scale) + 1))
    left = int(generator.integers(picture.width - width + 1))
    top = int(generator.integers(picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def _opened(files: Sequence[Path], generator: np.random.Generator) -> Image.Image:
    with Image.open(files[generator.integers(len(files))]) as picture:
        return (picture.convert("PA") if picture.mode == "P" else picture).convert("RGBA")


def _shape(kind: str) -> Image.Image:
    found = Image.new("RGBA", (64, 64) if kind == "disk" else (96, 40))
    pen, ends = ImageDraw.Draw(found), (0, 0, found.width - 1, found.height - 1)
    if kind == "disk":
        pen.ellipse(ends, fill=(220, 40, 30, 255))
    else:
        pen.rectangle(ends, fill=(30, 60, 220, 255))
    return found


def _write(
    folder: Path,
    name: str,
    canvas: Image.Image,
    objects: Iterator[tuple[str, Image.Image]],
    split: str,
    generator: np.random.Generator,
) -> Shown:
    boxes: list[tuple[list[int], str]] = []
    for kind, cutout in objects:
        box = _pasted(canvas, cutout, [box for box, _ in boxes], generator)
        if box:
            boxes.append((box, kind))
    canvas.save(folder / "images" / name, quality=90)
    return Shown(name, boxes, split, canvas.size)


def _pasted(
    canvas: Image.Image, cutout: Image.Image, others: Sequence[Sequence[int]], generator: np.random.Generator
) -> list[int] | None:
    """Paste an object where it covers little of the others; its box, or None where there was no place."""
    cutout = cutout.crop(cutout.getchannel("A").point(lambda alpha: 255 * (alpha > OPAQUE)).getbbox())
    if generator.random() < 0.5:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    longer = max(canvas.size) * float(np.exp(generator.uniform(np.log(0.15), np.log(0.6))))
    scale = min(longer / max(cutout.size), 0.95 * min(canvas.width / cutout.width, canvas.height / cutout.height))
    cutout = cutout.resize((max(4, round(cutout.width * scale)), max(4, round(cutout.height * scale))))
    for _ in range(20):
        left = int(generator.integers(canvas.width - cutout.width + 1))
        top = int(generator.integers(canvas.height - cutout.height + 1))
        box = [left, top, left + cutout.width, top + cutout.height]
        if all(_covered(other, box) < MOST_COVERED for other in others):
            canvas.paste(cutout, (left, top), cutout)
            return box
    return None


def _covered(box: Sequence[int], by: Sequence[int]) -> float:
    width = min(box[2], by[2]) - max(box[0], by[0])
    height = min(box[3], by[3]) - max(box[1], by[1])
    return max(0, width) * max(0, height) / ((box[2] - box[0]) * (box[3] - box[1]))


if __name__ == "__main__":
    write_photos(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), SIZES)
