"""CTC: its head, its loss, decoding, and error rates."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from components.core.contract.task import complete_target
from components.core.errors import RejectedRecord
from components.core.evidence.gate import first_version
from components.core.inference.transcription import answers, collapsed, search
from components.core.targets.transcription import CHARACTERS, WORDS, CTCHead, Transcription, edit_distance, plain

TARGET = Transcription()
CLASSES = [" ", "a", "b"]


def spoken(text: str, frames: int = 12) -> torch.Tensor:
    """Outputs [1, T, 4] that say a text without a doubt, a blank behind each character."""
    path = [number for c in text for number in (CLASSES.index(c) + 1, 0)]
    path += [0] * (frames - len(path))
    return nn.functional.one_hot(torch.tensor([path]), 4).float().log()


def test_transcripts_are_made_equal() -> None:
    """Case, punctuation and white space make no difference; other scripts stay."""
    assert plain("  ¡La  Niña's «perro»! ") == "la niña's perro"
    assert plain("n\u0303") == "ñ"
    assert plain("Жук.") == "жук"
    for text in ("हिन्दी में", "น้ำ", "شُكْرًا"):  # vowels and other marks are part of the word
        assert plain(f"{text}!") == text
    assert plain("a_b\u00adc") == "a bc"
    assert TARGET.check_label("Un topo.") == "un topo"
    for label in ("...", "x" * 601):
        with pytest.raises(RejectedRecord, match="transcript"):
            TARGET.check_label(label)


def test_the_space_comes_first() -> None:
    """Error rates of words know the space by its number, whether or not the labels hold one."""
    assert TARGET.class_names(["ba", "a b"]) == CLASSES
    assert TARGET.class_names(["ba"]) == CLASSES


def test_targets_are_padded() -> None:
    """Each character is the number of its output; the blank is 0."""
    assert TARGET.targets(["ab", "b a"], CLASSES).tolist() == [[2, 3, -1], [3, 1, 2]]
    with pytest.raises(ValueError, match="not among the classes: x"):
        TARGET.targets(["ax"], CLASSES)


def test_words_are_outputs_where_they_are_asked_for() -> None:
    """Each word is an output; answers put spaces between, and validation has no rate of characters."""
    target, labels = Transcription(words=True), ["b a", "a", "b b"]
    classes = target.class_names(labels)
    assert classes == ["a", "b"]
    targets = target.targets(labels, classes)
    assert targets.tolist() == [[2, 1], [1, -1], [2, 2]]
    with pytest.raises(ValueError, match="not among the classes: ab"):
        target.targets(["a ab"], classes)
    paths = torch.tensor([[2, 2, 0, 1], [0, 0, 0, 0], [2, 0, 2, 2]])
    outputs = (nn.functional.one_hot(paths, 3) * 20.0).log_softmax(2)
    missed = 20 - math.log(4)  # one word in any of four frames that all say blank
    assert target.validate(outputs, targets) == {"loss": pytest.approx(missed / 3, 1e-3), "word_error_rate": 0.2}
    serving = {"classes": classes, **target.calibrate(outputs, targets)}
    assert [row["transcript"] for row in answers(outputs, serving)] == ["b a", "", "b b"]


def test_equal_units_need_a_blank_between() -> None:
    """So many frames at least say a text."""
    assert [TARGET.frames(text) for text in ("ab", "aab", "aaa")] == [2, 4, 5]
    assert Transcription(words=True).frames("no no yes") == 4


def every_text(frames: int) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """All paths of so many frames, by what they say."""
    paths: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for path in itertools.product(range(4), repeat=frames):
        paths.setdefault(tuple(collapsed(path)), []).append(path)
    return paths


def probability(frames: torch.Tensor, paths: list[tuple[int, ...]]) -> float:
    return sum(math.exp(sum(float(frames[t, number]) for t, number in enumerate(path))) for path in paths)


def test_the_loss_is_the_probability_of_all_paths() -> None:
    """CTC adds up every alignment, here by trying all of them."""
    frames = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    whole = probability(frames[0], every_text(4)[(2, 3)])
    found = float(TARGET.loss(frames, torch.tensor([[2, 3]])))
    assert found == pytest.approx(-math.log(whole) / 2, rel=1e-4)


def test_padding_changes_no_loss() -> None:
    """Frames of padding and padded targets change nothing, and an utterance too short for its words teaches nothing."""
    torch.manual_seed(0)
    head, hidden = CTCHead(nn.Linear(5, 4)), torch.randn(2, 6, 5)
    targets = torch.tensor([[2, 3, -1], [2, 1, 3]])
    alone = TARGET.loss(head({"hidden": hidden[:1, :4], "length": torch.tensor([4])}), targets[:1, :2])
    together = head({"hidden": hidden[:1], "length": torch.tensor([4])})
    torch.testing.assert_close(TARGET.loss(together, targets[:1]), alone)
    short = TARGET.loss(head({"hidden": hidden[1:], "length": torch.tensor([2])}), targets[1:])
    assert float(short.detach()) == 0.0


def test_gradients_stay_numbers() -> None:
    """Padding, whose other outputs have no probability at all, gives no gradient that is not a number."""
    torch.manual_seed(0)
    head, hidden = CTCHead(nn.Linear(5, 4)), torch.randn(2, 6, 5, requires_grad=True)
    outputs = head({"hidden": hidden, "length": torch.tensor([6, 3])})
    TARGET.loss(outputs, torch.tensor([[2, 3, 2], [2, 1, 3]])).backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
    assert hidden.grad[1, 3:].abs().max() == 0.0
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())


def test_the_best_path_collapses() -> None:
    """Repeats count once unless a blank parts them."""
    assert collapsed([0, 2, 2, 0, 2, 3, 3, 0]) == [2, 2, 3]


def test_the_search_finds_the_likeliest_text() -> None:
    """With room enough it finds the text whose paths are likeliest together, where the best path alone says another."""
    differ = 0
    for seed in range(20):
        frames = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)).log_softmax(1)
        texts = every_text(5)
        best = max(texts, key=lambda text: probability(frames, texts[text]))
        assert tuple(search(frames.tolist(), 1000)) == best
        differ += collapsed(frames.argmax(1).tolist()) != list(best)
    assert differ > 0


@pytest.mark.parametrize("beam", [1.0, 8.0])
def test_answers(beam: float) -> None:
    """Each row has what was heard and how surely, by the best path or by search."""
    outputs = torch.cat([spoken("ab a"), spoken("")])
    rows = answers(outputs, {"classes": CLASSES, "beam": beam})
    assert [row["transcript"] for row in rows] == ["ab a", ""]
    assert [row["confidence"] for row in rows] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("found", "true", "distance"),
    [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)],
)
def test_edit_distance(found: str, true: str, distance: int) -> None:
    """Insertions, deletions and substitutions each count one."""
    assert edit_distance(found, true) == distance


def test_validation_counts_words_and_characters() -> None:
    """The figures of outputs are those of the answers that they give."""
    outputs = torch.cat([spoken("ab a"), spoken("b")])
    labels = ["ab b", "b a"]
    found = TARGET.validate(outputs, TARGET.targets(labels, CLASSES))
    said = pd.DataFrame(answers(outputs, {"classes": CLASSES, "beam": 1.0}))
    metrics = TARGET.evaluate(said, labels, CLASSES, {"a": 2, "b": 1}).metrics
    assert found["word_error_rate"] == metrics["word_error_rate"] == 2 / 4
    assert found["character_error_rate"] == metrics["character_error_rate"] == 3 / 7
    assert metrics["sentence_error_rate"] == 1.0


def test_the_trivial_model_says_the_commonest() -> None:
    """It answers all rows with the commonest training transcript; the worst utterances stand in the report."""
    said = pd.DataFrame({"transcript": ["a b", "b"], "confidence": [1.0, 1.0]})
    evaluation = TARGET.evaluate(said, ["a b", "a a"], CLASSES, {"a b": 2, "b": 1})
    assert evaluation.baseline["word_error_rate"] == 1 / 4
    assert [(mistake.row, mistake.predicted) for mistake in evaluation.mistakes] == [(1, "b")]
    low, high = evaluation.intervals["word_error_rate"]
    assert low <= evaluation.metrics["word_error_rate"] <= high
    assert evaluation.bound <= high


@pytest.mark.parametrize(("labels", "errors"), [(["b a", "b a"], 0), (["b", "b"], 0), (["a", "a"], 2)])
def test_the_trivial_model_says_what_is_wrong_least(labels: list[str], errors: int) -> None:
    """The commonest transcript, the commonest word or nothing, whichever has the fewest errors."""
    said = pd.DataFrame({"transcript": labels})
    baseline = TARGET.evaluate(said, labels, CLASSES, {"b a": 2, "b b": 1, "b b b": 1}).baseline
    assert baseline["word_error_rate"] == errors / 2


def test_silence_is_no_first_version() -> None:
    """A model that says nothing has one error a word, and the trivial model no more, so it is refused."""
    silent, labels = pd.DataFrame({"transcript": [""] * 3}), ["a b", "b a b", "a"]
    found = TARGET.evaluate(silent, labels, CLASSES, {"b b b b b b": 1})
    rate = found.metrics["word_error_rate"]
    assert rate == 1.0
    assert not first_version("word_error_rate", rate, found.bound, found.baseline["word_error_rate"], 3, -1).accepted


def test_scores_are_errors_of_utterances() -> None:
    """A score falls with the share of wrong words, and the rate of all is a function of sums."""
    said = pd.DataFrame({"transcript": ["a b", "b"], "confidence": [1.0, 1.0]})
    assert complete_target(TARGET).scores(said, ["a b", "a a"]).tolist() == [0.0, -1.0]
    sums = WORDS.features(said, ["a b", "a a"], CLASSES).sum(0)[None]
    np.testing.assert_allclose(WORDS.figure(sums), [2 / 4])
    np.testing.assert_allclose(CHARACTERS.figure(sums), [3 / 6])
