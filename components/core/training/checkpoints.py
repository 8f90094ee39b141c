"""Checkpoints: weights as safetensors, and the JSON that rebuilds the network and tells how it came to be."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file

from components.core import digests
from components.core.contract.task import Target, load_task
from components.core.data.examples import START, Examples
from components.core.networks.network import Network
from components.core.networks.weights import state_digest
from components.core.settings import Hyperparameters, Settings
from components.core.storage import disk_space, home_folder

WEIGHTS, FACTS, TRAINING = "network.safetensors", "checkpoint.json", "training.parquet"


def check_room(folder: Path, network: Network) -> None:
    """Check that a network's weights fit on the disk before it is trained.

    Raises:
        FullDiskError: They don't.
    """
    needed = sum(tensor.nbytes for tensor in network.state_dict().values())
    disk_space.check(home_folder.home(), {folder: needed}, "The checkpoint")


def save_checkpoint(
    folder: Path,
    network: Network,
    settings: Settings,
    hyperparameters: Hyperparameters,
    classes: list[str],
    facts: Mapping[str, Any],
) -> None:
    """Write the network and its facts into a folder, with a digest of every stage and of the head."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    digests = [state_digest(stage.state_dict()) for stage in network.stages]
    facts = {
        "settings": settings.model_dump(),
        "hyperparameters": hyperparameters.model_dump(),
        "classes": classes,
        "preprocessing": network.preprocessing,
        "weights_digest": network.weights_digest,
        "config": network.config,
        "stage_digests": [*digests, state_digest(network.head.state_dict())],
        **facts,
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1))


def read_facts(folder: Path) -> dict[str, Any]:
    """The JSON of a checkpoint."""
    return dict(json.loads((folder / FACTS).read_text()))


@dataclass(frozen=True)
class TrainingRows:
    """The rows that a model has seen; test rows among them are left out of comparisons."""

    fingerprints: Mapping[str, str]  # id -> fingerprint, of all rows but the test rows
    labels: Mapping[str, int]  # class -> training rows that have it
    number: int  # of the dataset in its lineage


def kept_epoch(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of the epoch whose weights a checkpoint holds, by its facts."""
    phase = "thaw" if facts["thawed"] else "head"
    epochs = [dict(figures) for figures in facts["history"] if figures["phase"] == phase]
    return next((figures for figures in epochs if figures.get("best")), epochs[-1])


def save_training_rows(folder: Path, examples: Examples, target: Target) -> None:
    """Write the ids and fingerprints of the rows that a model sees into its checkpoint's folder.

    After a warm start these are the rows that the other model saw as well.
    """
    index = examples.index
    seen = index.filter(pc.not_equal(index["split"], "test"))
    prints = seen["fingerprint"].to_pylist() if "fingerprint" in seen.column_names else [""] * len(seen)
    before = read_training_rows(examples.folder / START).fingerprints
    known = {**before, **dict(zip(seen["id"].to_pylist(), prints, strict=True))}
    table = pa.table({"id": pa.array(known.keys(), pa.string()), "fingerprint": pa.array(known.values(), pa.string())})
    counts = Counter(name for names in target.names(examples.labels(examples.rows("train"))) for name in names)
    facts = {"labels": json.dumps(counts), "number": str(examples.info.number)}
    pq.write_table(table.replace_schema_metadata(facts), folder / TRAINING)


def read_training_rows(folder: Path) -> TrainingRows:
    """The inverse of `save_training_rows`; of a checkpoint without any, as earlier versions wrote, none."""
    if not (folder / TRAINING).exists():
        return TrainingRows({}, {}, -1)
    table = pq.read_table(folder / TRAINING)
    facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    fingerprints = dict(zip(table["id"].to_pylist(), table["fingerprint"].to_pylist(), strict=True))
    return TrainingRows(fingerprints, json.loads(facts["labels"]), int(facts["number"]))


def weights_digest(folder: Path) -> str:
    """The sha256 of a checkpoint's weights; empty where there are none."""
    path = folder / WEIGHTS
    return digests.of_file(path) if path.exists() else ""


def load_checkpoint(folder: Path) -> tuple[Network, dict[str, Any]]:
    """The network of a checkpoint, on the CPU, and its facts; the pretrained weights are not needed.

    Raises:
        RuntimeError: The weights don't fit the network that the facts describe.
    """
    facts = read_facts(folder)
    settings = Settings.model_validate(facts["settings"])
    network = load_task(settings.task).rebuild(settings, facts)
    network.preprocessing = facts["preprocessing"]
    network.weights_digest = facts["weights_digest"]
    network.config = facts.get("config", {})
    load_weights(folder, network)
    return network, facts


def load_weights(folder: Path, network: Network) -> None:
    """Put the weights of a checkpoint into its network, which is on any device."""
    network.load_state_dict(load_file(folder / WEIGHTS))
