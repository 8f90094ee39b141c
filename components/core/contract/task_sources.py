"""Check a task's name and options against its source, without importing it: torch alone takes a second.

What the source does not say plainly is taken to be right: the step that loads the task asks it.
"""

import ast
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.core.contract.task import TASKS_FOLDER, built_in_tasks, check_task_name, unknown_task
from components.core.contract.task_options import unknown_option, unusable_option
from components.core.errors import InputError
from components.core.settings import Hyperparameters, Settings

BASE = "BaseModel"  # pydantic's, which ends the search for inherited options
RECORDS = "records"  # the member of a task that lists the records of a source
RECIPE = "recipe"  # the member with the settings that it recommends
RECIPE_BY_ROWS = "recipe_by_rows"  # the member with the hyperparameters that it recommends for so many rows
Choices = dict[str, tuple[str, ...]]  # options by name, with the values that they may have; empty: not listed


def check_task(settings: Settings, folder: Path) -> None:
    """Check the name of a task, the names of its options, and the values of those that list what they may be.

    Args:
        settings: With the task and the options.
        folder: Where a task of the user's own is looked for, after everything installed.

    Raises:
        InputError: There is no such task, it declares no such option, or the option no such value.
    """
    check_task_name(settings.task)
    if settings.task not in (known := built_in_tasks()) and "." not in settings.task:
        raise unknown_task(settings.task, known)
    module = settings.task if "." in settings.task else f"components.tasks.{settings.task}"
    declared = _options(module, "Options", folder) if settings.option else None
    if declared is None:
        return
    for name, value in settings.option.items():
        if name not in declared:
            raise unknown_option(settings.task, name, declared)
        if declared[name] and value not in declared[name]:
            *others, last = map(repr, declared[name])
            choices = f"{', '.join(others)} or {last}" if others else last
            raise unusable_option(name, value, f"it should be {choices}")


def lists_records(task: str, folder: Path) -> bool:
    """Return whether a task lists the records of a source itself, so that no manifest's rules hold for it.

    Args:
        task: A name of ours, or a module of the user's.
        folder: Where a task of the user's own is looked for, after everything installed.
    """
    body = _body(task if "." in task else f"components.tasks.{task}", folder) or []
    return RECORDS in _imported(body) or any(isinstance(n, ast.FunctionDef) and n.name == RECORDS for n in body)


def recipe(task: str, folder: Path) -> Mapping[str, Any]:
    """Return the settings that a task recommends where the user gives none; empty where its source names none.

    Args:
        task: A name of ours, or a module of the user's.
        folder: Where a task of the user's own is looked for, after everything installed.

    Raises:
        InputError: The recipe is not a literal mapping.
    """
    found = _literal_member(task, RECIPE, folder)
    if not isinstance(found, dict):
        raise InputError(f"The recipe of the task {task} is not a literal mapping.", 'Write it as {"thaw": 2}.')
    return found


def default_hyperparameters(settings: Settings, rows: int) -> Hyperparameters:
    """Return the hyperparameters without a search: what is given, else what the task recommends, else the defaults.

    Args:
        settings: With the task; one of the user's own is looked for in `tasks_folder`.
        rows: Of training and validation together; the recipe of the largest number that is not above them holds.

    Raises:
        InputError: The task's `recipe_by_rows` is no literal, or names what is no hyperparameter.
    """
    found = _literal_member(settings.task, RECIPE_BY_ROWS, tasks_folder())
    usable = isinstance(found, dict) and all(
        isinstance(least, int) and isinstance(recipe, dict) and recipe.keys() <= Settings.SEARCHED
        for least, recipe in found.items()
    )
    if not usable:
        raise InputError(
            f"The {RECIPE_BY_ROWS} of the task {settings.task} does not map numbers of rows to hyperparameters.",
            f'Write it as {{1_000: {{"thaw": 3}}}}, with any of {", ".join(sorted(Settings.SEARCHED))}.',
        )
    least = max((number for number in found if number <= rows), default=None)
    return settings.defaults(found[least] if least is not None else {})


def tasks_folder() -> Path:
    """Return where a task of the user's own is looked for, after everything installed."""
    return Path(os.environ.get(TASKS_FOLDER) or Path.cwd())


def _literal_member(task: str, name: str, folder: Path) -> Any:  # noqa: ANN401 - a literal of any kind
    """The value of a task's member by its source: an empty mapping where it has none, None where it is no literal."""
    body = _body(task if "." in task else f"components.tasks.{task}", folder) or []
    assigned = [node for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name]
    try:
        return ast.literal_eval(assigned[-1].value) if assigned else {}
    except ValueError:
        return None


def _body(module: str, folder: Path) -> list[ast.stmt] | None:
    """The statements of a module's source; None where it can't be read, which importing it will tell."""
    try:
        path = _path(module, folder)
        return ast.parse(path.read_bytes()).body if path else None
    except (OSError, SyntaxError, ValueError):
        return None


def _options(module: str, name: str, folder: Path) -> Choices | None:
    """The fields of a class of pydantic's by the text of its module and of those that it inherits from."""
    body = _body(module, folder)
    if body is None:
        return None
    found = next((node for node in body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if found is None:
        imported = _imported(body).get(name)
        return _options(*imported, folder) if imported else None
    fields: Choices = {}
    for base in reversed(found.bases):
        if not isinstance(base, ast.Name):
            return None
        if base.id != BASE:
            inherited = _options(module, base.id, folder)
            if inherited is None:
                return None
            fields |= inherited
    own = [node for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return fields | {node.target.id: _literal(node.annotation) for node in own if isinstance(node.target, ast.Name)}


def _path(module: str, folder: Path) -> Path | None:
    """The file of a module, found without importing what it lies in."""
    first, *rest = module.split(".")
    spec = importlib.util.find_spec(first)
    places = (spec.submodule_search_locations or []) if spec else [str(folder / first)]
    paths = [Path(place, *rest[:-1], f"{name}.py") for place in places for name in rest[-1:]]
    return next((path for path in paths if path.is_file()), None)


def _imported(body: list[ast.stmt]) -> Mapping[str, tuple[str, str]]:
    """The names that a file imports from modules: the module and the name there, by the name here."""
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in body
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
        for alias in node.names
    }


def _literal(annotation: ast.expr) -> tuple[str, ...]:
    """The texts of `Literal["a", "b"]`; empty for every other annotation."""
    if not (isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name)):
        return ()
    values = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    texts = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return tuple(texts) if annotation.value.id == "Literal" and len(texts) == len(values) else ()
