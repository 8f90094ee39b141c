"""The options of `thawline run` are the settings."""

import inspect
import os
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from components.core.contract import task_sources
from components.core.errors import InputError
from components.core.settings import OPTIONS, Hyperparameters, Settings
from pipelines.cli import app
from pipelines.commands.options import merge, model_name, shown_default, use_home
from pipelines.commands.run import run
from tests.support.command import call, is_one_sentence


def unset() -> dict[str, Any]:
    return dict.fromkeys(Settings.model_fields)


def test_every_setting_is_an_option_with_help() -> None:
    """Each field of the settings is an option of its name in its panel, with description and default as help."""
    [parameters] = [command.params for name, command in get_command(app).commands.items() if name == "run"]
    options = {parameter.name: parameter for parameter in parameters}
    for name, field in Settings.model_fields.items():
        option = options[name]
        assert f"--{name.replace('_', '-')}" in option.opts
        assert str(field.description) in option.help
        assert shown_default(name) in option.help
        assert option.rich_help_panel == OPTIONS[name].panel
        assert option.default is None


def test_the_help_shows_true_defaults() -> None:
    """What a command puts in the place of a default is in its help; an empty default has no words."""
    assert shown_default("model") == "the name of the source"
    assert "detected" in shown_default("task")
    assert [shown_default(name) for name in ("thaw", "trials", "force", "backbone", "option", "cache_budget")] == [
        *("searched", "20", "off", "", "", "50")
    ]


def test_the_help_shows_every_option() -> None:
    """`thawline run --help` lists the options and an example."""
    environment = {"COLUMNS": "200", "TERM": "dumb"}
    done = CliRunner().invoke(app, ["run", "--help"], env=environment)
    text = re.sub(r"\x1b\[[0-9;]*m", "", done.output)
    assert done.exit_code == 0
    assert all(f"--{name.replace('_', '-')}" in text for name in Settings.model_fields)
    assert "Example: thawline run photos/" in text


def test_the_command_takes_every_setting() -> None:
    """The command's signature names its options, so typer and readers see them."""
    assert set(Settings.model_fields) <= set(inspect.signature(run).parameters)


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    """A name in both has the command line's value; a name in one has that one's; dashes are as good as underscores."""
    config = tmp_path / "config.yaml"
    config.write_text("thaw: 1\nhead-epochs: 7\nresize: pad\ndeterministic: true\n")
    settings = merge({**unset(), "thaw": 3, "deterministic": False}, config, "photos")
    assert (settings.thaw, settings.head_epochs, settings.resize) == (3, 7, "pad")
    assert settings.deterministic is False


def test_what_is_not_given_is_left_to_the_defaults() -> None:
    """Without options the settings are the defaults, and the searched ones are open."""
    settings = merge(unset(), None, "photos")
    assert settings == Settings(model="photos")
    assert settings.fixed() == {}


def test_a_task_has_a_recipe_for_what_is_not_given(tmp_path: Path) -> None:
    """Its settings hold where neither the command line nor the file says otherwise; other tasks have none."""
    config = tmp_path / "config.yaml"
    config.write_text("patience: 3\n")
    settings = merge({**unset(), "task": "recommendation", "thaw_epochs": 5}, config, "seen.csv")
    assert (settings.thaw_epochs, settings.patience) == (5, 3)
    recipe = task_sources.recipe("recommendation", tmp_path)
    assert {name: getattr(settings, name) for name in recipe} == {**recipe, "thaw_epochs": 5, "patience": 3}
    assert merge({**unset(), "task": "text"}, None, "seen.csv") == Settings(model="seen", task="text")


@pytest.mark.parametrize("name", sorted(Hyperparameters.model_fields))
def test_a_given_searched_option_is_fixed(name: str) -> None:
    """A searched option that is given, its default value included, is fixed in the search."""
    value = Hyperparameters.model_fields[name].default
    assert merge({**unset(), name: value}, None, "photos").fixed() == {name: value}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("photos", "photos"),
        ("data/photos/", "photos"),
        ("s3://bucket/weekly/photos/", "photos"),
        ("s3://bucket", "bucket"),
        ("weekly.csv", "weekly"),
        ("my photos (new)", "my-photos--new-"),
        ("long" * 30, "long" * 25),
        ("/", "thawline"),
    ],
)
def test_the_model_is_named_after_its_source(source: str, name: str) -> None:
    """The model's name is the last part of the source without suffix, in characters the registry takes."""
    assert model_name(source) == name
    assert merge(unset(), None, source).model == name


@pytest.mark.parametrize("source", [".", "./", "../here"])
def test_the_working_folder_has_a_name(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that is the working folder names the model after that folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert model_name(source) == "here"


def test_a_given_name_wins() -> None:
    """--model names the model whatever the source is called."""
    assert merge({**unset(), "model": "stamps"}, None, "photos").model == "stamps"


@pytest.mark.parametrize("name", ["dropout", "thaw", "batch_size", "max_rejected"])
def test_a_value_out_of_bounds_names_its_option(name: str) -> None:
    """A value that the settings refuse is an InputError that names the option as it is typed."""
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} can't be -1"):
        merge({**unset(), name: -1}, None, "photos")


def test_an_unknown_name_in_the_file_is_named(tmp_path: Path) -> None:
    """A name in the file that is no setting is refused and named, with its file."""
    config = tmp_path / "config.yaml"
    config.write_text("epochs: 3\n")
    with pytest.raises(InputError, match="There is no setting 'epochs' in .*config.yaml"):
        merge(unset(), config, "photos")


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    """A missing file and a folder are refused with the system's reason."""
    for path, reason in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=f"{re.escape(os.fspath(path))} can't be read: {reason}"):
            merge(unset(), path, "photos")


COMMANDS = ("run", "models", "promote", "rollback", "predict", "ui", "doctor")


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_that_talk_to_mlflow_take_its_server(name: str) -> None:
    command = get_command(app).commands[name]  # type: ignore[attr-defined]  # a group
    assert "--tracking-uri" in {option for p in command.params for option in p.opts}


def test_the_server_is_the_environment_of_what_follows(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option wins over the variable and becomes it; without the option the variable stays."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://variable:5000/")
    use_home(home)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://variable:5000"
    use_home(home, "http://option:5000")
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://option:5000"


def test_a_password_in_the_address_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By option or by variable: one sentence with status 2 that does not repeat it."""
    address = "http://me:private@127.0.0.1:5000"
    by_option = call(capsys, monkeypatch, "models", "--tracking-uri", address)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    for answer in (by_option, call(capsys, monkeypatch, "models")):
        assert answer.status == 2
        assert is_one_sentence(answer)
        assert "private" not in answer.out + answer.err


def test_the_page_of_a_server_is_where_it_is(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`thawline ui` names a server's own page, and starts no other."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    answer = call(capsys, monkeypatch, "ui", "--tracking-uri", "http://127.0.0.1:9")
    assert (answer.status, answer.err) == (0, "The tracking page is at http://127.0.0.1:9\n")


def test_a_silent_server_is_told_at_once(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    answer = call(capsys, monkeypatch, "models")
    assert answer.status == 2
    assert is_one_sentence(answer)
    assert "http://127.0.0.1:9 can't be reached" in answer.err
