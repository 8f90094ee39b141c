"""Options of tasks, read from their sources."""

from importlib import import_module
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from components.core.contract import task_sources
from components.core.contract.task import TASKS_FOLDER, built_in_tasks
from components.core.contract.task_options import parse_options
from components.core.errors import InputError
from components.core.settings import Hyperparameters, Settings

OWN = """
from typing import Literal
from pydantic import BaseModel
from components.core.contract.task_options import NoOptions as Nothing

class Options(Nothing):
    ways: Literal["up", "down"] = "up"
    number: int = 1
"""


def settings(task: str, **options: str) -> Settings:
    return Settings(model="m", task=task, option=options)


@pytest.mark.parametrize("task", built_in_tasks())
def test_options_are_those_of_the_task(task: str) -> None:
    """The source says the same names and choices as the class that the task defines."""
    fields = import_module(f"components.tasks.{task}").Options.model_fields
    choices = {
        name: get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        for name, field in fields.items()
    }
    assert task_sources._options(f"components.tasks.{task}", "Options", Path.cwd()) == choices


@pytest.mark.parametrize(("name", "value"), [("taget", "number"), ("target", "nuber")])
def test_a_typo_is_the_tasks_own_error(name: str, value: str) -> None:
    """An unknown option or choice is told as by the step that loads the task."""
    wrong = settings("image_classification", **{name: value})
    with pytest.raises(InputError) as early:
        task_sources.check_task(wrong, Path.cwd())
    with pytest.raises(InputError) as late:
        parse_options(wrong, import_module("components.tasks.image_classification").Options)
    assert str(early.value) == str(late.value)


def test_an_unknown_task_is_an_error() -> None:
    """A name without a dot is one of ours, and the error lists them."""
    with pytest.raises(InputError, match=r"There is no task 'picture_clasification'.*image_classification"):
        task_sources.check_task(settings("picture_clasification"), Path.cwd())


def test_a_task_of_the_users_own_is_read_from_its_folder(tmp_path: Path) -> None:
    """Its options are known without importing it, with those that it inherits."""
    (tmp_path / "my_own_tasks").mkdir()
    (tmp_path / "my_own_tasks" / "points.py").write_text(OWN)
    task_sources.check_task(settings("my_own_tasks.points", ways="down", number="7"), tmp_path)
    with pytest.raises(InputError, match="has no option 'way'. Use one of: ways, number"):
        task_sources.check_task(settings("my_own_tasks.points", way="down"), tmp_path)
    with pytest.raises(InputError, match="--option ways=left can't be used: it should be 'up' or 'down'"):
        task_sources.check_task(settings("my_own_tasks.points", ways="left"), tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "Options = make()",
        "class Options(base.Model):\n    a: int",
        "class Options(made()):\n    a: int",
        "class Options(",
    ],
)
def test_what_a_source_does_not_say_passes(source: str, tmp_path: Path) -> None:
    """Options that are made by code, inherited from elsewhere, or unreadable are left to the step."""
    (tmp_path / "my_own_tasks").mkdir()
    (tmp_path / "my_own_tasks" / "points.py").write_text(source)
    task_sources.check_task(settings("my_own_tasks.points", b="1"), tmp_path)
    task_sources.check_task(settings("my_own_tasks.elsewhere", b="1"), tmp_path)


def test_a_task_that_lists_its_records_is_known_by_its_source(tmp_path: Path) -> None:
    """Ours and a user's own are told apart without importing them; what can't be read lists nothing."""
    assert task_sources.lists_records("recommendation", tmp_path)
    assert not task_sources.lists_records("text_classification", tmp_path)
    folder = tmp_path / "my_own_tasks"
    folder.mkdir()
    (folder / "imported.py").write_text("from tables import rows as records\n")
    (folder / "defined.py").write_text("def records(settings, source): ...\n")
    (folder / "broken.py").write_text("def records(")
    names = ("imported", "defined", "broken", "missing")
    found = {name: task_sources.lists_records(f"my_own_tasks.{name}", tmp_path) for name in names}
    assert found == {"imported": True, "defined": True, "broken": False, "missing": False}


def test_a_recipe_is_read_from_the_source(tmp_path: Path) -> None:
    """Settings that a task recommends are a literal of its module; a task without one recommends nothing."""
    assert task_sources.recipe("recommendation", tmp_path)["thaw"] == 3
    assert task_sources.recipe("text_classification", tmp_path) == {}
    folder = tmp_path / "my_own_tasks"
    folder.mkdir()
    (folder / "cooked.py").write_text('recipe = {"thaw": 1}\n')
    (folder / "made.py").write_text("recipe = dict(thaw=1)\n")
    assert task_sources.recipe("my_own_tasks.cooked", tmp_path) == {"thaw": 1}
    assert task_sources.recipe("my_own_tasks.missing", tmp_path) == {}
    with pytest.raises(InputError, match=r"The recipe of the task my_own_tasks.made is not a literal"):
        task_sources.recipe("my_own_tasks.made", tmp_path)


def test_many_pictures_are_thawed_deeper() -> None:
    """From 1,000 rows on, pictures thaw deeper at a higher rate; texts never do."""
    defaults = task_sources.default_hyperparameters
    assert defaults(Settings(), 999) == defaults(Settings(task="text"), 5000) == Hyperparameters()
    assert defaults(Settings(), 1000) == Hyperparameters(thaw=3, thaw_learning_rate=1e-3)
    assert defaults(Settings(thaw=2), 1000) == Hyperparameters(thaw=2)


def test_a_recipe_by_rows_is_read_from_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the largest number of rows that is not above the data's holds, of a task of the user's own too."""
    monkeypatch.setenv(TASKS_FOLDER, str(tmp_path))
    (tmp_path / "my_tasks_by_rows").mkdir()
    (tmp_path / "my_tasks_by_rows" / "points.py").write_text(
        'recipe_by_rows = {1_000: {"thaw": 4}, 100: {"thaw": 3}}\n'
    )
    settings = Settings(task="my_tasks_by_rows.points")
    found = {rows: task_sources.default_hyperparameters(settings, rows).thaw for rows in (99, 100, 999, 1000, 9999)}
    assert found == {99: 2, 100: 3, 999: 3, 1000: 4, 9999: 4}


@pytest.mark.parametrize("wrong", ["dict(a=1)", "3", '{"100": {"thaw": 3}}', "{100: 3}", '{100: {"backbone": "x"}}'])
def test_an_unusable_recipe_by_rows_is_refused(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything but a literal of rows to hyperparameters is one sentence."""
    monkeypatch.setenv(TASKS_FOLDER, str(tmp_path))
    (tmp_path / "my_wrong_tasks").mkdir()
    (tmp_path / "my_wrong_tasks" / "points.py").write_text(f"recipe_by_rows = {wrong}\n")
    with pytest.raises(InputError, match=r"^The recipe_by_rows of the task my_wrong_tasks.points does not map"):
        task_sources.default_hyperparameters(Settings(task="my_wrong_tasks.points"), 10)
