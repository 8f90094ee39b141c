"""The config file: what is read, and what `thawline init` writes."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from components.core.errors import InputError
from components.core.settings import Settings
from pipelines.cli import app
from pipelines.commands.options import merge, merge_cluster
from pipelines.terminal.config_file import read_config, text_of


def active(text: str) -> str:
    """A written config file with the # of every setting removed."""
    names = "|".join(name.replace("_", "-") for name in Settings.model_fields)
    return re.sub(rf"^# ({names}):(?= (?!.* .*\.$)|$)", r"\1:", text, flags=re.MULTILINE)


def test_every_setting_is_written_with_its_default() -> None:
    """With every # removed the file has all settings and no other, and what it gives is what is not given anyway."""
    values = yaml.safe_load(active(text_of({}, "thawline.yaml")))
    assert {name.replace("-", "_") for name in values} == set(Settings.model_fields)
    given = {name.replace("-", "_"): value for name, value in values.items() if value is not None}
    assert Settings.model_validate(given) == Settings()


def test_the_written_file_changes_nothing(tmp_path: Path) -> None:
    """As it is written the file gives no setting, and neither does a name without a value."""
    config = tmp_path / "thawline.yaml"
    assert CliRunner().invoke(app, ["init", str(config)]).exit_code == 0
    assert read_config(config) == {}
    config.write_text("thaw:\ntrials: 3\n")
    assert read_config(config) == {"trials": 3}


def test_given_values_are_written_as_values() -> None:
    """What is given is no comment, and reads back as it was."""
    given: dict[str, Any] = {"trials": 0, "option": {"units": "words"}, "split_salt": "1", "weights": "s3://a/b.pth"}
    found = yaml.safe_load(text_of(given, "FILE"))
    assert {name.replace("-", "_"): value for name, value in found.items()} == given


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    """`init` refuses a file that is there, and leaves it as it is."""
    config = tmp_path / "thawline.yaml"
    config.write_text("trials: 3\n")
    result = CliRunner().invoke(app, ["init", str(config)])
    assert isinstance(result.exception, InputError)
    assert config.read_text() == "trials: 3\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("trials: 3\n\npatience: soon\n", "In FILE, line 3, patience can't be 'soon': "),
        ("trials: 3\npatienec: 4\n", "There is no setting 'patienec' in FILE, line 2. Did you mean patience?"),
        ("head-epochs: 4\nhead_epochs: 5\n", "FILE has head-epochs in the lines 1 and 2."),
        ("trials: 3\n - thaw: 4\n", "FILE, line 2 is not YAML: "),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, sentence: str, tmp_path: Path) -> None:
    """An error of the file says which line is meant."""
    config = tmp_path / "config.yaml"
    config.write_text(text)
    with pytest.raises(InputError) as refused:
        merge({}, config, "photos")
    assert str(refused.value).startswith(sentence.replace("FILE", str(config)))


def test_a_mistake_on_the_command_line_is_named_by_its_option(tmp_path: Path) -> None:
    """Where the command line overrides the file, its value is the one that is named."""
    config = tmp_path / "config.yaml"
    config.write_text("patience: 3\n")
    with pytest.raises(InputError, match="^--patience can't be 0"):
        merge({"patience": 0}, config, "photos")


def test_a_mistake_about_pods_is_named_with_its_line(tmp_path: Path) -> None:
    """The options of the pods are checked like the settings."""
    config = tmp_path / "config.yaml"
    config.write_text("\nretries: -1\n")
    with pytest.raises(InputError, match=r"In .*config.yaml, line 2, retries can't be -1"):
        merge_cluster({}, read_config(config), config)
