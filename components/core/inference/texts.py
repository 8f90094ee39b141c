"""From a text's bytes to a network's input.

This file travels with a served model and is loaded where Thawline is not installed, so it imports nothing from here.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor


MOST_CHARACTERS = 100  # of a token, on average: what lies behind so many for each token is cut before it is read


class Preprocessing(TypedDict):
    """Parameters that turn a text into the network's input."""

    tokenizer: str  # the content of tokenizer.json
    max_length: int  # tokens of every row; longer texts are cut, shorter ones padded
    pad: int  # the token that pads; the mask hides it


def decode(content: bytes) -> str:
    """The text of a record: UTF-8, with or without a byte order mark.

    Raises:
        ValueError: It is none, or holds nothing but white space; the message is the reason.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not a text in UTF-8") from None
    if not text.strip():
        raise ValueError("no text")
    return text


def encode(contents: Sequence[bytes], preprocessing: Mapping[str, Any]) -> "dict[str, Tensor]":
    """Texts as `ids` int64[B, T] and `mask` bool[B, T], which is true where a token is; T is `max_length`.

    Raises:
        ValueError: One of them is no text.
    """
    return encode_texts([decode(content) for content in contents], preprocessing)


def encode_texts(texts: Sequence[str], preprocessing: Mapping[str, Any]) -> "dict[str, Tensor]":
    """Encode texts that are already decoded; see `encode`."""
    import torch

    length, pad = preprocessing["max_length"], preprocessing["pad"]
    tokenizer = _tokenizer(preprocessing["tokenizer"], length)
    ids = torch.full((len(texts), length), pad, dtype=torch.int64)
    mask = torch.zeros(len(texts), length, dtype=torch.bool)
    mask[:, 0] = True  # attention over nothing is not a number
    beginnings = [text[: MOST_CHARACTERS * length] for text in texts]  # a whole book costs gigabytes
    for row, encoding in enumerate(tokenizer.encode_batch(beginnings)):
        ids[row, : len(encoding.ids)] = torch.tensor(encoding.ids, dtype=torch.int64)
        mask[row, : len(encoding.ids)] = True
    return {"ids": ids, "mask": mask}


@lru_cache(maxsize=8)
def _tokenizer(text: str, max_length: int) -> "Tokenizer":
    """Made once for each: a large vocabulary takes a second to read."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer
