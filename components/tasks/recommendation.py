"""The next item for each user out of a table of interactions: SASRec or GRU4Rec with full softmax.

`thawline run interactions.csv --task recommendation`, with the columns user, item and time.
"""

import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from components.core.contract.task_options import parse_options
from components.core.data.examples import Examples
from components.core.digests import canonical_json
from components.core.errors import InputError, RejectedRecord
from components.core.inference import recommendation
from components.core.inference.recommendation import FIRST, encode
from components.core.modalities.augmentation import refuse_picture_augmentation
from components.core.networks.network import Network
from components.core.networks.sequences import ItemFeatures, Scores, Sizes, build_stages
from components.core.networks.weights import state_digest
from components.core.settings import Settings
from components.core.sources import interactions
from components.core.sources.raw_records import RawRecord
from components.core.targets.next_item import PADDING, NextItem
from components.core.targets.references import interaction_models
from components.core.training.checkpoints import FACTS, WEIGHTS, read_facts

__all__ = ["encode"]

backbone = "sasrec"
input_name = "text"  # a history is JSON

recipe = {  # there is nothing pretrained for anyone's items: everything is trained
    "head_solver": "sgd",  # the loss of a head that shares vectors with the embedding is not convex
    "trials": 0,
    "head_epochs": 1,
    "thaw": 3,
    "thaw_epochs": 40,
    "thaw_learning_rate": 0.003,
    "layer_decay": 1.0,
    "batch_size": 64,
    "dropout": 0.4,
    "augment": "basic",
    "patience": 12,
}

NETWORKS = ("sasrec", "gru4rec")
PER_ITEM = ("stages.0.items", "head.added", "head.bias")  # weights with a row for each item
FEATURES, FEATURES_OF = "stages.0.features", "stages.0.of"
MOST_MASKED = 2000  # items of a history that answers leave out
SHOWN = 8  # items of a history in the report


class Options(BaseModel):
    """`--option NAME=VALUE`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["time", "last"] = Field("time", description="By two moments, or the last items of each user.")
    length: int = Field(50, ge=2, description="Steps of a history that the network sees.")
    least_rating: float | None = Field(
        None, allow_inf_nan=False, description="Interactions with a lower rating are passed over."
    )
    before: str = Field("", description="Only interactions before this time, a number or ISO 8601, are taken.")
    width: int = Field(64, ge=2, description="Size of an item's vector.")
    blocks: int = Field(2, ge=1, description="Blocks above the embedding.")
    heads: int = Field(2, ge=1, description="Heads of attention.")
    block_dropout: float = Field(0.2, ge=0, lt=1, description="Dropout within the blocks.")
    embedding_dropout: float = Field(0.4, ge=0, lt=1, description="Dropout of the embedding.")
    item_dropout: float = Field(0.2, ge=0, lt=1, description="Share of the items that training hides in a history.")
    features: str = Field("", description="Features of each item, as JSON. Empty: those of the data.")
    history: int = Field(0, ge=0, description="Items of a history that answers leave out. 0: chosen from the data.")

    @field_validator("before")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        if value:
            interactions.moment(value)
        return value


def records(settings: Settings, source: str) -> Iterator[RawRecord]:
    """Histories, and the items that follow, by user and split."""
    options = parse_options(settings, Options)
    least = -math.inf if options.least_rating is None else options.least_rating
    return interactions.records(source, options.split, options.length, least, options.before)


def shared_features(examples: Examples) -> dict[str, list[str]]:
    """Return the features of each item, without those that no other item has: they tell nothing about a new one."""
    found: dict[str, list[str]] = {}
    for content in examples.contents(range(len(examples.index))):  # all at once: any few lie in nearly all row groups
        if b'"features":' in content:
            found |= json.loads(content).get("features", {})
    counts = Counter(feature for features in found.values() for feature in features)
    shared = {item: sorted({one for one in features if counts[one] > 1}) for item, features in found.items()}
    return {item: features for item, features in sorted(shared.items()) if features}


def target(settings: Settings) -> NextItem:
    """The next item."""
    if settings.class_weights != "none":
        raise InputError("--class-weights is for classes, not for items.", "Leave it out.")
    if settings.drift_trigger:
        raise InputError("--drift-trigger is not for histories.", "Leave it out.")
    return NextItem()


def check(content: bytes) -> Mapping[str, int | str]:
    """The length of a history."""
    try:
        return {"items": len(recommendation.history(content))}
    except ValueError as error:
        raise RejectedRecord(str(error)) from error


def measure(settings: Settings, examples: Examples) -> tuple[dict[str, str], str]:
    """Count the items of a history that answers leave out: all of the longest one."""
    rows = list(range(len(examples.index)))
    lengths = examples.column("items", rows)
    found = parse_options(settings, Options).history or min(max(lengths) + 1, MOST_MASKED)
    features = shared_features(examples)
    users = len({uri.rpartition("&items=")[0] for uri in examples.uris(rows)})
    longer = sum(length >= found for length in lengths)
    note = f"{len(examples.classes)} items, {users} users"
    note += f", features of {len(features)} items" if features else ""
    options = {"history": str(found), **({"features": canonical_json(features)} if features else {})}
    return options, note + (f"; answers may repeat old items of {longer} histories" if longer else "")


def build(settings: Settings, classes: Sequence[str], dropout: float) -> Network:
    """An embedding and blocks, new or of a checkpoint, and a head that scores all items."""
    refuse_picture_augmentation(settings, "histories")
    kind = settings.backbone or backbone
    if kind not in NETWORKS:
        raise InputError(f"There is no network {kind!r} of histories.", f"Use one of: {', '.join(NETWORKS)}.")
    options = parse_options(settings, Options)
    if kind == "sasrec" and options.width % options.heads:
        raise InputError(f"A width of {options.width} can't be divided by {options.heads} heads.", "Use another one.")
    sizes = cast("Sizes", options.model_dump(include=set(Sizes.__annotations__)))
    history = max(options.history, options.length)
    preprocessing = recommendation.Preprocessing(items=list(classes), history=history)
    names, features = _features(options.features, classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        stages, head = _network(kind, len(classes), sizes, dropout, features)
    config: dict[str, Any] = {"kind": kind, "sizes": dict(sizes)}
    if features:
        config |= {"features": names, "slots": features.of.shape[1]}
    found = Network(stages, head, dict(preprocessing), f"seed {settings.seed}", config)
    if settings.weights not in ("default", "none"):
        _load(found, settings.weights, classes)
    return found


def rebuild(settings: Settings, facts: Mapping[str, Any]) -> Network:
    """The network of a checkpoint, with random weights."""
    del settings
    config, dropout = facts["config"], facts["hyperparameters"]["dropout"]
    items, features = len(facts["classes"]), None
    if "features" in config:
        features = ItemFeatures(torch.zeros(items, config["slots"], dtype=torch.int64), len(config["features"]))
    stages, head = _network(config["kind"], items, config["sizes"], dropout, features)
    return Network(stages, head, facts["preprocessing"], config=config)


def adapt(
    network: Network, classes: Sequence[str], weights: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> tuple[dict[str, Tensor], Sequence[str]]:
    """Give each item the row that a checkpoint has for it, and each feature likewise; new ones get the mean of all."""
    own, found = network.state_dict(), dict(weights)
    numbers = {item: row for row, item in enumerate(facts["classes"])}
    rows = torch.tensor([numbers.get(item, -1) for item in classes])
    for name in PER_ITEM:
        found[name] = _rows(weights[name], rows)
    for name in (FEATURES, FEATURES_OF):
        found.pop(name, None)
        if name in own:
            found[name] = own[name]
    if FEATURES in own and FEATURES in weights:
        places = {name: row for row, name in enumerate(facts["config"]["features"])}
        features = [places.get(name, -1) for name in network.config["features"]]
        found[FEATURES] = _rows(weights[FEATURES], torch.tensor(features))
    return found, classes


def augment(
    contents: Sequence[bytes],
    targets: Tensor,
    preprocessing: Mapping[str, Any],
    settings: Settings,
    seeds: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Histories whose items of equal times stand in another order, and the items that follow them in that order."""
    inputs = encode(contents, preprocessing)
    if settings.augment == "none":
        return inputs, targets
    moved = targets.clone()
    for row, (content, seed) in enumerate(zip(contents, seeds, strict=True)):
        moments = json.loads(content).get("moments", [])
        followed = int((targets[row] != PADDING).sum())
        if not moments or not followed or len(moments) > inputs.shape[1]:
            continue
        whole = torch.cat([inputs[row, inputs.shape[1] - len(moments) + 1 :], targets[row, -1:] + FIRST])
        noise = torch.rand(len(moments), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        whole = whole[(torch.tensor(moments) + noise).argsort()]
        inputs[row, inputs.shape[1] - len(moments) + 1 :] = whole[:-1]
        moved[row, -followed:] = whole[len(whole) - followed :] - FIRST
    return inputs, moved


def references(settings: Settings, examples: Examples) -> list[tuple[str, pd.DataFrame]]:
    """Return the answers of models without a network, the strongest first."""
    del settings
    return interaction_models.answers(examples)


def trivial(settings: Settings, examples: Examples) -> pd.DataFrame:
    """Return the answers of a model that knows of a user's history only what to leave out."""
    del settings
    return interaction_models.popular(examples)


def thumbnails(contents: Sequence[bytes]) -> list[str]:
    """The ends of histories."""
    found = [recommendation.history(content) for content in contents]
    return [("… " if len(items) > SHOWN else "") + ", ".join(items[-SHOWN:]) or "no history" for items in found]


def _network(
    kind: str, items: int, sizes: Sizes, dropout: float, features: ItemFeatures | None
) -> tuple[list[nn.Module], Scores]:
    embedding, blocks = build_stages(kind, items, sizes, features)
    return [embedding, *blocks], Scores(embedding, dropout, interactions.asked_at_once(sizes["length"]))


def _features(option: str, classes: Sequence[str]) -> tuple[list[str], ItemFeatures | None]:
    """The names of all features, and those of each item; None where there are none."""
    known: dict[str, list[str]] = json.loads(option) if option else {}
    names = sorted({name for item in classes for name in known.get(item, [])})
    if not names:
        return [], None
    numbers = {name: number for number, name in enumerate(names, start=1)}
    rows = [torch.tensor([numbers[name] for name in known.get(item, [])], dtype=torch.int64) for item in classes]
    return names, ItemFeatures(nn.utils.rnn.pad_sequence(rows, batch_first=True), len(names))


def _load(network: Network, source: str, classes: Sequence[str]) -> None:
    """Put the weights of a checkpoint, a folder or s3://…, into a network."""
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) if source.startswith("s3://") else Path(source)
            if source.startswith("s3://"):
                from components.core.storage.s3 import download

                for name in (WEIGHTS, FACTS):
                    download(f"{source.rstrip('/')}/{name}", folder / name)
            facts, theirs = read_facts(folder), load_file(folder / WEIGHTS)
        found, _ = adapt(network, classes, theirs, facts)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            f"The weights {source} are no checkpoint of a recommendation model.",
            "Use a folder that `thawline pretrain` wrote, or checkpoint of a registered version.",
        ) from error
    if {name: some.shape for name, some in found.items()} != {
        n: some.shape for n, some in network.state_dict().items()
    }:
        raise InputError(
            f"The weights {source} are of another network ({facts['config']}).",
            "Use the options that they were trained with.",
        )
    network.load_state_dict(found)
    network.weights_digest = state_digest(theirs)


def _rows(theirs: Tensor, rows: Tensor) -> Tensor:
    """Each item's row, of new ones the mean of all."""
    known = theirs[rows.clamp(min=0)]
    return torch.where((rows >= 0).view(-1, *[1] * (theirs.dim() - 1)), known, theirs.mean(0))
