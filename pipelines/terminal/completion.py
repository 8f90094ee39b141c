"""Completion of model names by the shell: of those that have runs in this home, since asking MLflow takes seconds."""

from components.core import run_folder
from components.core.storage import home_folder


def model_names(incomplete: str) -> list[str]:
    """Return the names of models that begin with a text, as the shell shows them."""
    found = (home_folder.home() / "runs").glob("*/settings.json")
    names = {str(run_folder.read_facts(path).get("model", "")) for path in found}
    return sorted(name for name in names if name and name.startswith(incomplete))
