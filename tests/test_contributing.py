"""The worked examples of CONTRIBUTING.md apply to the present code, and pass their own tests."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COPIED = ("components", "pipelines", "thawline", "tests", "docs")


class Example(NamedTuple):
    """A patch, and the command that tests it."""

    patch: str
    command: list[str]


def examples() -> dict[str, Example]:
    """The examples by their headings: each a fence with a patch, then one with a command."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    (section,) = re.findall(r"^## Worked examples\n(.*?)^## ", page, re.DOTALL | re.MULTILINE)
    found = {}
    for part in re.split(r"^### ", section, flags=re.MULTILINE)[1:]:
        (language, patch), (_, command) = FENCE.findall(part)
        assert language == "diff"
        found[part.splitlines()[0]] = Example(patch, shlex.split(command))
    return found


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the source tree."""
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def succeed(command: list[str], folder: Path) -> str:
    done = run(command, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def apply(example: Example, folder: Path) -> None:
    """Apply a patch as a reader does."""
    succeed(["git", "init", "-q"], folder)  # else `git apply` skips files in silence below another checkout
    (folder / "example.diff").write_text(example.patch)
    succeed(["git", "apply", "example.diff"], folder)


def test_there_is_an_example_of_each_kind() -> None:
    """The page shows how to add an option, an augmentation, a metric and a task."""
    assert {*examples()} == {"An option", "An augmentation", "A metric", "A task"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "A task" else pytest.mark.slow) for name in examples()]
)
def test_an_example_applies(name: str, copy: Path) -> None:
    """The patch fits the present code, and leaves it formatted and without a lint error."""
    apply(examples()[name], copy)
    ruff = Path(sys.executable).with_name("ruff")
    succeed([str(ruff), "check", "--no-cache", *COPIED], copy)
    succeed([str(ruff), "format", "--check", "--no-cache", *COPIED], copy)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*examples()])
def test_an_example_works(name: str, copy: Path) -> None:
    """The patched code passes the test that the patch brings, and the test fails without the rest of the patch."""
    example = examples()[name]
    apply(example, copy)
    assert example.command[0] == ".venv/bin/python"
    command = [sys.executable, *example.command[1:]]
    assert re.search(r"\d+ passed", succeed(command, copy))
    for path in re.findall(r"^\+\+\+ b/((?:components|pipelines)/\S+)", example.patch, re.MULTILINE):
        original = ROOT / path
        if original.exists():
            shutil.copy(original, copy / path)
        else:
            (copy / path).unlink()
    assert run(command, copy).returncode != 0
