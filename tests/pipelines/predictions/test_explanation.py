"""What an answer rests on, of models whose answers are known."""

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from components.core.errors import InputError
from components.core.inference import images
from pipelines.predictions import explanation
from tests.support.command import call
from tests.support.plain import PlainRun


class Served:
    """Answers by a function of each record."""

    def __init__(self, column: str, answer: Callable[[bytes], dict[str, Any]]) -> None:
        schema = SimpleNamespace(input_names=lambda: [column])
        self.metadata = SimpleNamespace(get_input_schema=lambda: schema)
        self._column, self._answer = column, answer

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame([self._answer(one) for one in rows[self._column]])


def red(content: bytes) -> dict[str, Any]:
    """The probability of red is the share of red pixels."""
    pixels = np.asarray(images.decode(content)).astype(int)
    share = float(((pixels[..., 0] > 200) & (pixels[..., 1] < 50)).mean())
    return {"probabilities": {"red": share, "other": 0.2}}


def good(content: bytes) -> dict[str, Any]:
    return {"number": 3.0 * content.decode().split().count("good")}


def picture_with_a_red_corner() -> bytes:
    image = Image.new("RGB", (96, 48), (250, 250, 250))
    image.paste((255, 0, 0), (48, 0, 96, 24))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_the_heat_lies_where_the_answer_is_from() -> None:
    """Covering the red corner lowers its probability, and covering anything else does not."""
    content = picture_with_a_red_corner()
    figure, heat = explanation.picture(Served("image", red), content, "red")
    half = explanation.GRID // 2
    assert (figure.label, figure.value) == ("red", 0.25)
    assert heat[:half, half:].min() > 0
    assert np.abs(heat[half + explanation.WINDOW :]).max() == 0
    both = np.asarray(images.decode(explanation.drawn(content, heat))).astype(int)
    assert both.shape == (48, 192, 3)
    redness = both[:, 96:, 0] - both[:, 96:, 1]
    assert redness[:20, 56:].min() > 30 > redness[40:, :].max()


def test_words_that_carry_an_answer_are_found() -> None:
    """Each word with what the number loses without it."""
    figure, parts = explanation.words(Served("text", good), "a good day is good")
    assert (figure.label, figure.value) == ("", 6.0)
    assert parts == [("a", 0.0), ("good", 3.0), ("day", 0.0), ("is", 0.0), ("good", 3.0)]


def test_a_record_of_another_kind_is_named() -> None:
    """A text for a model of pictures, a picture for one of texts, and what can't be explained at all."""
    with pytest.raises(InputError, match=r"takes pictures, not texts\. Use the path of a picture"):
        explanation.words(Served("image", red), "a red corner")
    with pytest.raises(InputError, match=r"takes texts, not pictures\. Use --text"):
        explanation.picture(Served("text", good), picture_with_a_red_corner())
    with pytest.raises(InputError, match=r"takes sounds, not texts\. These can't be explained"):
        explanation.words(Served("sound", good), "a good day")


@pytest.mark.parametrize(
    ("answer", "label", "sentence"),
    [
        ({"probabilities": {"a": 1.0}}, "b", "There is no label 'b'"),
        ({"transcript": "a"}, "", "can't be explained"),
        ({"number": 1.0}, "", "of one word"),
    ],
)
def test_what_can_not_be_explained_is_one_sentence(answer: dict[str, Any], label: str, sentence: str) -> None:
    """Another label, another kind of answer, a single word."""
    with pytest.raises(InputError, match=sentence):
        explanation.words(Served("text", lambda _content: answer), "word", label)


def test_the_command_asks_the_registered_model(
    toy_run: PlainRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its words; what it can't explain ends in a sentence."""
    monkeypatch.setattr(explanation, "answer_some", lambda _served, _column, contents: [good(one) for one in contents])
    answer = call(capsys, monkeypatch, "explain", "--model", "toy", "--text", "all good")
    assert (answer.status, answer.out) == (0, "+0.000\tall\n+3.000\tgood\n")
    assert "toy version 1 says 3." in answer.err
    answer = call(capsys, monkeypatch, "explain", "--model", "toy", "--text", "good")
    assert answer.status == 2
    assert "of one word can't be explained. Use a longer one." in answer.err
