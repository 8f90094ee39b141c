"""Average precision as COCO has it."""

import contextlib
import io

import numpy as np
import pandas as pd
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from components.core.contract.boxes import Box, Boxes
from components.core.evidence.paired_tests import swap_test
from components.core.targets import detection_metrics as figures
from components.core.targets.detection_metrics import Seen

CLASSES = ["ant", "bee", "cat"]


def objects(generator: np.random.Generator, count: int, side: float = 300.0) -> Seen:
    corner, size = generator.uniform(0, side, (count, 2)), generator.uniform(8, 160, (count, 2))
    names = [str(name) for name in generator.choice(CLASSES, count, p=[0.5, 0.3, 0.2])]
    return Seen(np.concatenate([corner, corner + size], axis=1).round(1), names)


def said(generator: np.random.Generator, true: Seen) -> Seen:
    """Shifted, doubled, renamed and invented boxes."""
    moved = np.concatenate([true.boxes, true.boxes]) + generator.normal(0, 6, (2 * len(true.boxes), 4))
    names = [name if generator.random() < 0.8 else "ant" for name in [*true.names, *true.names]]
    invented = objects(generator, 3)
    scores = generator.random(len(names) + 3).round(2)  # some are equal
    order = np.argsort(-scores, kind="stable")
    boxes = np.concatenate([moved, invented.boxes])[order]
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    return Seen(boxes, [[*names, *invented.names][i] for i in order], scores[order], int((scores > 0.5).sum()))


def drawn(pictures: int = 40, seed: int = 0) -> tuple[list[Seen], list[Seen]]:
    generator = np.random.default_rng(seed)
    true = [objects(generator, int(generator.integers(0, 6))) for _ in range(pictures)]
    return [said(generator, one) for one in true], true


def frame(answers: list[Seen]) -> pd.DataFrame:
    rows = [(one.boxes.tolist(), one.names, one.scores.tolist(), one.sure) for one in answers]
    return pd.DataFrame(rows, columns=["boxes", "labels", "scores", "sure"])


def labels(true: list[Seen]) -> list[str]:
    boxes = [[Box(name, tuple(box)) for box, name in zip(one.boxes.tolist(), one.names, strict=True)] for one in true]
    return [Boxes(some, 500, 500).text() for some in boxes]


def by_pycocotools(answers: list[Seen], true: list[Seen]) -> list[float]:
    numbers = {name: number for number, name in enumerate(CLASSES, start=1)}
    rows = figures._as_coco(true, numbers)
    annotations = [
        {**row, "id": number, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]}
        for number, row in enumerate(rows, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": picture} for picture in range(len(true))],
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        }
        coco.createIndex()
        coco.dataset["info"] = {}
        found = COCOeval(coco, coco.loadRes(figures._as_coco(answers, numbers)), "bbox")
        found.evaluate()
        found.accumulate()
        found.summarize()
    return [float(value) for value in found.stats[:6]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_all_figures_agree_with_pycocotools(seed: int) -> None:
    """The mean average precision, at two thresholds and by size, is pycocotools' to a millionth."""
    answers, true = drawn(seed=seed)
    found = figures.coco_figures(answers, true, CLASSES)
    names = ["map", "map50", "map75", "map_small", "map_medium", "map_large"]
    assert [found.metrics[name] for name in names] == pytest.approx(by_pycocotools(answers, true), abs=1e-6)
    assert found.metrics["map"] == pytest.approx(np.nanmean(found.by_class), abs=1e-6)
    assert found.curve[:, 0].mean() == pytest.approx(found.metrics["map50"], abs=1e-6)


def test_what_intervals_resample_is_the_same_figure() -> None:
    """Counting each picture once gives COCO's figure; counting some twice, that of the pictures repeated."""
    answers, true = drawn()
    matched = figures.matches(answers, true, CLASSES)
    assert np.nanmean(figures.average_precisions(matched)) == pytest.approx(by_pycocotools(answers, true)[0], abs=1e-6)
    times = np.random.default_rng(0).integers(0, 3, len(true))
    repeated = [([answers[i]] * n, [true[i]] * n) for i, n in enumerate(times)]
    again = figures.matches([x for a, _ in repeated for x in a], [x for _, t in repeated for x in t], CLASSES)
    expected = np.nanmean(figures.average_precisions(again))
    assert np.nanmean(figures.average_precisions(matched, times)) == pytest.approx(expected, abs=0.01)


def test_what_decides_is_average_precision_in_steps_of_the_score() -> None:
    """The figure of sums over pictures is within three hundredths of COCO's, and orders models as it does."""
    gaps, exact, decided = [], [], []
    for seed in range(6):
        answers, true = drawn(seed=seed)
        some = [Seen(one.boxes + seed, one.names, one.scores, one.sure) for one in answers]  # worse and worse
        exact.append(figures.coco_figures(some, true, CLASSES).metrics["map"])
        features = figures.precision_features(frame(some), labels(true), CLASSES)
        decided.append(float(figures.mean_precision(features.sum(0)[None])[0]))
        gaps.append(abs(exact[-1] - decided[-1]))
    assert max(gaps) < 0.03
    assert np.corrcoef(exact, decided)[0, 1] > 0.98


def test_permuted_pictures_tell_the_better_model() -> None:
    """The gate's test finds the model whose boxes lie better, and nothing where both say the same."""
    answers, true = drawn()
    worse = [Seen(one.boxes + 8, one.names, one.scores, one.sure) for one in answers]
    ours, theirs = (figures.precision_features(frame(some), labels(true), CLASSES) for some in (answers, worse))
    units = np.arange(len(true))
    assert swap_test(theirs, ours, figures.mean_precision, units, 999) < 0.01
    assert swap_test(ours, theirs, figures.mean_precision, units, 999) > 0.95
    assert swap_test(ours, ours, figures.mean_precision, units, 999) == 1


def test_features_of_two_models_have_the_same_columns() -> None:
    """A class that only the labels have counts for both models."""
    answers, true = drawn(8)
    one = figures.precision_features(frame(answers), labels(true), CLASSES[:2])
    other = figures.precision_features(frame([Seen(np.zeros((0, 4)), [])] * 8), labels(true), CLASSES[:2])
    assert one.shape == other.shape == (8, 3 * (6 * 16 + 1))
    assert figures.mean_precision(other.sum(0)[None])[0] == 0


def test_no_boxes_and_nothing_there_have_figures() -> None:
    """Without a box precision is 0, by class too; without an object it is undefined."""
    none = Seen(np.zeros((0, 4)), [])
    answers, true = drawn(5)
    found = figures.coco_figures([none] * 5, true, CLASSES)
    assert found.metrics["map"] == 0
    assert np.nan_to_num(found.by_class).sum() == 0
    assert figures.coco_figures(answers, [none] * 5, CLASSES).metrics == {}
    assert np.isnan(figures.mean_precision(np.zeros((1, 97)))[0])


def test_counts_of_sure_boxes() -> None:
    """A confident box finds an object or is false; what no confident box finds is missed."""
    box = [0.0, 0.0, 10.0, 10.0]
    true = [Seen(np.array([box, [20, 20, 40, 40]]), ["cat", "cat"])]
    answers = frame([Seen(np.array([box, box, [20, 20, 40, 40]]), ["cat", "ant", "cat"], np.array([0.9, 0.8, 0.1]), 2)])
    assert figures.count_features(answers, labels(true), CLASSES).tolist() == [[1, 1, 1]]


def test_a_picture_has_a_score_of_its_own() -> None:
    """Average precision within the picture; of an empty one, how unsure the surest box is."""
    box = np.array([[0.0, 0.0, 10.0, 10.0]])
    true = [Seen(box, ["cat"]), Seen(box, ["cat"]), Seen(np.zeros((0, 4)), [])]
    found = [Seen(box, ["cat"], np.array([0.3]), 0), Seen(box, ["ant"], np.array([0.3]), 0)]
    scores = figures.picture_scores(figures.matches([*found, found[0]], true, CLASSES))
    assert scores.tolist() == pytest.approx([1.0, 0.0, 0.7])
