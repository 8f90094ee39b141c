"""Pretrained image networks as ordered stages: any of torchvision's, timm's and transformers' that can be cut.

Any stage boundary can be the thaw line: one tensor crosses it, and no stage writes into what it is given.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from components.core.networks.installed_names import check_transformers, unknown_library
from components.core.networks.tracing import Stages, split
from components.core.networks.weights import state_digest
from components.core.weight_sources import is_model

if TYPE_CHECKING:
    from components.core.inference.images import Preprocessing


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier."""

    stages: tuple[tuple[str, nn.Module], ...]  # from images[B, 3, size, size] to what the classifier received, [B, F]
    features: int  # F
    preprocessing: "Preprocessing"  # what the first stage expects
    weights_digest: str  # of all stages' parameters and buffers
    config: Mapping[str, Any] = field(default_factory=dict)  # what rebuilds it, where the name alone does not


def build_backbone(name: str, weights: str, image_size: int = 0) -> Backbone:
    """A pretrained network, cut into stages and checked against the whole.

    Args:
        name: torchvision/NAME, timm/NAME, the latter with or without a tag of weights, or hf/NAME.
        weights: default (what the library recommends; for timm/tf_efficientnet_lite0 the packaged ones where they are
            installed), a weight name or tag of the library, FILE.pth, FILE.safetensors, s3://…,
            package:efficientnet-lite0, none (random), or a FOLDER or s3://BUCKET/PREFIX of a network of transformers.
        image_size: Side of the images in pixels; 0: what the weights expect.

    Raises:
        InputError: The network is unknown or can't be cut, or its weights can't be had or don't fit.
    """
    library = name.partition("/")[0]
    if library == "hf" or _is_folder(weights):
        return _of_transformers(name, weights, image_size)
    stages, features, preprocessing = _cut(name, weights, image_size, check=True)
    state = {key: tensor for _, stage in stages for key, tensor in stage.state_dict().items()}
    return Backbone(stages, features, preprocessing, state_digest(state))


def _cut(name: str, weights: str, image_size: int, *, check: bool) -> tuple[Stages, int, "Preprocessing"]:
    """The stages of a network of torchvision or timm, their features, and what the first one expects."""
    library, _, network_name = name.partition("/")
    # Each library costs a second to import.
    if library == "torchvision":
        from components.core.networks.images import from_torchvision as builder
    elif library == "timm":
        from components.core.networks.images import from_timm as builder  # type: ignore[no-redef]  # the same signature
    else:
        raise unknown_library(name)
    network, preprocessing = builder.build(network_name, weights, image_size)
    stages, features = split(network, name, preprocessing["size"], check=check)
    return stages, features, preprocessing


def rebuild_backbone(name: str, preprocessing: "Preprocessing", config: Mapping[str, Any]) -> Backbone:
    """The network of a checkpoint with random weights, from its name or from what its `config` says."""
    if not config:
        return Backbone(*_cut(name, "none", preprocessing.get("size", 0), check=False), "")
    from components.core.networks.images import from_transformers

    stages, features = from_transformers.rebuild(config, preprocessing["size"])
    return Backbone(stages, features, preprocessing, "", config)


def _of_transformers(name: str, weights: str, image_size: int) -> Backbone:
    check_transformers(name)
    from components.core.networks.images import from_transformers

    stages, features, preprocessing, config = from_transformers.build(name, weights, image_size)
    state = {f"{stage_name}.{key}": t for stage_name, stage in stages for key, t in stage.state_dict().items()}
    return Backbone(stages, features, preprocessing, state_digest(state), config)


def _is_folder(weights: str) -> bool:
    # a name of timm's or torchvision's weights may be that of a folder too
    return is_model(weights) and "/" in weights
