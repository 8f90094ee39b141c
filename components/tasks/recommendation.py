"""The next item for each user out of a table of interactions: SASRec or GRU4Rec with full softmax.

`thawline run interactions.csv --task recommendation`, with the columns user, item and time.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file
from torch import Tensor, nn

from components.core.data.examples import Examples
from components.core.errors import InputError, RejectedRecord
from components.core.inference import recommendation
from components.core.inference.recommendation import FIRST, encode
from components.core.modalities.augmentation import refuse_picture_augmentation
from components.core.networks.network import Network
from components.core.networks.sequences import Scores, Sizes, build_stages
from components.core.networks.weights import state_digest
from components.core.settings import Settings
from components.core.sources import interactions
from components.core.sources.raw_records import RawRecord
from components.core.targets import interaction_models
from components.core.targets.next_item import PADDING, NextItem
from components.core.task_options import parse_options

__all__ = ["encode"]

backbone = "sasrec"
input_name = "text"  # a history is JSON

NETWORKS = ("sasrec", "gru4rec")
WEIGHTS, FACTS = "network.safetensors", "checkpoint.json"  # of a checkpoint
MOST_MASKED = 2000  # items of a history that answers leave out
SHOWN = 8  # items of a history in the report


class Options(BaseModel):
    """`--option NAME=VALUE`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["time", "last"] = Field("time", description="By two moments, or the last items of each user.")
    length: int = Field(50, ge=2, description="Steps of a history that the network sees.")
    least_rating: float = Field(-math.inf, description="Interactions with a lower rating are passed over.")
    width: int = Field(64, ge=2, description="Size of an item's vector.")
    blocks: int = Field(2, ge=1, description="Blocks above the embedding.")
    heads: int = Field(2, ge=1, description="Heads of attention.")
    block_dropout: float = Field(0.2, ge=0, lt=1, description="Dropout within the blocks.")
    embedding_dropout: float = Field(0.4, ge=0, lt=1, description="Dropout of the embedding.")
    item_dropout: float = Field(0.2, ge=0, lt=1, description="Share of the items that training hides in a history.")
    history: int = Field(0, ge=0, description="Items of a history that answers leave out. 0: chosen from the data.")


def records(settings: Settings, source: str) -> Iterator[RawRecord]:
    """Histories, and the items that follow, by user and split."""
    options = parse_options(settings, Options)
    return interactions.records(source, options.split, options.length, options.least_rating)


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
    """How many items of a history answers leave out: all of the longest one."""
    rows = list(range(len(examples.index)))
    lengths = examples.column("items", rows)
    found = parse_options(settings, Options).history or min(max(lengths) + 1, MOST_MASKED)
    users = len({uri.rpartition("&items=")[0] for uri in examples.uris(rows)})
    longer = sum(length >= found for length in lengths)
    note = f"{len(examples.classes)} items, {users} users"
    return {"history": str(found)}, note + (f"; answers may repeat old items of {longer} histories" if longer else "")


def build(settings: Settings, classes: Sequence[str], dropout: float) -> Network:
    """An embedding and blocks, new or of a checkpoint, and a head that scores all items."""
    refuse_picture_augmentation(settings, "histories")
    kind = settings.backbone or backbone
    if kind not in NETWORKS:
        raise InputError(f"There is no network {kind!r} of histories.", f"Use one of: {', '.join(NETWORKS)}.")
    if settings.warm_start:
        raise InputError(
            "--warm-start can't start from a recommendation model: its items are others each week.",
            "Use --weights with the champion's folder checkpoint.",
        )
    options = parse_options(settings, Options)
    if kind == "sasrec" and options.width % options.heads:
        raise InputError(f"A width of {options.width} can't be divided by {options.heads} heads.", "Use another one.")
    sizes = cast("Sizes", options.model_dump(include=set(Sizes.__annotations__)))
    history = max(options.history, options.length)
    preprocessing = recommendation.Preprocessing(items=list(classes), history=history)
    if settings.weights in ("default", "none"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            stages, head = _network(kind, len(classes), sizes, dropout)
        digest = f"seed {settings.seed}"
    else:
        stages, head = _network(kind, len(classes), sizes, dropout)
        digest = _load(nn.ModuleDict({"stages": nn.ModuleList(stages), "head": head}), Path(settings.weights), classes)
    return Network(stages, head, dict(preprocessing), digest, {"kind": kind, "sizes": dict(sizes)})


def rebuild(settings: Settings, facts: Mapping[str, Any]) -> Network:
    """The network of a checkpoint, with random weights."""
    del settings
    config, dropout = facts["config"], facts["hyperparameters"]["dropout"]
    stages, head = _network(config["kind"], len(facts["classes"]), config["sizes"], dropout)
    return Network(stages, head, facts["preprocessing"], config=config)


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


def reference(settings: Settings, examples: Examples) -> list[tuple[str, pd.DataFrame]]:
    """Return the answers of models without a network, the strongest first."""
    del settings
    return interaction_models.answers(examples)


def thumbnails(contents: Sequence[bytes]) -> list[str]:
    """The ends of histories."""
    found = [recommendation.history(content) for content in contents]
    return [("… " if len(items) > SHOWN else "") + ", ".join(items[-SHOWN:]) or "no history" for items in found]


def _network(kind: str, items: int, sizes: Sizes, dropout: float) -> tuple[list[nn.Module], Scores]:
    embedding, blocks = build_stages(kind, items, sizes)
    return [embedding, *blocks], Scores(embedding, dropout)


def _load(network: nn.Module, folder: Path, classes: Sequence[str]) -> str:
    """Put the weights of a checkpoint into a network; items that it does not know begin as the mean of the others."""
    try:
        theirs, facts = load_file(folder / WEIGHTS), json.loads((folder / FACTS).read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"The weights {folder} are no checkpoint of a recommendation model.",
            "Use the folder checkpoint of a registered version, or none.",
        ) from error
    known = {item: row for row, item in enumerate(facts["classes"])}
    rows = torch.tensor([known.get(item, -1) for item in classes])
    own = network.state_dict()
    per_item = {"stages.0.items", "head.added", "head.bias"}
    found: dict[str, Tensor] = {
        name: _rows(theirs[name], rows) if name in per_item else theirs[name] for name in theirs
    }
    if {name: some.shape for name, some in found.items()} != {name: some.shape for name, some in own.items()}:
        raise InputError(
            f"The weights {folder} are of another network ({facts['config']}).",
            "Use the options that they were trained with.",
        )
    network.load_state_dict(found)
    return state_digest(theirs)


def _rows(theirs: Tensor, rows: Tensor) -> Tensor:
    """Each item's row; of new ones the mean of all, of their bias the least, as they were never chosen."""
    new = theirs.min() if theirs.dim() == 1 else theirs.mean(0)
    known = theirs[rows.clamp(min=0)]
    return torch.where((rows >= 0).view(-1, *[1] * (theirs.dim() - 1)), known, new)
