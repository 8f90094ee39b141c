"""Transcripts as the target of a task: CTC loss over characters or words, error rates, decoding.

Outputs are log-probabilities [B, T, 1 + C]: a blank, then the C characters or words. Frames of padding say blank with
certainty, so outputs of one length need no lengths beside them.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.core.contract.task import Metric
from components.core.errors import RejectedRecord
from components.core.inference.transcription import BLANK, Answer, answers, collapsed
from components.core.targets.evaluation import Evaluation, Mistake, by_sums

Array: TypeAlias = np.ndarray[Any, Any]

SPACE = 1  # the output of the first class, whatever the labels
PADDING = -1  # of targets
LONGEST = 600  # characters of a transcript
MISTAKES = 24  # that the report has room for


class CTCHead(nn.Module):
    """Log-probabilities of a blank and of each character or word, frame by frame."""

    def __init__(self, scorer: nn.Module) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """`hidden` [B, T, H] and `length` [B] to log-probabilities [B, T, 1 + C]."""
        scores = self.scorer(batch["hidden"])
        silent = torch.arange(scores.shape[1], device=scores.device) >= batch["length"][:, None]
        only_blank = functional.one_hot(torch.zeros_like(silent, dtype=torch.long), scores.shape[2]).to(scores.dtype)
        return torch.where(silent[:, :, None], only_blank.log(), scores.log_softmax(dim=2))


class Transcription:
    """Transcripts in lowercase without punctuation.

    Args:
        beam: Prefixes that decoding keeps, 1: the best path.
        words: Whether the outputs are the words of the data instead of their characters.
    """

    answer: type = Answer
    answers = staticmethod(answers)

    def __init__(self, beam: int = 1, *, words: bool = False) -> None:
        self._beam, self._words = beam, words
        self.metrics = METRICS

    def check_label(self, label: str) -> str:
        """Small letters, digits and apostrophes, one space between words; raises RejectedRecord if none is left."""
        text = plain(label)
        if not text:
            raise RejectedRecord("the transcript has no letter or digit")
        if len(text) > LONGEST:
            raise RejectedRecord(f"the transcript is longer than {LONGEST} characters")
        return text

    def class_names(self, labels: Sequence[str]) -> list[str]:
        """The words, or the characters with the space first, for error rates of words need to know it."""
        units = {unit for label in labels for unit in self._units(label)}
        return sorted(units) if self._words else [" ", *sorted(units - {" "})]

    def targets(self, labels: Sequence[str], classes: Sequence[str]) -> Tensor:
        """Outputs that stand for the characters or words, long[N, L], padded with -1.

        Raises:
            ValueError: One is not among the classes.
        """
        numbers = {unit: number for number, unit in enumerate(classes, start=1)}
        rows = [self._units(label) for label in labels]
        if unknown := sorted({unit for row in rows for unit in row} - numbers.keys()):
            raise ValueError(f"not among the classes: {' '.join(unknown)}")
        found = torch.full((len(rows), max(map(len, rows), default=0)), PADDING)
        for row, units in enumerate(rows):
            found[row, : len(units)] = torch.tensor([numbers[unit] for unit in units])
        return found

    def loss(
        self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
    ) -> Tensor:
        """CTC (Graves et al. 2006) by character or word, a scalar mean over utterances.

        An utterance with fewer frames than its transcript needs teaches nothing. Smoothing and weights are for classes.
        """
        del label_smoothing, class_weights
        lengths = (targets != PADDING).sum(1)
        frames = torch.full((len(outputs),), outputs.shape[1], device=outputs.device)
        return functional.ctc_loss(
            outputs.float().transpose(0, 1), targets.clamp(min=0), frames, lengths, BLANK, zero_infinity=True
        )

    def validate(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """The loss, and the error rates of the best path; that of characters only where these are the outputs."""
        found = [collapsed(path) for path in outputs.argmax(2).tolist()]
        true = [[number for number in row if number != PADDING] for row in targets.tolist()]
        loss, pairs = {"loss": float(self.loss(outputs, targets))}, list(zip(found, true, strict=True))
        if self._words:
            errors = sum(edit_distance(*pair) for pair in pairs)
            return {**loss, WORDS.name: errors / sum(map(len, true))}
        sums = np.sum([_errors(*pair, SPACE) for pair in pairs], axis=0)[None]
        return {
            **loss,
            WORDS.name: float(_word_error_rate(sums)[0]),
            CHARACTERS.name: float(_character_error_rate(sums)[0]),
        }

    def calibrate(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return the parameters of decoding: the beam width, and 1.0 if units are words."""
        del outputs, targets
        return {"beam": float(self._beam), "words": float(self._words)}

    def evaluate(
        self, answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str], training: Mapping[str, int]
    ) -> Evaluation:
        """Error rates with 95% bootstrap intervals over utterances, and the utterances with the most errors.

        The trivial model answers every utterance alike: see `_trivial`.

        Raises:
            ValueError: There are no test rows.
        """
        constant = {"transcript": _trivial(training, labels)}
        found = by_sums((WORDS, CHARACTERS), answers, constant, labels, classes)
        features = _features(answers, labels, classes)
        trivial = _features(pd.DataFrame([constant] * len(labels)), labels, classes)
        worst = np.argsort(-features[:, 2], kind="stable")[:MISTAKES]
        mistakes = [
            Mistake(int(row), labels[row], answers["transcript"][row], None) for row in worst if features[row, 2]
        ]
        return replace(
            found,
            metrics={**found.metrics, SENTENCES.name: float((features[:, 0] > 0).mean())},
            baseline={**found.baseline, SENTENCES.name: float((trivial[:, 0] > 0).mean())},
            mistakes=mistakes,
        )

    def frames(self, label: str) -> int:
        """The fewest frames that can say a transcript: one for each character or word, and one between equal ones."""
        units = self._units(label)
        return len(units) + sum(one == other for one, other in pairwise(units))

    def _units(self, label: str) -> list[str]:
        return label.split() if self._words else list(label)


def _trivial(training: Mapping[str, int], labels: Sequence[str]) -> str:
    """The commonest training transcript, the commonest word or nothing: what has the fewest errors in words of labels.

    Where transcripts hardly repeat, the commonest has more errors than there are words, and silence would beat it.
    """
    counts: Counter[str] = Counter()
    for text, times in training.items():
        counts.update(dict.fromkeys(text.split(), times))
    choices = [max(sorted(found), key=lambda text: found[text]) for found in (training, counts)]
    rows = [label.split() for label in labels]
    return min([*choices, ""], key=lambda said: sum(edit_distance(said.split(), row) for row in rows))


def plain(text: str) -> str:
    """Small letters with their marks, digits and apostrophes of any script, one space between words."""
    composed = unicodedata.normalize("NFC", text.casefold()).replace("\u2019", "'")
    return " ".join("".join(map(_kept, composed)).split())


def _kept(character: str) -> str:
    """A letter, mark or digit as it is; nothing for what only joins or parts letters; a space for all else."""
    kind = unicodedata.category(character)
    return character if kind[0] in "LMN" or character == "'" else "" if kind == "Cf" else " "


def edit_distance(found: Sequence[Any], true: Sequence[Any]) -> int:
    """The least number of insertions, deletions and substitutions (Levenshtein 1966)."""
    row = list(range(len(true) + 1))
    for i, ours in enumerate(found, start=1):
        diagonal, row[0] = row[0], i
        for j, theirs in enumerate(true, start=1):
            diagonal, row[j] = row[j], min(diagonal + (ours != theirs), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def _errors(found: Sequence[Any], true: Sequence[Any], space: object) -> tuple[int, int, int, int]:
    """Errors in words, words, errors in characters, characters."""
    words, expected = _words(found, space), _words(true, space)
    return edit_distance(words, expected), len(expected), edit_distance(found, true), len(true)


def _features(answers: pd.DataFrame, labels: Sequence[str], classes: Sequence[str]) -> Array:
    """Errors in words, words, errors in characters, characters of each utterance, float[N, 4]."""
    del classes
    pairs = zip(answers["transcript"], labels, strict=True)
    return np.array([_errors(found, true, " ") for found, true in pairs], dtype=np.float64).reshape(-1, 4)


def _word_error_rate(sums: Array) -> Array:
    return np.asarray(sums[:, 0] / sums[:, 1])


def _character_error_rate(sums: Array) -> Array:
    return np.asarray(sums[:, 2] / sums[:, 3])


WORDS = Metric(
    "word_error_rate",
    higher_is_better=False,
    features=_features,
    figure=_word_error_rate,
    explanation="words to insert, delete or replace, per word",
)
CHARACTERS = Metric(
    "character_error_rate",
    higher_is_better=False,
    features=_features,
    figure=_character_error_rate,
    explanation="the same per character",
)
SENTENCES = Metric("sentence_error_rate", higher_is_better=False, explanation="share of rows with any error")
METRICS = (WORDS, CHARACTERS, SENTENCES)


def _words(characters: Sequence[Any], space: object) -> list[tuple[Any, ...]]:
    words: list[list[Any]] = [[]]
    for character in characters:
        if character == space:
            words.append([])
        else:
            words[-1].append(character)
    return [tuple(word) for word in words if word]
