"""Folders of pictures with boxes as COCO and Pascal VOC write them; what is wrong with a picture becomes its fault."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from components.core.contract.boxes import Box, Boxes, is_number
from components.core.errors import InputError, RejectedRecord
from components.core.sources import folders
from components.core.sources.places import Place

COCO = ("annotations.json", "_annotations.coco.json", "instances.json")
VOC, PICTURES = "Annotations", ("JPEGImages", "images", ".")
DIGITS = 20  # of a side in pixels, spaces included: of thousands Python reads no number
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class Annotated(NamedTuple):
    """A picture with its boxes, or with the reason why it can't be used."""

    uri: str
    label: str
    fault: str = ""


def is_annotated(folder: Place) -> bool:
    """Return whether a folder holds the annotations of COCO or of Pascal VOC."""
    return bool(_coco_file(folder)) or bool(_xml_files(folder))


def show_annotations(paths: Iterable[str]) -> bool:
    """Return whether some of a folder's files, given by their paths below it, are annotations."""
    return any(path in COCO or (path.startswith(f"{VOC}/") and _is_xml(path.removeprefix(f"{VOC}/"))) for path in paths)


def annotated(folder: Place) -> Iterator[Annotated]:
    """Yield the pictures of a folder, always in the same order.

    Raises:
        InputError: The annotations can't be read.
    """
    coco = _coco_file(folder)
    yield from _coco(folder, coco) if coco else _voc(folder)


def _coco_file(folder: Place) -> str:
    return next((name for name in COCO if folder.holds(name)), "")


def _xml_files(folder: Place) -> list[str]:
    return [name for name in folder.files(VOC) if _is_xml(name)]


def _is_xml(name: str) -> bool:
    return name.endswith(".xml") and "/" not in name and not folders.is_litter(name)


def _coco(folder: Place, path: str) -> Iterator[Annotated]:
    file = folder.uri(path)
    try:
        content = json.loads(folder.read(path))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON that can be read.", "Export it again.") from error
    parts = {name: content.get(name) if isinstance(content, dict) else None for name in ("images", "annotations")}
    parts["categories"] = content.get("categories", []) if isinstance(content, dict) else None
    for name, value in parts.items():
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise InputError(
                f"{file} has no list of {name}, which COCO's format has.", "Export it as COCO object detection."
            )
    images, annotations, categories = parts.values()
    names = {_id(category, "id"): category.get("name") for category in categories or []}
    own: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in annotations or []:
        own[_id(annotation, "image_id")].append(annotation)
    ids = Counter(_id(one, "id") for one in annotations or [] if "id" in one)
    repeated = {key for key, count in ids.items() if count > 1}
    twice = {key for key, count in Counter(_id(image, "id") for image in images or []).items() if count > 1}
    pictures = "images/" if folder.has_folder("images") else ""
    for image in images or []:
        key, picture = _id(image, "id"), image.get("file_name")
        uri = folder.uri(pictures + picture) if isinstance(picture, str) and picture else f"{file}#image={key}"
        fault = f"two pictures have one id: {key}" if key in twice else ""
        try:
            yield Annotated(uri, "" if fault else _coco_label(image, own[key], names, repeated), fault)
        except RejectedRecord as error:
            yield Annotated(uri, "", str(error))
    known = {_id(image, "id") for image in images or []}
    for key in sorted(own.keys() - known, key=str):
        yield Annotated(f"{file}#image={key}", "", f"boxes of a picture that is not listed: {key}")


def _id(row: Mapping[str, Any], name: str) -> str:
    return json.dumps(row.get(name))


def _coco_label(
    image: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    names: Mapping[str, Any],
    repeated: set[str],
) -> str:
    if not isinstance(image.get("file_name"), str) or not image["file_name"]:
        raise RejectedRecord("the picture has no file name")
    boxes = []
    for annotation in annotations:
        if _id(annotation, "id") in repeated:
            raise RejectedRecord(f"two boxes have one id: {_id(annotation, 'id')}")
        if annotation.get("iscrowd"):
            raise RejectedRecord("a box is marked as a crowd, whose objects can't be counted")
        name = names.get(_id(annotation, "category_id"))
        if not isinstance(name, str) or not name.strip():
            raise RejectedRecord(f"a box has an unknown class: category {annotation.get('category_id')}")
        corners = annotation.get("bbox")
        if not isinstance(corners, list) or len(corners) != 4 or not all(map(is_number, corners)):  # noqa: PLR2004 - of a box
            raise RejectedRecord("a box is not four numbers: left, top, width, height")
        left, top, width, height = map(float, corners)
        if width <= 0 or height <= 0:
            raise RejectedRecord(f"a box has no area: {name} {corners}")
        boxes.append(Box(folders.as_label(name), (left, top, left + width, top + height)))
    size = (image.get("width"), image.get("height"))
    told = [side if isinstance(side, int) and side > 0 else 0 for side in size]
    return Boxes(boxes, *(told if all(told) else (0, 0))).text()


def _voc(folder: Place) -> Iterator[Annotated]:
    inner = next(name for name in PICTURES if folder.has_folder(name))
    names, seen = {*folder.files(inner)}, set[str]()
    for path, content in folder.read_each(f"{VOC}/{name}" for name in _xml_files(folder)):
        uri, file = folder.uri(path), path.rpartition("/")[2]
        try:
            if isinstance(content, RejectedRecord):
                raise content
            tree = _xml(content)
            uri = folder.uri(f"{inner}/{_voc_picture(tree, file, names)}".removeprefix("./"))
            label = _voc_label(tree)
        except RejectedRecord as error:
            yield Annotated(uri, "", str(error))
        else:
            yield Annotated(uri, label, f"two files annotate one picture: {file}" if uri in seen else "")
            seen.add(uri)


def _xml(content: bytes) -> Element:
    """Parse XML that declares no entities and no document type, so that nothing expands and nothing is fetched."""
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise RejectedRecord("the annotation declares a document type, which Pascal VOC has not")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, AssertionError, ValueError, LookupError) as error:
        raise RejectedRecord(f"the annotation is not XML: {error}") from None


def _voc_picture(tree: Element, file: str, names: Collection[str]) -> str:
    """The picture that an annotation names, or where that is not there, the one named as the annotation is."""
    named = PurePosixPath((tree.findtext("filename") or "").strip().replace("\\", "/")).name
    stem = file.removesuffix(".xml")
    alike = next((stem + suffix for suffix in SUFFIXES if stem + suffix in names), f"{stem}.jpg")
    return named if named in names else alike


def _voc_label(tree: Element) -> str:
    boxes = []
    for one in tree.iter("object"):
        name, corners = (one.findtext("name") or "").strip(), one.find("bndbox")
        if not name:
            raise RejectedRecord("a box has no class")
        sides = ("xmin", "ymin", "xmax", "ymax")
        left, top, right, bottom = (_number(corners.findtext(s) if corners is not None else "") for s in sides)
        boxes.append(Box(folders.as_label(name), (left, top, right, bottom)))
    size = [tree.findtext(f"size/{side}") or "" for side in ("width", "height")]
    told = [int(side) if side.strip().isdecimal() and len(side) <= DIGITS else 0 for side in size]
    return Boxes(boxes, *(told if all(told) else (0, 0))).text()


def _number(text: str | None) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RejectedRecord("a box is not four numbers: xmin, ymin, xmax, ymax")
    return number
