"""Labels that are boxes."""

import json

import pytest

from components.core.contract.boxes import Box, Boxes, are_boxes, class_counts, read_boxes, within
from components.core.errors import RejectedRecord


def label(*corners: float, name: object = "cat") -> str:
    return json.dumps([{"box": corners, "class": name}])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cat", "not a JSON list of boxes"),
        ('{"boxes": []}', "not a JSON list of boxes"),
        ("[{'box': [1, 2, 3, 4], 'class': 'cat'}]", "its quotes are not the straight double ones of JSON"),
        ("[{\u201cbox\u201d: [1, 2, 3, 4], \u201cclass\u201d: \u201ccat\u201d}]", "its quotes are not"),
        ((label(1, 2, 3, 4)[:-1] + " " * 40_000)[:32_767], "it ends after 32767 characters, as a spreadsheet cuts"),
        ("[3]", "not an object with box and class"),
        (label(1, 2, 3), "not four numbers"),
        (json.dumps([{"box": [1, 2, 3, "x"], "class": "cat"}]), "not four numbers"),
        ('[{"box": [1, 2, 3, NaN], "class": "cat"}]', "not four numbers"),
        (label(1, 2, 10**400, 4), "not four numbers"),
        (label(1, 2, 3, 4, name=" "), "no class"),
        (label(1, 2, 3, 4, name=7), "no class"),
        (label(5, 2, 3, 4), "swapped corners"),
        (label(1, 5, 3, 4), "swapped corners"),
        (label(1, 2, 1, 4), "no area"),
        (label(1, 4, 3, 4), "no area"),
        (json.dumps({"boxes": [], "width": -4, "height": 3}), "the size of the picture is -4"),
    ],
)
def test_what_is_no_box_is_rejected_with_its_reason(text: str, reason: str) -> None:
    """A label that can't be read as boxes is rejected, and the reason says what is wrong."""
    with pytest.raises(RejectedRecord, match=reason):
        read_boxes(text)


@pytest.mark.parametrize("corners", [(-2, 0, 5, 5), (0, -2, 5, 5), (0, 0, 12, 5), (0, 0, 5, 22), (30, 30, 40, 40)])
def test_a_box_outside_its_picture_is_rejected(corners: tuple[float, ...]) -> None:
    """More than a pixel beyond any side is outside."""
    with pytest.raises(RejectedRecord, match="outside the picture of 10 x 20"):
        within(read_boxes(label(*corners)), 10, 20)


def test_the_pixel_of_rounding_is_cut_off() -> None:
    """A box that ends a fraction of a pixel beyond the picture ends with it."""
    assert within(read_boxes(label(-0.4, 0, 10.6, 20)), 10, 20).boxes == [Box("cat", (0.0, 0.0, 10.0, 20.0))]


def test_what_rounding_leaves_nothing_of_is_rejected() -> None:
    """A box that lies on the border alone has no area inside."""
    with pytest.raises(RejectedRecord, match="no area inside"):
        within(read_boxes(label(10.0, 0, 10.8, 5)), 10, 20)


def test_an_annotation_of_another_size_is_rejected() -> None:
    """Boxes that were drawn in a turned or scaled picture don't fit this one."""
    with pytest.raises(RejectedRecord, match="10 x 20 pixels upright, not 20 x 10"):
        within(Boxes([], 20, 10), 10, 20)


def test_equal_boxes_are_one_label() -> None:
    """Order and decimals don't matter, and the checked form reads as it was."""
    one = json.dumps([{"box": [1, 2, 3, 4], "class": "b"}, {"box": [1.0, 2.001, 3, 4], "class": "a "}])
    other = json.dumps([{"class": "a", "box": [1, 2, 3, 4]}, {"class": "b", "box": [1.0, 2.0, 3.0, 4.0]}])
    checked = within(read_boxes(one), 8, 9).text()
    assert checked == within(read_boxes(other), 8, 9).text() == read_boxes(checked).text()
    assert class_counts(checked) == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([label(1, 2, 3, 4), "[]", ""], True), (["[]", "[]"], False), (["cat", label(1, 2, 3, 4)], False), ([], False)],
)
def test_boxes_are_told_from_classes(labels: list[str], expected: bool) -> None:  # noqa: FBT001 - a case
    """Labels are boxes if most of those that there are look like them."""
    assert are_boxes(labels) is expected


def test_labels_with_broken_quotes_are_still_boxes() -> None:
    """What a program wrote as Python's text is recognized as boxes, so that its reason is told, and not as classes."""
    assert are_boxes(["[{'box': [1, 2, 3, 4], 'class': 'cat'}]", "[]"])
    assert not are_boxes(["cat", "[]"])
