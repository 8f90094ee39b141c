"""Choose the task that fits the records if the user did not choose one."""

from pathlib import Path

from components.core.contract.task_sources import recipe
from components.core.errors import InputError
from components.core.settings import Settings
from components.core.sources.record_kinds import KIND_OF_TASK, check_task, task_for

FOR_ONE_KIND = {"backbone", "option", "image_size", "resize", "cutmix"}  # options that mean a certain kind of records


def with_task_of_data(settings: Settings, source: str) -> tuple[Settings, str]:
    """Return the settings with the task that fits a source, and a sentence about it, empty if nothing was chosen.

    The recipe of a task that is chosen holds for what the user did not give, as that of a given one does.

    Raises:
        InputError: A task was given that takes other records, or none, but options that another one might not have.
    """
    if "task" in settings.model_fields_set:
        check_task(source, settings.task)
        return settings, ""
    task = task_for(source, settings.task)
    if task == settings.task:
        return settings, ""
    if meant := sorted(FOR_ONE_KIND & settings.model_fields_set):
        named = ", ".join("--" + name.replace("_", "-") for name in meant)
        raise InputError(
            f"The records of {source} are {KIND_OF_TASK[task]}, and the task for {named} can't be detected.",
            f"Use --task {task}, or another one.",
        )
    recommended = {n: v for n, v in recipe(task, Path.cwd()).items() if n not in settings.model_fields_set}
    return settings.model_copy(
        update={**recommended, "task": task}
    ), f"The records are {KIND_OF_TASK[task]}, so this is --task {task}"
