"""The help of commands."""

import re
from typing import get_args

import pytest
from typer.testing import CliRunner

from components.core.settings import Settings
from pipelines.cli import app
from tests.test_docs import ROOT, fences


def helped(*arguments: str, columns: int = 80, **environment: str) -> str:
    return CliRunner().invoke(app, [*arguments], env={"COLUMNS": str(columns), **environment}).output


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_no_value_is_cut(columns: int) -> None:
    """At any width an option is whole, its values too, and no line is longer than the terminal or 100 columns."""
    page = helped("run", "--help", columns=columns)
    assert "…" not in page.replace("s3://…", "")
    assert "package:efficientnet-lite0" in page
    assert f"--augment <{'|'.join(get_args(Settings.model_fields['augment'].annotation))}>" in page
    assert max(len(line) for line in page.splitlines()) <= min(columns, 100)


def test_an_option_stands_above_its_text() -> None:
    """The name has a line of its own, and the text is indented below it."""
    lines = [line.rstrip() for line in helped("run", "--help").splitlines()]
    place = lines.index("  --hidden <number>")
    assert lines[place + 1] == " " * 10 + "Width of the mlp head. (default: 512)"


def test_the_short_help_is_one_screen() -> None:
    """`run -h` shows about ten options, what is required, and where the others are, in 30 lines of 80 columns."""
    page = helped("run", "-h")
    assert len(page.splitlines()) <= 30
    shown = set(re.findall(r"^  (--[a-z-]+)", page, re.MULTILINE))
    assert {"--task", "--model", "--backbone", "--weights", "--trials", "--dry-run", "--config"} <= shown
    assert len(shown) <= 12
    assert "All options: root run --help" in page
    assert "--cron <text>" in helped("schedule", "create", "-h")


def test_a_short_command_has_one_help() -> None:
    """With few options `-h` and `--help` are the same."""
    assert helped("models", "-h") == helped("models", "--help")
    assert all(f"--{name}" not in helped("models", "-h") for name in Settings.SEARCHED)


def test_no_color_is_respected() -> None:
    """With NO_COLOR set the help has no colors, even where they are forced."""
    assert "\x1b[36m" in helped("models", "-h", FORCE_COLOR="1", TERM="xterm")
    assert "\x1b[36m" not in helped("models", "-h", FORCE_COLOR="1", TERM="xterm", NO_COLOR="1")


def test_the_version_is_printed() -> None:
    """`thawline --version` prints the version of the installed package."""
    assert re.fullmatch(r"thawline \d+\.\d+\.\d+\n", helped("--version"))


def test_a_number_with_bounds_is_a_number() -> None:
    """An option's kind is a word for people; its default and its bounds stand behind its text, in words too."""
    page = helped("serve", "--help", columns=100)
    assert "--port <number>" in page
    assert "Port; 0: a free one. (default: 8080; 0 to 65535)" in page
    assert "Maximum records in a request. (default: 256; at least 1)" in page
    assert "the default alias is champion. (required)" in page
    assert "every network of this machine. (default: 127.0.0.1)" in page
    assert "Label to explain. (default: the most probable one)" in helped("explain", "--help")
    pods = " ".join(helped("compile", "--help").split())
    assert "which share a study in a database. (default: 1; at least 1)" in pods
    assert "does not answer; 0: none. (default: 10)" in pods


def test_a_default_is_shown_by_what_it_means() -> None:
    """In the short help, 0 minutes are no limit."""
    assert "so far (default: no limit)" in " ".join(helped("run", "-h").split())


def test_each_of_several_examples_has_a_line() -> None:
    """It can be copied as it stands."""
    lines = helped("ui", "--help").strip().splitlines()
    place = lines.index("Examples:")
    commands = ["thawline ui", "thawline ui stamps --port 5001", "thawline ui --home /data/thawline"]
    assert lines[place + 1 :] == [f"  {command}" for command in commands]


def test_the_shell_completes_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bash gets the options that begin as the word does."""
    words = {"_ROOT_COMPLETE": "complete_bash", "COMP_WORDS": "root run --gate-m", "COMP_CWORD": "2"}
    result = CliRunner().invoke(app, [], env=words, prog_name="root")
    assert set(result.output.split()) == {"--gate-metric", "--gate-margin"}


def test_the_page_shows_the_help_as_it_is() -> None:
    """The documentation has the short help of `run` line by line."""
    page = CliRunner().invoke(app, ["run", "-h"], env={"COLUMNS": "80"}, prog_name="thawline").output
    (shown,) = [fence for fence in fences(ROOT / "docs/command-line.md") if fence.startswith("Run the whole pipeline")]
    assert shown.strip() == page.strip()
