"""Metrics of detection: average precision as COCO defines it, by faster-coco-eval, and what the gate needs of it.

Which box of a picture finds which object depends on that picture alone, so it is settled once (`Matches`); resampled
pictures then only weigh differently. `average_precisions` of equal weights is COCO's.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from faster_coco_eval import COCO, COCOeval_faster

from components.core.contract.boxes import read_boxes
from components.core.contract.task import Metric

Array: TypeAlias = np.ndarray[Any, Any]

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
HALF = 0  # the place of 0.5 among the IoUs
SIZES = ("small", "medium", "large")  # area below 32², below 96², beyond, in pixels of the picture
GATE_IOUS = 5  # each stands for two of the ten
STEPS = 16  # of the score
_EDGES = np.linspace(0.0, 1.0, STEPS + 1)


@dataclass(frozen=True)
class Matches:
    """Boxes of answers to N pictures, and which of them find an object of their class."""

    picture: Array  # int[D]
    name: Array  # int[D], number of the class
    score: Array  # float[D]
    found: Array  # bool[D, 10], at each IoU
    sure: Array  # bool[D], whether the answer is sure of it
    objects: Array  # int[N, C], that are there


@dataclass(frozen=True)
class Seen:
    """Objects or boxes of one picture."""

    boxes: Array  # float[K, 4]
    names: Sequence[str]
    scores: Array = field(default_factory=lambda: np.zeros(0))  # float[K], descending; of answers
    sure: int = 0


def truth(label: str) -> Seen:
    """The objects that a label tells, in pixels."""
    boxes = read_boxes(label).boxes
    return Seen(np.array([box.corners for box in boxes]).reshape(-1, 4), [box.name for box in boxes])


def answered(answers: pd.DataFrame) -> list[Seen]:
    """The boxes of each answer."""
    columns = zip(answers["boxes"], answers["labels"], answers["scores"], answers["sure"], strict=True)
    return [
        Seen(np.array(boxes, dtype=np.float64).reshape(-1, 4), list(labels), np.array(scores, dtype=np.float64), sure)
        for boxes, labels, scores, sure in columns
    ]


def matches(answers: Sequence[Seen], objects: Sequence[Seen], classes: Sequence[str]) -> Matches:
    """Match boxes and objects of each picture by class, the surest box first, as COCO does.

    A box takes the object with the largest IoU that no surer box has taken. Boxes of other classes are passed over.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    counts = np.zeros((len(objects), len(classes)), dtype=np.int64)
    parts: list[tuple[Array, ...]] = []
    for picture, (said, true) in enumerate(zip(answers, objects, strict=True)):
        ours = np.array([numbers.get(name, -1) for name in said.names], dtype=np.int64)
        theirs = np.array([numbers.get(name, -1) for name in true.names], dtype=np.int64)
        np.add.at(counts[picture], theirs[theirs >= 0], 1)
        found = np.zeros((len(ours), len(IOUS)), dtype=bool)
        for number in {*ours.tolist()} & {*theirs.tolist()}:
            some = np.flatnonzero(ours == number)
            found[some] = _found(iou(said.boxes[some], true.boxes[theirs == number]))
        known = ours >= 0
        sure = np.arange(len(ours)) < said.sure
        parts.append((np.full(known.sum(), picture), ours[known], said.scores[known], found[known], sure[known]))
    picture_, name_, score, found_, sure_ = (np.concatenate([part[place] for part in parts]) for place in range(5))
    return Matches(picture_, name_, score, found_, sure_, counts)


def iou(boxes: Array, others: Array) -> Array:
    """Intersection over union of boxes [A, 4] and [B, 4]: float[A, B]."""
    sides = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - np.maximum(boxes[:, None, :2], others[None, :, :2])
    shared = sides.clip(min=0).prod(2)
    areas = [(some[:, 2:] - some[:, :2]).prod(1) for some in (boxes, others)]
    return np.asarray(shared / (areas[0][:, None] + areas[1][None] - shared).clip(min=1e-12))


def _found(overlap: Array) -> Array:
    """Match each box [A] with an object [B] at each IoU, by their overlap [A, B]: bool[A, 10]."""
    taken = np.zeros((len(IOUS), overlap.shape[1]), dtype=bool)
    found = np.zeros((len(overlap), len(IOUS)), dtype=bool)
    for place, row in enumerate(overlap):
        free = np.where(taken, -1.0, row)
        best = free.shape[1] - 1 - free[:, ::-1].argmax(1)  # of equal ones the last, as COCO takes it
        hit = free[np.arange(len(IOUS)), best] >= np.minimum(IOUS, 1 - 1e-10)
        taken[hit, best[hit]] = True
        found[place] = hit
    return found


def average_precisions(matched: Matches, weights: Array | None = None) -> Array:
    """Average precision at each IoU of each class, float[10, C]; NaN of a class without objects.

    Args:
        matched: All boxes.
        weights: How often each picture counts, float[N]; None: once.
    """
    times = np.ones(len(matched.objects)) if weights is None else weights
    order = np.argsort(-matched.score, kind="stable")
    found, names, weight = matched.found[order], matched.name[order], times[matched.picture[order]]
    objects = times @ matched.objects
    result = np.full((len(IOUS), len(objects)), np.nan)
    for number in np.flatnonzero(objects):
        own = (names == number) & (weight > 0)
        hits = np.cumsum(found[own] * weight[own, None], axis=0)
        precision = hits / np.cumsum(weight[own])[:, None]
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        recall = hits / objects[number]
        for place in range(len(IOUS)):
            at = np.searchsorted(recall[:, place], RECALLS, side="left")
            result[place, number] = np.append(envelope[:, place], 0.0)[at].mean()
    return result


def picture_scores(matched: Matches) -> Array:
    """Of each picture its own average precision, with all classes in one list, the mean over the IoUs: float[N].

    Of a picture without objects it is 1 less the highest score among its boxes.
    """
    count = len(matched.objects)
    pooled = Matches(
        matched.picture, np.zeros_like(matched.name), matched.score, matched.found, matched.sure,
        matched.objects.sum(1, keepdims=True),
    )  # fmt: skip
    found = np.zeros(count)
    for picture in range(count):
        own = pooled.picture == picture
        if not pooled.objects[picture, 0]:
            found[picture] = 1 - pooled.score[own].max(initial=0.0)
            continue
        one = Matches(
            np.zeros(own.sum(), dtype=np.int64), pooled.name[own], pooled.score[own], pooled.found[own],
            pooled.sure[own], pooled.objects[picture : picture + 1],
        )  # fmt: skip
        found[picture] = average_precisions(one).mean()
    return found


def _matched(answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str]) -> Matches:
    objects = [truth(label) for label in labels]
    known = [*classes, *sorted({name for one in objects for name in one.names} - {*classes})]
    return matches(answered(answers), objects, known)


def precision_features(answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str]) -> Array:
    """Boxes and hits of each picture in each step of the score, and its objects, by class: float[N, C (5 S + S + 1)].

    Their sums over pictures are points of the curves of precision and recall, so average precision is a function of
    them, up to the width of the steps.
    """
    matched = _matched(answers, labels, classes)
    pictures, known = matched.objects.shape
    step = np.clip(np.digitize(matched.score, _EDGES) - 1, 0, STEPS - 1)
    features = np.zeros((pictures, known, GATE_IOUS + 1, STEPS))
    for place in range(GATE_IOUS):
        hits = matched.found[:, 2 * place : 2 * place + 2].mean(1)
        _count(features[:, :, place], (matched.picture, matched.name, step), hits)
    _count(features[:, :, GATE_IOUS], (matched.picture, matched.name, step), np.ones(len(step)))
    both = np.concatenate([features.reshape(pictures, known, -1), matched.objects[:, :, None]], axis=2)
    return np.asarray(both.reshape(pictures, -1))


def _count(into: Array, places: tuple[Array, ...], values: Array) -> None:
    """Add values at places, which may repeat."""
    flat = np.ravel_multi_index(places, into.shape)
    into += np.bincount(flat, weights=values, minlength=into.size).reshape(into.shape)


def mean_precision(sums: Array) -> Array:
    """Mean average precision float[R] of sums of `precision_features` float[R, k], over classes that have objects."""
    width = (GATE_IOUS + 1) * STEPS + 1
    by_class = sums.reshape(len(sums), -1, width)
    objects = by_class[:, :, -1]
    counts = by_class[:, :, :-1].reshape(*objects.shape, GATE_IOUS + 1, STEPS)[..., ::-1].cumsum(-1)  # surest first
    hits, boxes = counts[..., :-1, :], counts[..., -1:, :]
    precision = np.divide(hits, boxes, out=np.zeros_like(hits), where=boxes > 0)
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    unknown = np.full_like(hits, np.nan)
    recall = np.divide(hits, objects[..., None, None], out=unknown, where=objects[..., None, None] > 0)
    rise = np.diff(recall, axis=-1, prepend=0.0)
    before = np.concatenate([envelope[..., :1], envelope[..., :-1]], axis=-1)
    area = (rise * (before + envelope) / 2).sum(-1).mean(-1)  # [R, C]; within a step precision falls evenly
    there = objects > 0
    total = np.where(there, area, 0.0).sum(1)
    return np.asarray(np.divide(total, there.sum(1), out=np.full(len(sums), np.nan), where=there.any(1)))


def count_features(answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str]) -> Array:
    """Hits, false boxes and missed objects of each picture among its confident boxes at IoU 0.5: float[N, 3]."""
    matched = _matched(answers, labels, classes)
    hits, boxes = per_picture(matched)
    return np.stack([hits, boxes - hits, matched.objects.sum(1) - hits], axis=1)


def per_picture(matched: Matches) -> tuple[Array, Array]:
    """Count the confident boxes of each picture that find an object at IoU 0.5, and all of them: int[N] each."""
    count = len(matched.objects)
    hit = matched.sure & matched.found[:, HALF]
    return np.bincount(matched.picture[hit], minlength=count), np.bincount(
        matched.picture[matched.sure], minlength=count
    )


def _share(sums: Array, over: Sequence[int]) -> Array:
    whole = sums[:, over].sum(1)
    return np.asarray(np.divide(sums[:, 0], whole, out=np.full(len(sums), np.nan), where=whole > 0))


def _f1(sums: Array) -> Array:
    hits, false, missed = sums.T
    whole = 2 * hits + false + missed
    return np.asarray(np.divide(2 * hits, whole, out=np.full(len(sums), np.nan), where=whole > 0))


MAP = Metric(
    "map",
    features=precision_features,
    figure=mean_precision,
    title="mAP",
    explanation="mean over classes and IoU thresholds from 0.50 to 0.95, as COCO has it",
)
MAP50 = Metric("map50", title="mAP50", explanation="at IoU 0.50")
MAP75 = Metric("map75", title="mAP75", explanation="at IoU 0.75")
BY_SIZE = tuple(Metric(f"map_{size}", title=f"mAP, {size}", explanation=f"of {size} objects") for size in SIZES)
COUNTED = (
    Metric("box_f1", features=count_features, figure=_f1, title="F1", explanation="of confident boxes at IoU 0.50"),
    Metric(
        "box_precision",
        features=count_features,
        figure=lambda sums: _share(sums, (0, 1)),
        title="Precision",
        explanation="share of confident boxes that find an object",
    ),
    Metric(
        "box_recall",
        features=count_features,
        figure=lambda sums: _share(sums, (0, 2)),
        title="Recall",
        explanation="share of objects that a confident box finds",
    ),
)
METRICS = (MAP, MAP50, MAP75, *COUNTED, *BY_SIZE)


@dataclass(frozen=True)
class CocoFigures:
    """Figures by faster-coco-eval."""

    metrics: Mapping[str, float]  # by name; without those that are undefined
    by_class: Array  # average precision of each class, float[C]; NaN: without objects
    curve: Array  # precision at each recall, float[101, 3], at IoU 0.50, 0.75 and 0.90, the mean over classes


def coco_figures(answers: Sequence[Seen], objects: Sequence[Seen], classes: Sequence[str]) -> CocoFigures:
    """Return COCO's own figures of answers to pictures with objects, by a maintained implementation of its rules."""
    numbers = {name: number for number, name in enumerate(classes, start=1)}
    rows = [
        {"id": number, "iscrowd": 0, "area": box["bbox"][2] * box["bbox"][3], **box}
        for number, box in enumerate(_as_coco(objects, numbers), start=1)
    ]
    said = _as_coco(answers, numbers)
    images = [{"id": picture} for picture in range(len(objects))]
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    undefined = np.full(len(classes), np.nan)
    if not rows:
        return CocoFigures({}, undefined, np.zeros((len(RECALLS), 3)))
    if not said:
        named = {name for one in objects for name in one.names}
        there = np.array([name in named for name in classes])
        zeros = {metric.name: 0.0 for metric in (MAP, MAP50, MAP75)}
        return CocoFigures(zeros, np.where(there, 0.0, undefined), np.zeros((len(RECALLS), 3)))
    with contextlib.redirect_stdout(io.StringIO()):  # it reports to people
        truth_ = COCO({"images": images, "annotations": rows, "categories": categories})
        found = COCOeval_faster(truth_, truth_.loadRes(said), "bbox", print_function=lambda *_: None)
        found.evaluate()
        found.accumulate()
        found.summarize()
    names = (MAP, MAP50, MAP75, *BY_SIZE)
    metrics = {m.name: float(x) for m, x in zip(names, found.stats[: len(names)], strict=True) if x >= 0}
    precision = np.where(found.eval["precision"] < 0, np.nan, found.eval["precision"])[:, :, :, 0, -1]  # [T, R, C]
    by_class = np.array([_mean(precision[:, :, number]) for number in range(len(classes))])
    known = ~np.isnan(by_class)
    return CocoFigures(metrics, by_class, precision[[0, 5, 8]][:, :, known].mean(2).T)


def _mean(values: Array) -> float:
    return float(values.mean()) if not np.isnan(values).all() else float("nan")


def _as_coco(seen: Sequence[Seen], numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """Objects or boxes of pictures in COCO's form; those of other classes are passed over."""
    found = []
    for picture, one in enumerate(seen):
        scores = one.scores if len(one.scores) else [None] * len(one.names)
        for name, (left, top, right, bottom), score in zip(one.names, one.boxes.tolist(), scores, strict=True):
            if name in numbers:
                box = {
                    "image_id": picture,
                    "category_id": numbers[name],
                    "bbox": [left, top, right - left, bottom - top],
                }
                found.append(box if score is None else {**box, "score": float(score)})
    return found
