"""From a text's bytes to a network's input, and back to answers."""

from types import SimpleNamespace
from typing import Any

import pytest

from components.core.inference import texts
from tests.data.text_models import WORDS, word_tokenizer

PREPROCESSING = {"tokenizer": word_tokenizer(), "max_length": 6, "pad": 0}


def ids(*words: str) -> list[int]:
    return [WORDS.index(word) for word in words]


def test_short_texts_are_padded() -> None:
    """Every row has the same length; the mask tells where tokens are."""
    batch = texts.encode([b"good film", b"bad"], PREPROCESSING)
    assert batch["ids"].tolist() == [
        [*ids("[CLS]", "good", "film", "[SEP]"), 0, 0],
        [*ids("[CLS]", "bad", "[SEP]"), 0, 0, 0],
    ]
    assert batch["mask"].sum(1).tolist() == [4, 3]


def test_long_texts_are_cut() -> None:
    """A text that is too long loses its end, and keeps the tokens that the network was trained with at both ends."""
    batch = texts.encode([b"good bad good bad good bad"], PREPROCESSING)
    assert batch["ids"][0].tolist() == ids("[CLS]", "good", "bad", "good", "bad", "[SEP]")
    assert batch["mask"].all()


def test_of_a_book_the_beginning_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is far behind the length costs no memory, and changes nothing."""
    tokenizer, seen = texts._tokenizer(PREPROCESSING["tokenizer"], 6), list[int]()

    def encode_batch(some: list[str]) -> Any:
        seen.extend(map(len, some))
        return tokenizer.encode_batch(some)

    monkeypatch.setattr(texts, "_tokenizer", lambda *_: SimpleNamespace(encode_batch=encode_batch))
    book = b"good " + b"bad " * 100_000
    assert texts.encode([book], PREPROCESSING)["ids"].tolist() == [ids("[CLS]", "good", *["bad"] * 3, "[SEP]")]
    assert seen == [600]


def test_lengths_stand_beside_each_other() -> None:
    """One vocabulary serves two lengths in one process."""
    assert texts.encode([b"good"], {**PREPROCESSING, "max_length": 4})["ids"].shape == (1, 4)
    assert texts.encode([b"good"], PREPROCESSING)["ids"].shape == (1, 6)


@pytest.mark.parametrize(("content", "reason"), [(b"", "no text"), (b" \n\t", "no text"), (b"\xff\xfe\xff", "UTF-8")])
def test_what_is_no_text_is_refused(content: bytes, reason: str) -> None:
    """Emptiness and other encodings are errors that name the reason."""
    with pytest.raises(ValueError, match=reason):
        texts.encode([content], PREPROCESSING)


def test_a_byte_order_mark_is_no_text() -> None:
    """The mark that some editors write is left out."""
    assert texts.decode(b"\xef\xbb\xbfgood") == "good"
