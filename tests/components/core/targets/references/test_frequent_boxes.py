"""The best boxes without a look at the picture."""

import numpy as np
import pandas as pd
import pytest

from components.core.contract.boxes import Box, Boxes
from components.core.evidence.gate import first_version
from components.core.inference.detection import MOST
from components.core.targets.detection import Detection
from components.core.targets.references import frequent_boxes


def label(*boxes: tuple[str, tuple[float, float, float, float]], side: int = 100) -> str:
    return Boxes([Box(name, corners) for name, corners in boxes], side, side).text()


def scattered(count: int, seed: int) -> list[str]:
    """Pictures with an object at a place, of a size and of a class by chance."""
    rng = np.random.default_rng(seed)
    places, sizes = rng.uniform(0, 60, (count, 2)), rng.uniform(15, 40, (count, 2))
    names = rng.choice(["cat", "dog"], count)
    both = zip(names, places, sizes, strict=True)
    return [label((str(name), (*place.tolist(), *(place + size).tolist()))) for name, place, size in both]


def test_what_finds_the_most_comes_first() -> None:
    """Frequent boxes before rare ones, each scored by what it adds; in pixels of the picture that is answered."""
    left, right = (0, 0, 40, 40), (50, 50, 90, 90)
    training = {label(("cat", left)): 6, label(("cat", right)): 3, label(("dog", left)): 1}
    found = frequent_boxes.answers(training, [label(side=200)]).iloc[0]
    assert found["labels"] == ["cat", "cat", "dog"]
    assert found["boxes"] == [[0, 0, 80, 80], [100, 100, 180, 180], [0, 0, 80, 80]]
    assert found["scores"] == pytest.approx([0.6, 0.3, 0.1])
    assert found["sure"] == 1


def test_an_answer_has_no_more_boxes_than_a_detector_may_give() -> None:
    """However many training boxes differ, the likeliest hundred are kept."""
    found = frequent_boxes.answers(dict.fromkeys(scattered(900, 0), 1), scattered(1, 1)).iloc[0]
    assert len(found["boxes"]) == len(found["scores"]) == MOST
    assert found["scores"] == sorted(found["scores"], reverse=True)


def test_a_detector_that_does_not_look_is_refused() -> None:
    """A first version whose boxes don't depend on the picture does not beat the trivial model, however few it finds."""
    training, test = dict.fromkeys(scattered(200, 0), 1), scattered(60, 1)
    lately = frequent_boxes.answers(dict.fromkeys(scattered(200, 2), 1), test)
    found = Detection().evaluate(lately, test, ["cat", "dog"], training)
    assert found.metrics["map"] > 0
    assert not first_version("map", found.metrics["map"], found.bound, found.baseline["map"], len(test)).accepted


def test_without_training_boxes_nothing_is_said() -> None:
    """Pictures that show nothing have no frequent box."""
    found = frequent_boxes.answers({label(): 5}, [label()])
    assert isinstance(found, pd.DataFrame)
    assert found.iloc[0]["boxes"] == []
