"""The revision of the code and the versions of the libraries."""

import contextlib
import functools
import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def code_revision() -> str:
    """The commit of the code, with `-dirty` for changes on top; `THAWLINE_REVISION` where there is no git."""
    given = os.environ.get("THAWLINE_REVISION")
    if given:
        return given
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:  # no git
        return version("thawline")
    return done.stdout.strip() or version("thawline")


def libraries() -> dict[str, str]:
    """Versions of the libraries that results depend on; of the optional ones, those that are here."""
    return dict(_versions())


@functools.cache  # each asks the files of an installation
def _versions() -> dict[str, str]:
    found = {name: version(name) for name in ("thawline", "torch", "torchvision", "timm", "optuna", "mlflow")}
    for name in ("soundfile", "soxr", "tokenizers", "transformers"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
