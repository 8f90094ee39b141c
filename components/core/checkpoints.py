"""Checkpoints: weights as safetensors, and the JSON that rebuilds the network and tells how it came to be."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from components.core.network import Network
from components.core.settings import Hyperparameters, Settings
from components.core.weights import state_digest
from components.tasks import load_task

WEIGHTS, FACTS = "network.safetensors", "checkpoint.json"


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
        "stage_digests": [*digests, state_digest(network.head.state_dict())],
        **facts,
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1))


def read_facts(folder: Path) -> dict[str, Any]:
    """The JSON of a checkpoint."""
    return dict(json.loads((folder / FACTS).read_text()))


def load_checkpoint(folder: Path) -> tuple[Network, dict[str, Any]]:
    """The network of a checkpoint, on the CPU, and its facts; the pretrained weights are not needed.

    Raises:
        RuntimeError: The weights don't fit the network that the facts describe.
    """
    facts = read_facts(folder)
    settings = Settings.model_validate(facts["settings"])
    bare = settings.model_copy(update={"weights": "none", "image_size": facts["preprocessing"].get("size", 0)})
    network = load_task(settings.task).build(bare, facts["classes"], facts["hyperparameters"]["dropout"])
    network.preprocessing = facts["preprocessing"]
    network.weights_digest = facts["weights_digest"]
    network.load_state_dict(load_file(folder / WEIGHTS))
    return network, facts
