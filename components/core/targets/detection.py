"""Boxes as the target of a task: losses by torchvision, average precision as COCO has it, worst pictures first.

Targets are float[N, M, 5]: class, and left, top, right, bottom as shares of the picture's sides; rows of -1 are none.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from components.core.contract.boxes import Boxes, class_counts, read_boxes, within
from components.core.errors import InputError, RejectedRecord
from components.core.evidence.intervals import bootstrap_sums, interval
from components.core.inference.detection import Answer, answers, detected
from components.core.targets import detection_metrics as figures
from components.core.targets.detection_losses import SCALE, loss_of
from components.core.targets.detection_metrics import COUNTED, HALF, MAP, MAP50, MAP75, METRICS, Matches, Seen
from components.core.targets.evaluation import Evaluation, Mistake
from components.core.targets.references import frequent_boxes

Array: TypeAlias = np.ndarray[Any, Any]

PADDING = -1.0
CHUNK = 64  # rows whose loss is computed at once
MISTAKES = 24  # that the report has room for
RESAMPLES = 300  # of average precision, which is no function of sums


class Detection:
    """Any number of boxes for each picture, each of a class."""

    answer: type = Answer
    answers = staticmethod(answers)
    metrics = METRICS

    def check_label(self, label: str) -> str:
        """Return the boxes sorted, in one form; raises RejectedRecord for one that can't be."""
        return read_boxes(label).text()

    def check_example(self, label: str, facts: Mapping[str, int | str]) -> str:
        """Return the boxes with the picture's size; raises RejectedRecord for one outside it."""
        return within(read_boxes(label), int(facts["width"]), int(facts["height"])).text()

    def names(self, labels: Sequence[str]) -> list[list[str]]:
        """The classes that each picture shows."""
        return [[*class_counts(label)] for label in labels]

    def class_names(self, labels: Sequence[str]) -> list[str]:
        """All classes, sorted; raises InputError if there is no box at all."""
        found = sorted({name for names in self.names(labels) for name in names})
        if not found:
            raise InputError("No picture has a box.", "Check the annotations.")
        return found

    def targets(self, labels: Sequence[str], classes: Sequence[str]) -> Tensor:
        """Boxes as shares of the sides, padded with rows of -1: float[N, M, 5]."""
        numbers = {name: number for number, name in enumerate(classes)}
        rows = [_row(read_boxes(label), numbers) for label in labels]
        found = torch.full((len(rows), max(map(len, rows), default=0), 5), PADDING)
        for place, row in enumerate(rows):
            found[place, : len(row)] = row
        return found

    def loss(
        self,
        outputs: Mapping[str, Tensor],
        targets: Tensor,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """The loss of the outputs' kind of detector, see `detection_losses`; a scalar.

        Smoothing and weights are for classes.
        """
        del label_smoothing, class_weights
        objects = [{"labels": row[:, 0].long(), "boxes": row[:, 1:] * SCALE} for row in map(_there, targets)]
        floats = {name: tensor.float() for name, tensor in outputs.items() if name not in ("anchors", "size")}
        parts = loss_of(outputs)(floats, objects, list(outputs["anchors"].float() * SCALE))
        return torch.stack([*parts.values()]).sum()

    def validate(self, outputs: Mapping[str, Tensor], targets: Tensor) -> dict[str, float]:
        """The loss, a mean over chunks of rows, and mAP with boxes measured as shares of the sides."""
        total = 0.0
        for start in range(0, len(targets), CHUNK):
            some = slice(start, start + CHUNK)
            part = {name: tensor[some] for name, tensor in outputs.items()}
            total += float(self.loss(part, targets[some])) * len(targets[some])
        matched = _matched(outputs, targets)
        found = figures.average_precisions(matched)[:, matched.objects.sum(0) > 0]
        return {"loss": total / max(1, len(targets)), MAP.name: float(found.mean()) if found.size else 0.0}

    def calibrate(self, outputs: Mapping[str, Tensor], targets: Tensor) -> dict[str, float]:
        """Return the score from which boxes are sure: that with the best F1 at IoU 0.5."""
        matched = _matched(outputs, targets)
        order = np.argsort(-matched.score, kind="stable")
        hits, boxes = np.cumsum(matched.found[order, HALF]), np.arange(1, len(order) + 1)
        if not len(order) or not hits[-1]:
            return {"threshold": 0.5}
        return {"threshold": float(matched.score[order][np.argmax(2 * hits / (boxes + matched.objects.sum()))])}

    def evaluate(
        self, answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str], training: Mapping[str, int]
    ) -> Evaluation:
        """COCO's average precision, by class and by size, and F1 of confident boxes; 95% bootstrap over pictures.

        The trivial model gives every picture the boxes that find the most objects in the training pictures, see
        `frequent_boxes`.

        Raises:
            ValueError: There are no test rows.
        """
        if len(labels) == 0:
            raise ValueError("there are no test rows to evaluate on")
        objects, said = [figures.truth(label) for label in labels], figures.answered(answers)
        known = [*classes, *sorted({name for one in objects for name in one.names} - {*classes})]
        coco, matched = figures.coco_figures(said, objects, known), figures.matches(said, objects, known)
        constant = frequent_boxes.answers(training, labels)
        trivial = figures.coco_figures(figures.answered(constant), objects, known)
        metrics, baseline, drawn = dict(coco.metrics), dict(trivial.metrics), _resampled(matched)
        intervals = {name: interval(values) for name, values in drawn.items()}
        for metric in COUNTED:
            if metric.features is None or metric.figure is None:
                continue
            features = metric.features(answers, labels, known)
            value = float(metric.figure(features.sum(0)[None])[0])
            if np.isnan(value):  # the precision of no confident box
                continue
            metrics[metric.name] = value
            intervals[metric.name] = interval(metric.figure(bootstrap_sums(features)))
            baseline[metric.name] = float(metric.figure(metric.features(constant, labels, known).sum(0)[None])[0])
        ordered = [metric.name for metric in METRICS if metric.name in metrics]
        return Evaluation(
            metrics={name: metrics[name] for name in ordered},
            intervals={name: intervals[name] for name in ordered if name in intervals},
            baseline={name: baseline[name] for name in ordered if baseline.get(name, np.nan) >= 0},  # no NaN
            trivial=constant,
            bound=float(np.nanquantile(drawn[MAP.name], 0.05)),
            per_class=_per_class(matched, coco.by_class, known),
            precision_recall=_curve(coco.curve),
            mistakes=_mistakes(matched, labels),
            worst_first="The pictures with the lowest average precision of their own. Dashed: what is there; lines: "
            "confident boxes, in green where they find it.",
        )

    def scores(self, answers: pd.DataFrame, labels: Sequence[str]) -> Array:
        """Average precision of each picture alone, see `picture_scores`: float[N]."""
        objects = [figures.truth(label) for label in labels]
        classes = sorted(
            {name for one in objects for name in one.names} | {n for row in answers["labels"] for n in row}
        )
        return figures.picture_scores(figures.matches(figures.answered(answers), objects, classes))


def _row(boxes: Boxes, numbers: Mapping[str, int]) -> Tensor:
    if not boxes.boxes:
        return torch.zeros(0, 5)
    if not boxes.width:
        raise RejectedRecord("the label does not tell the size of its picture")
    sides = (boxes.width, boxes.height, boxes.width, boxes.height)
    shares = [[c / side for c, side in zip(box.corners, sides, strict=True)] for box in boxes.boxes]
    return torch.tensor([[numbers[box.name], *share] for box, share in zip(boxes.boxes, shares, strict=True)])


def _there(row: Tensor) -> Tensor:
    return row[row[:, 0] >= 0]


def _matched(outputs: Mapping[str, Tensor], targets: Tensor) -> Matches:
    """Boxes of outputs against targets, in shares of the sides: IoU does not change with them."""
    classes = [str(number) for number in range(outputs["cls_logits"].shape[2])]
    said = [
        Seen(boxes.double().numpy(), [str(name) for name in names.tolist()], scores.double().numpy())
        for boxes, names, scores in detected(outputs)
    ]
    objects = [Seen(row[:, 1:].double().numpy(), [str(int(n)) for n in row[:, 0]]) for row in map(_there, targets)]
    return figures.matches(said, objects, classes)


def _resampled(matched: Matches) -> dict[str, Array]:
    """The mAP, mAP50 and mAP75 of resampled pictures, float[R]; a class that none of them shows does not count."""
    drawn = bootstrap_sums(np.eye(len(matched.objects)), RESAMPLES)  # how often each picture is drawn
    found = np.array([figures.average_precisions(matched, weights) for weights in drawn])  # [R, 10, C]
    there = ~np.isnan(found)
    total, count = np.where(there, found, 0.0).sum(2), there.sum(2)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return {MAP.name: mean.mean(1), MAP50.name: mean[:, 0], MAP75.name: mean[:, 5]}


def _per_class(matched: Matches, precision: Array, classes: Sequence[str]) -> pd.DataFrame:
    """Objects, recall and precision of confident boxes, and average precision of each class; 0 where undefined."""
    hit, count = matched.found[:, HALF] & matched.sure, len(classes)
    hits = np.bincount(matched.name[hit], minlength=count)
    boxes = np.bincount(matched.name[matched.sure], minlength=count)
    objects = matched.objects.sum(0)
    return pd.DataFrame(
        {
            "class": list(classes),
            "support": objects,
            "recall": hits / np.maximum(objects, 1),
            "precision": hits / np.maximum(boxes, 1),
            "average_precision": np.nan_to_num(precision),
        }
    )


def _curve(curve: Array) -> pd.DataFrame:
    rows = [
        {"iou": iou, "recall": recall, "precision": precision}
        for place, iou in enumerate((0.5, 0.75, 0.9))
        for recall, precision in zip(figures.RECALLS, curve[:, place], strict=True)
    ]
    return pd.DataFrame(rows)


def _mistakes(matched: Matches, labels: Sequence[str]) -> list[Mistake]:
    """Pictures with missed objects or false boxes, those with the lowest score of their own first."""
    scores = figures.picture_scores(matched)
    hits, boxes = figures.per_picture(matched)
    missed, false = matched.objects.sum(1) - hits, boxes - hits
    found = []
    for row in np.argsort(scores, kind="stable"):
        if not missed[row] and not false[row]:
            continue
        told = ", ".join(f"{count} {name}" for name, count in class_counts(labels[row]).items()) or "nothing"
        found.append(Mistake(int(row), told, f"{missed[row]} missed, {false[row]} false", None))
    return found[:MISTAKES]
