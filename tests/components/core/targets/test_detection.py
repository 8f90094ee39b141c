"""Boxes as a target."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from components.core.contract.boxes import Box, Boxes
from components.core.contract.task import complete_target
from components.core.errors import InputError, RejectedRecord
from components.core.inference.detection import DELTA_WEIGHTS, answers
from components.core.networks.detection.anchors import squares
from components.core.targets.detection import Detection

TARGET = Detection()
CLASSES = ["cat", "dog"]
GRIDS = (8, 4, 2, 1, 1)
LABELS = [
    Boxes([Box("dog", (10, 10, 50, 40)), Box("cat", (60, 5, 90, 45))], 100, 50).text(),
    Boxes([Box("cat", (0, 0, 30, 30))], 60, 60).text(),
    Boxes([], 80, 40).text(),
]
SIZES = torch.tensor([[100, 50], [60, 60], [80, 40]])


def outputs(sure: float = 6.0) -> dict[str, Tensor]:
    """Outputs that say the labels: each object at the place of the finest level nearest to its center."""
    places = squares(GRIDS)
    logits, reach = torch.full((3, len(places), 2), -8.0), torch.zeros(3, len(places), 4)
    for row, objects in enumerate(TARGET.targets(LABELS, CLASSES)):
        for name, *corners in objects[objects[:, 0] >= 0].tolist():
            left, top, right, bottom = corners
            middle = (places[:64, :2] + places[:64, 2:]) / 2
            at = int((middle - torch.tensor([(left + right) / 2, (top + bottom) / 2])).abs().sum(1).argmin())
            x, y = middle[at].tolist()
            side = 1 / 8
            logits[row, at, int(name)] = sure + name / 10  # a dog is a little surer than a cat
            reach[row, at] = torch.tensor([x - left, y - top, right - x, bottom - y]) / side
    return {
        "cls_logits": logits,
        "bbox_regression": reach,
        "bbox_ctrness": torch.full((3, len(places), 1), sure),
        "anchors": places.expand(3, -1, -1),
        "size": SIZES,
    }


def test_answers_are_boxes_in_pixels() -> None:
    """Outputs become boxes of the picture's own size, by name, the surest first."""
    found = answers(outputs(), {"classes": CLASSES, "threshold": 0.5})
    assert [row["labels"] for row in found] == [["dog", "cat"], ["cat"], []]
    assert found[0]["boxes"] == pytest.approx(np.array([[10, 10, 50, 40], [60, 5, 90, 45]]), abs=1e-3)
    assert [row["sure"] for row in found] == [2, 1, 0]
    assert [(row["width"], row["height"]) for row in found] == [(100, 50), (60, 60), (80, 40)]


def of_anchors(kind: str, sure: float = 6.0) -> dict[str, Tensor]:
    """Outputs of RetinaNet, SSD or R-CNN that say the labels: each object at an anchor or proposal near it."""
    places = squares(GRIDS)
    anchors, logits = places.repeat(3, 1, 1), torch.full((3, len(places), 2), -8.0)
    background, deltas = torch.full((3, len(places), 1), sure), torch.zeros(3, len(places), 4)
    objectness, moves = background.neg(), torch.zeros(3, len(places), 4)
    coder, first = (
        BoxCoder(DELTA_WEIGHTS[one]) for one in ("retinanet" if kind == "retinanet" else "ssd", "retinanet")
    )
    for row, objects in enumerate(TARGET.targets(LABELS, CLASSES)):
        for at, (name, *corners) in enumerate(objects[objects[:, 0] >= 0].tolist()):
            box = torch.tensor([corners])
            anchors[row, at] = box + 0.01
            deltas[row, at] = coder.encode_single(box, anchors[row, at : at + 1])
            logits[row, at, int(name)], background[row, at] = sure + name / 10, -8.0
            objectness[row, at], moves[row, at] = sure, first.encode_single(box, anchors[row, at : at + 1])
    found = {"cls_logits": logits, "bbox_regression": deltas, "anchors": anchors, "size": SIZES}
    found |= {} if kind == "retinanet" else {"background": background}
    steps = {"objectness": objectness, "proposal_regression": moves, "first_anchors": anchors.clone()}
    return found | (steps if kind == "rcnn" else {})


@pytest.mark.parametrize("kind", ["retinanet", "ssd", "rcnn"])
def test_other_kinds_of_detectors_say_boxes_too(kind: str) -> None:
    """Outputs without centers are deltas of anchors; with a background, classes exclude each other."""
    found = answers(of_anchors(kind), {"classes": CLASSES, "threshold": 0.5})
    assert [row["labels"] for row in found] == [["dog", "cat"], ["cat"], []]
    assert found[0]["boxes"] == pytest.approx(np.array([[10, 10, 50, 40], [60, 5, 90, 45]]), abs=1e-3)
    assert [row["sure"] for row in found] == [2, 1, 0]


@pytest.mark.parametrize("kind", ["retinanet", "ssd", "rcnn"])
def test_other_kinds_of_detectors_have_their_own_loss(kind: str) -> None:
    """Right outputs cost less than outputs of other classes, and the gradient reaches classes and boxes."""
    targets, right = TARGET.targets(LABELS, CLASSES), of_anchors(kind)
    wrong = {**right, "cls_logits": right["cls_logits"].flip(2)}
    wrong["bbox_regression"] = right["bbox_regression"] + 0.1
    if kind == "rcnn":
        wrong["objectness"], wrong["proposal_regression"] = -right["objectness"], right["proposal_regression"] + 0.1
    learned = [name for name in wrong if name not in ("anchors", "first_anchors", "size")]
    for name in learned:
        wrong[name] = wrong[name].clone().requires_grad_()
    loss = TARGET.loss(wrong, targets)
    loss.backward()
    assert all(float(wrong[name].grad.abs().sum()) > 0 for name in learned)
    assert float(loss.detach()) > float(TARGET.loss(right, targets))
    assert TARGET.validate(right, targets)["map"] == pytest.approx(1.0, abs=1e-6)


def test_both_steps_have_a_loss_of_their_own() -> None:
    """The first step loses by missing an object, the second by a wrong class or a class where there is nothing."""
    targets, right = TARGET.targets(LABELS, CLASSES), of_anchors("rcnn")
    least = float(TARGET.loss(right, targets))
    assert float(TARGET.loss({**right, "objectness": -right["objectness"]}, targets)) > least + 1
    assert float(TARGET.loss({**right, "cls_logits": right["cls_logits"].flip(2)}, targets)) > least + 0.1
    said = right["cls_logits"].clone()
    said[2] = 9.0  # of the picture that shows nothing
    assert float(TARGET.loss({**right, "cls_logits": said}, targets)) > least + 0.5
    assert float(TARGET.loss(right, targets)) == least  # nothing is drawn


def test_the_lower_of_two_boxes_of_one_thing_is_dropped() -> None:
    """Boxes of a class that overlap are one object; those of another class stay."""
    given = outputs()
    at = given["cls_logits"][1, :, 0].argmax()
    for shift, name in ((1, 0), (2, 1)):
        given["cls_logits"][1, at + shift, name] = 3.0
        given["bbox_regression"][1, at + shift] = given["bbox_regression"][1, at] + torch.tensor([shift, 0, -shift, 0])
    found = answers(given, {"classes": CLASSES})
    assert found[1]["labels"] == ["cat", "dog"]


def test_right_outputs_have_a_lower_loss() -> None:
    """Outputs that say the boxes cost less than outputs without classes, whose gradient reaches all three parts."""
    targets = TARGET.targets(LABELS, CLASSES)
    wrong = {**outputs(), "cls_logits": torch.zeros_like(outputs()["cls_logits"])}
    for name in ("cls_logits", "bbox_regression", "bbox_ctrness"):
        wrong[name] = wrong[name].clone().requires_grad_()
    loss = TARGET.loss(wrong, targets)
    loss.backward()
    assert all(float(wrong[name].grad.abs().sum()) > 0 for name in ("cls_logits", "bbox_regression", "bbox_ctrness"))
    assert float(loss.detach()) > float(TARGET.loss(outputs(), targets))


def test_pictures_without_boxes_have_a_loss() -> None:
    """A batch that shows nothing teaches that nothing is there."""
    targets = TARGET.targets(LABELS[2:], CLASSES)
    given = {name: tensor[2:] for name, tensor in outputs().items()}
    noisy = {**given, "cls_logits": given["cls_logits"] + 5}
    assert 0 <= float(TARGET.loss(given, targets)) < float(TARGET.loss(noisy, targets))


def test_padding_changes_nothing() -> None:
    """Rows of -1 are no boxes."""
    targets = TARGET.targets(LABELS, CLASSES)
    longer = torch.cat([targets, torch.full((3, 4, 5), -1.0)], dim=1)
    assert torch.equal(TARGET.loss(outputs(), targets), TARGET.loss(outputs(), longer))


def test_validation_tells_the_average_precision() -> None:
    """Right outputs have the mAP 1, and the loss is the mean over chunks."""
    found = TARGET.validate(outputs(), TARGET.targets(LABELS, CLASSES))
    assert found["map"] == pytest.approx(1.0, abs=1e-6)
    assert found["loss"] == pytest.approx(float(TARGET.loss(outputs(), TARGET.targets(LABELS, CLASSES))))


def test_the_threshold_is_that_of_the_best_f1() -> None:
    """Boxes are sure from the score that loses neither an object nor a false box more than it has to."""
    given = outputs()
    given["cls_logits"][2, 5, 0] = 1.0  # a false box, less sure than all others
    given["bbox_regression"][2, 5] = 1.0
    found = TARGET.calibrate(given, TARGET.targets(LABELS, CLASSES))
    scores = [score for row in answers(given, {"classes": CLASSES}) for score in row["scores"]]
    assert sorted(scores)[1] == pytest.approx(found["threshold"])
    assert TARGET.calibrate(outputs(-9.0), TARGET.targets(LABELS, CLASSES)) == {"threshold": 0.5}


def test_right_answers_are_evaluated_as_right() -> None:
    """All figures of answers that say the labels are 1, the trivial model's are less, and nothing is a mistake."""
    said = pd.DataFrame(answers(outputs(), {"classes": CLASSES}))
    found = TARGET.evaluate(said, LABELS, CLASSES, {LABELS[0]: 2, LABELS[1]: 1})
    assert [found.metrics[name] for name in ("map", "map50", "box_f1")] == pytest.approx([1.0, 1.0, 1.0])
    assert found.baseline["map"] < 1
    assert found.intervals["map"] == pytest.approx((1.0, 1.0))
    assert found.mistakes == []
    assert found.per_class is not None
    assert found.per_class["support"].tolist() == [2, 1]
    assert complete_target(TARGET).scores(said, LABELS).tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_the_worst_pictures_come_first() -> None:
    """A picture whose objects are missed stands before one with a false box beside its object."""
    rows = answers(outputs(), {"classes": CLASSES})
    rows[0] = {**rows[0], "boxes": [], "labels": [], "scores": [], "sure": 0}
    extra = {"boxes": [*rows[1]["boxes"], [40.0, 40.0, 55.0, 55.0]], "labels": ["cat", "dog"]}
    rows[1] = {**rows[1], **extra, "scores": [0.9, 0.8], "sure": 2}
    found = TARGET.evaluate(pd.DataFrame(rows), LABELS, CLASSES, {LABELS[0]: 1})
    told = [(one.row, one.label, one.predicted) for one in found.mistakes]
    assert told == [(0, "1 cat, 1 dog", "2 missed, 0 false"), (1, "1 cat", "0 missed, 1 false")]


def test_labels_are_checked_with_their_pictures() -> None:
    """A label gets the size of its picture, and one outside it is rejected."""
    text = json.dumps([{"box": [1, 2, 3, 4], "class": "cat"}])
    assert json.loads(TARGET.check_example(TARGET.check_label(text), {"width": 9, "height": 8}))["width"] == 9
    with pytest.raises(RejectedRecord, match="outside the picture of 1 x 8"):
        TARGET.check_example(text, {"width": 1, "height": 8, "fingerprint": ""})


def test_classes_are_those_of_the_boxes() -> None:
    """The names of all boxes, sorted; pictures that show nothing add none, and alone they are refused."""
    assert TARGET.class_names(LABELS) == CLASSES
    assert TARGET.names(LABELS) == [["cat", "dog"], ["cat"], []]
    with pytest.raises(InputError, match="No picture has a box"):
        TARGET.class_names(LABELS[2:])
