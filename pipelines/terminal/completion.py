"""Completion of model names by the shell: of those that have runs in this home, since asking MLflow takes seconds."""

import json

from components.core.storage import home_folder


def model_names(incomplete: str) -> list[str]:
    """Return the names of models that begin with a text, as the shell shows them."""
    names = set()
    for path in (home_folder.home() / "runs").glob("*/settings.json"):
        try:
            names.add(str(json.loads(path.read_text())["model"]))
        except (OSError, ValueError, KeyError):  # being written, or deleted at this moment
            continue
    return sorted(name for name in names if name.startswith(incomplete))
