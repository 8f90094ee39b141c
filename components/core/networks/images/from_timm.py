"""Networks of timm without their classifiers, with their weights and preprocessing."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import timm
from timm.data.config import resolve_model_data_config
from timm.models._registry import get_arch_pretrained_cfgs
from torch import Tensor, nn

from components.core.errors import InputError
from components.core.networks.installed_names import unknown_network, unknown_weights
from components.core.networks.weights import SkipInit, cannot_download, fit_state, hub_asked_once, load_state
from components.core.weight_sources import LITE0, is_installed, is_source

if TYPE_CHECKING:
    from components.core.inference.images import Preprocessing

_MODES = {"center": "crop", "squash": "squash", "border": "pad"}
_INTERPOLATIONS = frozenset(("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"))


def build(name: str, weights: str, image_size: int) -> tuple[nn.Module, "Preprocessing"]:
    """A network that ends with what its classifier received, and what its images look like.

    Args:
        name: As in `timm.list_models`, with or without a tag of weights (resnet50.a1_in1k).
        weights: default, a tag of timm (a1_in1k), a source of `load_state`, or none.
        image_size: Side of the images in pixels; 0: what the weights expect.

    Raises:
        InputError: Unknown name, or weights that can't be had or don't fit.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown_network("timm", architecture, timm.list_models())
    if weights == "default" and name == "tf_efficientnet_lite0":
        weights = LITE0 if is_installed(LITE0) else weights
    by_name = weights not in {"default", "none"} and not is_source(weights)
    tagged = _tagged(architecture, weights if by_name else tag)
    options = _size_options(tagged, image_size)
    if weights == "none":
        network = _create(tagged, options)
    elif is_source(weights):
        network = _with_state(tagged, options, load_state(weights), f"The weights {weights} of timm/{tagged}")
    else:
        network = _with_hub_weights(tagged, options)
    network.reset_classifier(0)
    return network, _preprocessing(network, image_size)


def _tagged(architecture: str, tag: str) -> str:
    if not tag:
        return architecture
    known = get_arch_pretrained_cfgs(architecture)
    name = f"{architecture}.{tag}"
    if name not in known:
        raise unknown_weights(f"timm/{architecture}", tag, sorted(o.partition(".")[2] for o in known if "." in o))
    return name


def _size_options(name: str, image_size: int) -> dict[str, Any]:
    """Options that a network of fixed size needs for another image size."""
    config = timm.get_pretrained_cfg(name)
    if not image_size or config is None or not config.fixed_input_size:
        return {}
    return {} if image_size == config.input_size[-1] else {"img_size": image_size}


def _create(name: str, options: Mapping[str, Any], **more: Any) -> Any:  # noqa: ANN401 - timm's networks share no type
    """A network of timm; one that follows the size of each image is fixed to its size, so that it can be cut."""
    try:
        network = timm.create_model(name, **options, **more)
        if getattr(network, "dynamic_img_size", False):
            network = timm.create_model(name, **options, **more, dynamic_img_size=False)
    except (AssertionError, TypeError) as error:
        if not options:
            raise
        raise InputError(
            f"timm/{name} can't take images of {options['img_size']} pixels ({error or 'it does not divide them'}).",
            "Leave out --image-size, or use a multiple of the network's patch or window size.",
        ) from error
    return network


def _with_hub_weights(name: str, options: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as above
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise InputError(f"timm publishes no weights for {name}.", "Use --weights FILE, or none.")
    with hub_asked_once() as silence:
        try:
            return _create(name, options, pretrained=True)
        except InputError:
            raise
        except Exception as error:  # the hub raises what the network below it raises
            if "loading state_dict" in str(error):
                faults = " ".join(str(error).split())[:300]
                raise InputError(
                    f"The weights {config.tag} of timm/{name} don't fit it ({faults}).",
                    "Choose another tag with --weights.",
                ) from error
            raise cannot_download(config.tag or "default", f"timm/{name}", silence or error) from (silence or error)


def _with_state(name: str, options: Mapping[str, Any], state: dict[str, Tensor], what: str) -> Any:  # noqa: ANN401 - as above
    """Load a state through timm's own loader, which knows older names and resizes position embeddings.

    It is strict only where the configuration and the network have the same number of classes: both get the file's.
    """
    config = timm.get_pretrained_cfg(name)
    classifier = config.classifier if config else None
    heads = [classifier] if isinstance(classifier, str) else list(classifier or ())
    found = [len(state[f"{head}.weight"]) for head in heads if f"{head}.weight" in state]
    # Without one, the file has no classifier, or names it in a way that only timm's loader knows.
    for classes in found[:1] or dict.fromkeys((0, config.num_classes if config else 1000)):
        overlay = {"state_dict": state, "num_classes": classes, "label_offset": 0}
        try:
            with SkipInit():
                return _create(name, options, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay)
        except (RuntimeError, KeyError, IndexError, AttributeError):  # timm's renaming meets names of another network
            continue
    fit_state(_create(name, options), state, heads[0] if heads else "", what)
    raise InputError(f"{what} don't fit.", "Use weights of exactly this network with --weights.")


def _preprocessing(network: Any, image_size: int) -> "Preprocessing":  # noqa: ANN401 - as above
    """Preprocessing with which the weights were evaluated; scaled in proportion for other image sizes."""
    config = resolve_model_data_config(network)  # type: ignore[no-untyped-call]  # timm gives no types here
    size = image_size or config["input_size"][-1]
    interpolation = config["interpolation"]
    return {
        "size": size,
        "resize": math.floor(size / config["crop_pct"]),
        "mode": _MODES.get(config["crop_mode"], "crop"),
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "interpolation": interpolation if interpolation in _INTERPOLATIONS else "bilinear",
    }
