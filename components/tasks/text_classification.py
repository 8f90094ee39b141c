"""Texts into classes, or with `--option target=…` a number or several labels; BERT and its kin, or GPT-2 and its kin.

`thawline run reviews.csv --task text_classification --weights package:all-minilm-l6-v2`, with a manifest of text,label
or a folder of text files by class.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field
from torch import Tensor

from components.core.contract.task_options import parse_options
from components.core.data.examples import Examples
from components.core.errors import InputError, RejectedRecord
from components.core.inference import texts
from components.core.inference.texts import encode
from components.core.modalities import near_duplicate_texts
from components.core.modalities.augmentation import augments, mixup, refuse_picture_augmentation
from components.core.networks.heads import new_head
from components.core.networks.network import Network, Pytree
from components.core.networks.texts import build_encoder, rebuild_stages
from components.core.settings import Settings
from components.core.targets import options as targets
from components.core.targets.options import Chosen, TargetOptions
from components.core.targets.references import tfidf
from components.core.weight_sources import MINILM_BACKBONE

__all__ = ["encode"]

backbone = MINILM_BACKBONE
input_name = "text"
serving_requirements = ("tokenizers",)

SAMPLE = 5000  # texts that the length is chosen by
WHOLE = 0.95  # share of them that the length holds
LENGTH_STEP = 16  # tokens; a longer text next week seldom makes another length
LONGEST_CHOSEN = 256  # tokens; attention costs their square, so more is the user's to ask for
EXCERPT = 320  # characters in the report
DROPPED = 0.1  # share of the words that augmentation leaves out


class Options(TargetOptions):
    """`--option NAME=VALUE`."""

    max_length: int = Field(0, ge=0, description="Tokens per text; the rest is cut. 0: chosen from the data.")
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"  # last for decoders, else mean
    similarity: float = Field(
        0.8, gt=0, le=1, description="Lowest Jaccard similarity at which texts stay in one split."
    )


def target(settings: Settings) -> Chosen:
    """A class, a number, or several labels for each text."""
    return targets.chosen(settings, Options)


def check(content: bytes) -> Mapping[str, int | str]:
    """Characters, words and the fingerprint of a text."""
    try:
        text = texts.decode(content)
    except ValueError as error:
        raise RejectedRecord(str(error)) from error
    print_ = near_duplicate_texts.fingerprint(text)
    return {"characters": len(text), "words": len(text.split()), "fingerprint": print_}


def near_duplicates(fingerprints: Sequence[str], new: Sequence[bool], settings: Settings) -> list[tuple[int, int]]:
    """Texts that share most of their wording, whatever their case, punctuation and white space."""
    return near_duplicate_texts.pairs(fingerprints, new, parse_options(settings, Options).similarity)


def measure(settings: Settings, examples: Examples) -> tuple[dict[str, str], str]:
    """The length that holds 95% of the training texts, and what it cuts; what the target has to know of the labels."""
    found, said = targets.measure(settings, examples, Options)
    given = parse_options(settings, Options).max_length
    preprocessing, positions = _preprocessing(settings)
    rows = examples.rows("train")[:SAMPLE]  # in the order of their hashes: a fair sample
    longest = {**preprocessing, "max_length": positions}
    lengths = np.concatenate(
        [encode(examples.contents(rows[i : i + 64]), longest)["mask"].sum(1).numpy() for i in range(0, len(rows), 64)]
    )
    wanted = -(-int(np.quantile(lengths, WHOLE, method="higher")) // LENGTH_STEP) * LENGTH_STEP
    length = given or min(wanted, positions, LONGEST_CHOSEN)
    cut, lost = (lengths > length).mean(), np.maximum(lengths - length, 0).sum() / lengths.sum()
    how = "as asked" if given else f"chosen from {len(rows)} training texts"
    longer = f" (counted up to {positions})" if lengths.max() >= positions else ""
    note = f"texts are cut at {length} tokens, {how}: {cut:.1%} of them are longer, {lost:.1%} of all tokens{longer}"
    return {**found, "max_length": str(length)}, "; ".join(filter(None, [note, said]))


def build(settings: Settings, classes: Sequence[str], dropout: float) -> Network:
    """Pretrained stages (embedding, then layer by layer) and a new head."""
    refuse_picture_augmentation(settings, "texts")
    if settings.mixup and augments(settings):
        raise InputError(
            "--mixup mixes the output of frozen stages, but --augment changes the words, which can't be mixed.",
            "Use --views, or leave out one of the two.",
        )
    options = parse_options(settings, Options)
    encoder = build_encoder(settings.backbone or backbone, settings.weights, options.pooling)
    if options.max_length > encoder.positions:
        raise InputError(
            f"--option max_length={options.max_length} is more than the {encoder.positions} tokens of the encoder.",
            "Give less.",
        )
    if 0 < options.max_length <= encoder.marks:
        raise InputError(
            f"--option max_length={options.max_length} leaves no room for a text: the encoder needs "
            f"{encoder.marks} special tokens.",
            "Give more.",
        )
    length = options.max_length or min(encoder.positions, LONGEST_CHOSEN)
    preprocessing = texts.Preprocessing(tokenizer=encoder.tokenizer, max_length=length, pad=encoder.pad)
    head = new_head(settings.head, encoder.features, settings.hidden, len(classes), dropout)
    return Network(encoder.stages, head, dict(preprocessing), encoder.weights_digest, encoder.config)


def rebuild(settings: Settings, facts: Mapping[str, Any]) -> Network:
    """The network of a checkpoint, with random weights."""
    stages, features = rebuild_stages(facts["config"])
    dropout, classes = facts["hyperparameters"]["dropout"], len(facts["classes"])
    return Network(stages, new_head(settings.head, features, settings.hidden, classes, dropout), facts["preprocessing"])


def augment(
    contents: Sequence[bytes],
    targets: Tensor,
    preprocessing: Mapping[str, Any],
    settings: Settings,
    seeds: Sequence[int],
) -> tuple[Pytree, Tensor]:
    """Texts without a tenth of their words (random deletion, Wei & Zou 2019)."""
    if settings.augment == "none":
        return encode(contents, preprocessing), targets
    shortened = []
    for content, seed in zip(contents, seeds, strict=True):
        generator = random.Random(seed)  # noqa: S311 - augmentation, no secret
        words = texts.decode(content).split()
        kept = [word for word in words if generator.random() >= DROPPED]
        shortened.append(" ".join(kept or words))
    return texts.encode_texts(shortened, preprocessing), targets


def mix(inputs: Pytree, targets: Tensor, settings: Settings, classes: int, seed: int) -> tuple[Pytree, Tensor]:
    """Mixup of features or of hidden states, where either text counts; tokens can't be mixed and stay."""
    if isinstance(inputs, dict) and "hidden" not in inputs:
        return inputs, targets
    mixed, soft = mixup(inputs, targets, settings.mixup, classes, seed)
    if settings.mixup and isinstance(mixed, dict):
        mixed = {**mixed, "mask": mixed["mask"] | mixed["mask"].roll(1, 0)}
    return mixed, soft


def thumbnails(contents: Sequence[bytes]) -> list[str]:
    """The beginnings of texts."""
    found = [texts.decode(content).strip() for content in contents]
    return [text if len(text) <= EXCERPT else text[:EXCERPT].rstrip() + " …" for text in found]


def references(settings: Settings, examples: Examples) -> list[tuple[str, pd.DataFrame]]:
    """Return the answers of TF-IDF with a linear model."""
    found = tfidf.answers(examples, target(settings))
    return [found] if found else []


def _preprocessing(settings: Settings) -> tuple[Mapping[str, Any], int]:
    encoder = build_encoder(settings.backbone or backbone, settings.weights, "auto")
    return {"tokenizer": encoder.tokenizer, "pad": encoder.pad}, encoder.positions
