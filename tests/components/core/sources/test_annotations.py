"""Pictures with boxes as COCO and Pascal VOC write them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, tostring

import pytest

from components.core.contract.boxes import class_counts
from components.core.errors import InputError, RejectedRecord
from components.core.sources import raw_records
from components.core.sources.record_kinds import check_task, kind_of, task_for
from components.core.storage import s3 as storage
from tests.data.pasted import Shown, coco, voc, write_manifest, write_shapes, write_voc

pytest_plugins = ["tests.services.s3"]


@pytest.fixture
def shown(tmp_path: Path) -> list[Shown]:
    return write_shapes(tmp_path, 4)


def write_coco(folder: Path, content: Any) -> Path:
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def faults(folder: Path) -> list[str]:
    return [entry.fault for entry in raw_records.list_entries(str(folder)) if entry.fault]


def as_manifest(folder: Path, shown: list[Shown]) -> str:
    write_manifest(folder / "boxes.jsonl", shown)
    return str(folder / "boxes.jsonl")


def as_coco(folder: Path, shown: list[Shown]) -> str:
    return str(write_coco(folder, coco(shown)))


def as_voc(folder: Path, shown: list[Shown]) -> str:
    write_voc(folder, shown)
    return str(folder)


@pytest.mark.parametrize("write", [as_manifest, as_coco, as_voc])
def test_three_formats_hold_the_same_boxes(
    write: Callable[[Path, list[Shown]], str], shown: list[Shown], tmp_path: Path
) -> None:
    """COCO, Pascal VOC and a manifest give the same pictures and counts, and are recognized as boxes."""
    source = write(tmp_path, shown)
    raw_records.check_source(source)
    entries = list(raw_records.list_entries(source))
    assert [Path(entry.uri).name for entry in entries] == [one.name for one in shown]
    assert all(raw_records.content(entry) for entry in entries)
    assert [sum(class_counts(entry.label).values()) for entry in entries] == [len(one.boxes) for one in shown]
    assert (kind_of(source), task_for(source, "image_classification")) == ("pictures with boxes", "object_detection")


def test_a_task_for_other_labels_is_refused(shown: list[Shown], tmp_path: Path) -> None:
    """Boxes are not taken for classes."""
    with pytest.raises(InputError, match="are pictures with boxes, but --task image_classification takes pictures"):
        check_task(as_coco(tmp_path, shown), "image_classification")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": [1, 2, 0, 4]}, "no area"),
        ({"bbox": [1, 2, 3, -4]}, "no area"),
        ({"bbox": [1, 2, 3]}, "not four numbers: left, top, width, height"),
        ({"bbox": None}, "not four numbers"),
        ({"bbox": [1, 2, 10**400, 4]}, "not four numbers"),
        ({"category_id": True}, "unknown class: category True"),
        ({"category_id": [1]}, r"unknown class: category [1]"),
        ({"category_id": 99}, "unknown class: category 99"),
        ({"category_id": None}, "unknown class: category None"),
        ({"iscrowd": 1}, "marked as a crowd"),
        ({"id": 1}, "two boxes have one id: 1"),
        ({"image_id": 77}, "a picture that is not listed: 77"),
    ],
)
def test_a_broken_annotation_of_coco_is_a_fault(
    change: dict[str, Any], reason: str, shown: list[Shown], tmp_path: Path
) -> None:
    """Its picture is rejected with the reason, and no other one."""
    content = coco(shown)
    content["annotations"][-1] |= change
    found = faults(write_coco(tmp_path, content))
    assert all(reason in fault for fault in found)
    assert len(found) == (2 if change == {"id": 1} else 1)


@pytest.mark.parametrize(
    ("change", "reason", "count"),
    [
        ({"id": 0}, "two pictures have one id: 0", 2),
        ({"file_name": None}, "the picture has no file name", 1),
        ({"file_name": ["a"]}, "the picture has no file name", 1),
    ],
)
def test_a_broken_picture_of_coco_is_a_fault(
    change: dict[str, Any], reason: str, count: int, shown: list[Shown], tmp_path: Path
) -> None:
    """Pictures that share an id, or have no file, are rejected."""
    content = coco(shown)
    content["images"][-1] |= change
    found = [fault for fault in faults(write_coco(tmp_path, content)) if "not listed" not in fault]
    assert found == [reason] * count


def test_a_category_of_coco_may_have_any_id(shown: list[Shown], tmp_path: Path) -> None:
    """A list as an id, which is in no other annotation, stops nothing."""
    content = coco(shown)
    content["categories"].append({"id": [1], "name": "none"})
    assert not faults(write_coco(tmp_path, content))


def test_a_missing_picture_is_rejected_when_it_is_read(shown: list[Shown], tmp_path: Path) -> None:
    """An annotation whose file is not there is no reason to stop."""
    content = coco(shown)
    content["images"][0]["file_name"] = "gone.png"
    entry = next(iter(raw_records.list_entries(str(write_coco(tmp_path, content)))))
    with pytest.raises(raw_records.RejectedRecord, match="no such file"):
        raw_records.content(entry)


@pytest.mark.parametrize(
    "content", ["[", "[]", '{"images": [], "annotations": {}}', '{"images": [1], "annotations": []}']
)
def test_what_is_not_coco_is_an_input_error(content: str, tmp_path: Path) -> None:
    """A file that can't be read as COCO stops the run with its name."""
    (tmp_path / "annotations.json").write_text(content)
    with pytest.raises(InputError, match="annotations.json"):
        list(raw_records.list_entries(str(tmp_path)))


def changed(path: str, text: str) -> Callable[[Element], None]:
    def change(tree: Element) -> None:
        found = tree.find(path)
        assert found is not None
        found.text = text

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed("object/name", " "), "a box has no class"),
        (changed("object/bndbox/xmin", "left"), "not four numbers: xmin, ymin, xmax, ymax"),
        (changed("object/bndbox/ymax", "inf"), "not four numbers: xmin, ymin, xmax, ymax"),
        (changed("filename", "001.png"), "two files annotate one picture"),
    ],
)
def test_a_broken_annotation_of_voc_is_a_fault(
    change: Callable[[Element], None], reason: str, shown: list[Shown], tmp_path: Path
) -> None:
    """Its picture is rejected with the reason, and no other one."""
    write_voc(tmp_path, shown)
    tree = voc(shown[-1])
    change(tree)
    (tmp_path / "Annotations" / "003.xml").write_bytes(tostring(tree))
    (fault,) = faults(tmp_path)
    assert reason in fault


def test_a_size_of_thousands_of_digits_is_none(shown: list[Shown], tmp_path: Path) -> None:
    """Python reads no such number, and the picture has a size of its own."""
    write_voc(tmp_path, shown)
    tree = voc(shown[-1])
    changed("size/width", "9" * 5000)(tree)
    (tmp_path / "Annotations" / "003.xml").write_bytes(tostring(tree))
    assert not faults(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"<annotation><object>",
        b"",
        b'<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;&b;">]><annotation><filename>&d;</filename></annotation>',
        b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation><filename>&b;</filename></annotation>',
        b"<annotation>&unknown;</annotation>",
    ],
)
def test_no_entity_is_expanded(content: bytes, shown: list[Shown], tmp_path: Path) -> None:
    """XML that is broken or declares a document type is rejected before anything of it is used."""
    write_voc(tmp_path, shown)
    (tmp_path / "Annotations" / "003.xml").write_bytes(content)
    (fault,) = faults(tmp_path)
    assert "not XML" in fault or "declares a document type" in fault


def test_a_picture_is_found_by_the_name_of_its_annotation(shown: list[Shown], tmp_path: Path) -> None:
    """Where the file that is named is gone, as after renaming, the one of the same name counts."""
    write_voc(tmp_path, shown)
    tree = voc(shown[0])
    changed("filename", "before.jpg")(tree)
    (tmp_path / "Annotations" / "000.xml").write_bytes(tostring(tree))
    assert Path(next(iter(raw_records.list_entries(str(tmp_path)))).uri).name == "000.png"


@pytest.mark.slow  # starts a server
@pytest.mark.parametrize("write", [as_coco, as_voc])
def test_annotations_on_s3_mean_the_same(
    write: Callable[[Path, list[Shown]], str], shown: list[Shown], tmp_path: Path, s3: str
) -> None:
    """A folder on S3 gives the pictures, labels and faults of the same folder on disk, and is recognized as boxes."""
    write(tmp_path, shown)
    (tmp_path / "images" / "003.png").rename(tmp_path / "images" / "renamed.png")
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        key = f"boxes/{path.relative_to(tmp_path)}"
        storage.client().put_object(Bucket=s3.removeprefix("s3://"), Key=key, Body=path.read_bytes())
    local, remote = (list(raw_records.list_entries(source)) for source in (str(tmp_path), f"{s3}/boxes"))
    assert [entry.uri.removeprefix(f"{s3}/boxes") for entry in remote] == [
        entry.uri.removeprefix(str(tmp_path)) for entry in local
    ]
    assert [(entry.label, entry.fault) for entry in remote] == [(entry.label, entry.fault) for entry in local]
    assert raw_records.content(remote[0]) == raw_records.content(local[0])
    with pytest.raises(RejectedRecord, match="unreadable"):
        raw_records.content(remote[3])
    raw_records.check_source(f"{s3}/boxes")
    assert task_for(f"{s3}/boxes", "image_classification") == "object_detection"


@pytest.mark.slow  # starts a server
def test_a_damaged_file_on_s3_is_an_input_error(s3: str) -> None:
    """COCO's file that is no JSON stops the run with its address."""
    storage.client().put_object(Bucket=s3.removeprefix("s3://"), Key="a/annotations.json", Body=b"[")
    with pytest.raises(InputError, match=f"{s3}/a/annotations.json is not JSON"):
        list(raw_records.list_entries(f"{s3}/a"))
