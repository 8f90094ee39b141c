"""Names of networks and weights, read from the sources of the installed libraries: to import those takes seconds.

What a source can't tell is taken to be right: the step that builds the network asks the library itself.
"""

import difflib
import importlib.util
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

from components.core.errors import InputError
from components.core.weight_sources import (
    LITE0_BACKBONE,
    MINILM,
    MINILM_BACKBONE,
    SPEAKER,
    SPEAKER_PACKAGE,
    check_installed,
    check_of_hub,
    check_state_file,
    group_hint,
    is_model,
    is_source,
)

FALLBACK = {"timm": "resnet50d", "torchvision": "resnet50, efficientnet_b0"}  # suggested where no name is near


def check_network(kind: str, backbone: str, weights: str, *, here: bool = True) -> None:
    """Check the names of a network and its weights as far as that takes neither torch nor a request.

    Args:
        kind: Of the records: pictures, texts or sounds; with another one nothing is checked.
        backbone: Of the settings; empty: the task's default.
        weights: Of the settings.
        here: Look for packages and files on this machine too; another one may have others.

    Raises:
        InputError: A name is unknown; or weights or a library are missing.
    """
    if kind == "pictures":
        if backbone or weights not in ("default", "none"):  # to read the sources takes 50 ms
            _check_image_network(backbone or LITE0_BACKBONE, weights, here=here)
    elif kind == "texts":
        _check_transformers(backbone or MINILM_BACKBONE, weights, here=here)
    elif kind == "sounds":
        _check_sound_network(backbone or SPEAKER, weights, here=here)


def unknown_network(library: str, name: str, known: Collection[str]) -> InputError:
    """The error for a name that a library does not know, with the nearest names."""
    close = ", ".join(difflib.get_close_matches(name, known, n=4, cutoff=0.5)) or FALLBACK[library]
    return InputError(f"{library} has no network {name!r}.", f"Did you mean {close}?")


def unknown_weights(network: str, name: str, known: Collection[str]) -> InputError:
    """The error for weights that a library does not have of a network, with those that it has."""
    return InputError(
        f"{network} has no weights {name!r}.", f"Use one of: {', '.join(['default', *known])}, or a file."
    )


def unknown_library(backbone: str) -> InputError:
    """The error for an image network that no library is named for."""
    return InputError(
        f"There is no backbone {backbone!r}.", "Use torchvision/NAME, timm/NAME or hf/NAME with --backbone."
    )


def check_transformers(what: str) -> None:
    """Check that the library transformers is installed, without importing it.

    Raises:
        InputError: It is not.
    """
    if importlib.util.find_spec("transformers") is None:
        raise InputError(f"{what} needs the library transformers.", group_hint("text"))


def _check_image_network(backbone: str, weights: str, *, here: bool) -> None:
    library, _, name = backbone.partition("/")
    if library == "hf" or (is_model(weights) and "/" in weights):
        if here:
            check_transformers(backbone)
        _check_transformers(backbone, weights, here=here)
        return
    if library not in FALLBACK:
        raise unknown_library(backbone)
    architecture, _, tag = name.partition(".")
    known = networks_of(library)
    if known and architecture not in known and not _occurs(architecture, library):
        raise unknown_network(library, architecture, known)
    if is_source(weights):
        check_state_file(weights, here=here)
    elif weights.lower() not in ("default", "none"):
        tag = weights
    names = weights_of(library).get(architecture, [])
    if tag and names and tag not in names:
        raise unknown_weights(f"{library}/{architecture}", tag, names)


def _check_sound_network(backbone: str, weights: str, *, here: bool) -> None:
    if weights != SPEAKER_PACKAGE and (backbone != SPEAKER or is_model(weights)):
        _check_transformers(backbone, weights, here=here)
    elif weights in ("default", SPEAKER_PACKAGE):
        if here:
            check_installed(SPEAKER_PACKAGE, "Or use --backbone hf/NAME, or a folder with --weights.")
    elif weights != "none":
        check_state_file(weights, here=here)


def _check_transformers(backbone: str, weights: str, *, here: bool) -> None:
    if weights == MINILM:
        if here:
            check_installed(MINILM)
    elif not is_model(weights):
        check_of_hub(backbone, weights)
        if weights not in ("default", "none"):
            check_state_file(weights, here=here)


@cache
def networks_of(library: str) -> list[str]:
    """Names of the image networks of timm or torchvision; empty where it is not installed, or can't be read."""
    return re.findall(r"^@register_model\b.*?^def (\w+)\(", _source_of(library), re.MULTILINE | re.DOTALL)


@cache
def weights_of(library: str) -> Mapping[str, list[str]]:
    """Names of the weights that timm or torchvision publishes, by network, but for those that it makes by code."""
    source, found = _source_of(library), defaultdict[str, list[str]](list)
    if library == "timm":
        for network, tag in sorted(set(re.findall(r"""['"](\w+)\.(\w+)\*?['"]\s*:""", source))):
            found[network].append(tag)
        return found
    bodies = re.findall(r"^class (\w+)\(WeightsEnum\):\n(.*?)(?=^\S)", source, re.MULTILINE | re.DOTALL)
    members = {name: re.findall(r"^    (\w+) = Weights\(", body, re.MULTILINE) for name, body in bodies}
    builders = re.findall(r"^def (\w+)\(\s*\*,\s*weights: Optional\[(\w+)\]", source, re.MULTILINE)
    return {network: members.get(name, []) for network, name in builders}


def _occurs(name: str, library: str) -> bool:
    """Return whether a library's source has this name as a key: it may be an older one of a network."""
    return bool(name and re.search(rf"""(['"]){re.escape(name)}\1\s*:""", _source_of(library)))


@cache
def _source_of(library: str) -> str:
    """The text of all files in which a library defines its image networks; empty where it is not installed."""
    found = importlib.util.find_spec(library)
    places = (found and found.submodule_search_locations) or []
    paths = [path for place in places for path in sorted(Path(place, "models").glob("*.py"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)
