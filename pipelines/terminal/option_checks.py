"""Check names that are given as options before anything runs: of tasks and their options, networks and weights."""

from pathlib import Path

from components.core.contract import task_sources
from components.core.networks import installed_names
from components.core.settings import Settings
from components.core.sources.record_kinds import KIND_OF_TASK


def check_names(settings: Settings, *, here: bool = True) -> None:
    """Check names without importing what they are names in; the steps check everything again.

    A task of the user's own may give names of networks another meaning, so they are taken as they are.

    Args:
        settings: Of the run.
        here: Look for files and packages on this machine too; pods may have others.

    Raises:
        InputError: A name is unknown, or something is missing.
    """
    task_sources.check_task(settings, Path.cwd())
    installed_names.check_network(KIND_OF_TASK.get(settings.task, ""), settings.backbone, settings.weights, here=here)
