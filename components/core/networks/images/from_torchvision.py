"""Networks of torchvision without their classifiers, with their weights and preprocessing."""

import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.models.vision_transformer import interpolate_embeddings

from components.core.errors import InputError
from components.core.networks.installed_names import unknown_network, unknown_weights
from components.core.networks.weights import SkipInit, cannot_download, fit_state, impatient, load_state
from components.core.weight_sources import is_source

if TYPE_CHECKING:
    from components.core.inference.images import Preprocessing

# What torchvision's builders set when they are given weights: these networks were trained on another range of values.
_TRAINED_WITH = {name: {"transform_input": True, "init_weights": False} for name in ("googlenet", "inception_v3")}


def build(name: str, weights: str, image_size: int) -> tuple[nn.Module, "Preprocessing"]:
    """A network that ends with what its classifier received, and what its images look like.

    Args:
        name: As in `torchvision.models.list_models`.
        weights: default, a name of torchvision (IMAGENET1K_V2), a source of `load_state`, or none.
        image_size: Side of the images in pixels; 0: what the weights expect.

    Raises:
        InputError: Unknown name, weights that can't be had or don't fit, or a network without a linear classifier.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown_network("torchvision", name, known)
    choice = choose_weights(name, weights)
    preprocessing = _preprocessing(choice, image_size)
    options: dict[str, Any] = dict(_TRAINED_WITH.get(name, {}))
    if name.startswith("vit_"):
        options["image_size"] = preprocessing["size"]
    try:
        with nullcontext() if weights == "none" else SkipInit():
            network = torchvision.models.get_model(name, weights=None, **options)
    except AssertionError as error:
        raise InputError(
            f"torchvision/{name} can't take images of {preprocessing['size']} pixels ({error}).",
            "Use a multiple of the network's patch size with --image-size.",
        ) from error
    linear = [module for module, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise InputError(
            f"torchvision/{name} can't be split into stages: its classifier is not a linear layer.",
            "Choose another --backbone.",
        )
    if weights != "none":
        state = load_state(weights) if choice is None or is_source(weights) else download_weights(choice, name)
        what = f"The weights {weights} of torchvision/{name}"
        fit_state(network, _adapted(state, network), linear[-1], what)
    network.set_submodule(linear[-1], nn.Identity())
    return network, preprocessing


def choose_weights(name: str, weights: str) -> WeightsEnum | None:
    """The weights of the library that are asked for, or for a file those of which it is a variant."""
    if weights == "none":
        return None
    available = torchvision.models.get_model_weights(name)
    if weights.upper() == "DEFAULT" or is_source(weights):
        return available.DEFAULT
    if weights not in available.__members__:
        raise unknown_weights(f"torchvision/{name}", weights, [m for m in available.__members__ if m != "DEFAULT"])
    return available[weights]


def download_weights(choice: WeightsEnum, name: str) -> Mapping[str, Tensor]:
    """The tensors of the library's weights of a network; raises UnavailableError if its hub is out of reach."""
    try:
        with impatient():
            state: Mapping[str, Tensor] = choice.get_state_dict(
                progress=False, check_hash=True, map_location="cpu", weights_only=True
            )
    except Exception as error:  # the hub raises what the network below it raises
        raise cannot_download(choice.name, f"torchvision/{name}", error) from error
    return state


def _adapted(state: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """Old names of DenseNet's tensors, and position embeddings for the size of the images."""
    if isinstance(network, torchvision.models.DenseNet):  # norm.1 was what norm1 is now
        return {re.sub(r"\b(norm|conv)\.([12])\b", r"\1\2", name): tensor for name, tensor in state.items()}
    if isinstance(network, torchvision.models.VisionTransformer) and "encoder.pos_embedding" in state:
        adapted: Mapping[str, Tensor] = interpolate_embeddings(network.image_size, network.patch_size, dict(state))
        return adapted
    return state


def _preprocessing(choice: WeightsEnum | None, image_size: int) -> "Preprocessing":
    """Preprocessing with which the weights were evaluated; without weights, that of most of torchvision's."""
    if choice is None:
        native, resize, mean, std, interpolation = 224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear"
    else:
        preset = choice.transforms()
        native, resize = preset.crop_size[0], preset.resize_size[0]
        mean, std, interpolation = preset.mean, preset.std, preset.interpolation.value
    size = image_size or native
    return {
        "size": size,
        "resize": round(size * resize / native),
        "mode": "crop",
        "mean": list(mean),
        "std": list(std),
        "interpolation": interpolation,
    }
