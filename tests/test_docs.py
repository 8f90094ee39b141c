"""What the documents name exists: links, make targets, options, defaults, files."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@cache
def fences(page: Path) -> tuple[str, ...]:
    return tuple(FENCE.findall(page.read_text()))


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def code(page: Path) -> Iterator[str]:
    """Every line of code of a page, continued lines joined, and every span of code."""
    for fence in fences(page):
        yield from fence.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", prose(page))


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def options() -> dict[str, frozenset[str]]:
    """The options of every command of `thawline`."""
    from pipelines.cli import app

    group = typer.main.get_command(app)
    commands = group.commands  # type: ignore[attr-defined]  # a group, which typer types as a command
    return {
        name: frozenset(
            o
            for one in (command, *getattr(command, "commands", {}).values())  # `thawline cache` has commands of its own
            for p in one.params
            for o in (*p.opts, *p.secondary_opts)
        )
        | {"-h", "--help"}
        for name, command in commands.items()
    }


def unknown_in(line: str) -> list[str]:
    """What a line of code calls `thawline` with that is not there."""
    called = re.search(r"(?:^|[\s/])thawline ([a-z]\w*)\b(.*)", line)
    if called is None:
        if not re.match(r"--?[a-z]", line):
            return []
        known = frozenset().union(*options().values())
        return [name for name in re.findall(r"(?<![\w-])--[a-z-]+", line) if name not in known]
    command, rest = called[1], re.split(r"[|;>]", called[2])[0]
    if command not in options():
        return [command]
    return [name for name in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", rest) if name not in options()[command]]


def test_every_command_has_an_example() -> None:
    """The help of each command ends with a command line that it takes."""
    from pipelines.cli import app

    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        for one in getattr(command, "commands", {"": command}).values():
            examples = re.sub(r"^Examples?: ", "", one.epilog or "").split("; ")
            assert all(example.startswith(f"thawline {name}") for example in examples), (name, one.name)
            assert not [found for example in examples for found in unknown_in(example)], (name, one.name)


@by_page
def test_links_resolve(page: Path) -> None:
    """Every relative link of a page leads to a file, and to a heading of it where it names one."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@by_page
def test_make_targets_exist(page: Path) -> None:
    """Every make target that a page names is in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {found for line in code(page) for found in re.findall(r"(?:^|[\s`])make ([a-z-]+)", line)}
    assert named <= targets


@by_page
def test_commands_and_options_exist(page: Path) -> None:
    """Every command and option of `thawline` that a page names exists."""
    unknown = {line: found for line in code(page) if (found := unknown_in(line))}
    assert unknown == {}


def test_an_unknown_option_is_noticed() -> None:
    """The check above can fail: it knows which options belong to which command."""
    assert unknown_in(".venv/bin/thawline run photos --triasl 8 --thaw 2") == ["--triasl"]
    assert unknown_in("thawline predict --model stamps --trials 3 x.png | jq --raw-output .") == ["--trials"]
    assert unknown_in("thawline train photos") == ["train"]
    assert unknown_in("--no-such-option 3") == ["--no-such-option"]
    assert unknown_in("mlflow models serve --env-manager local") == []


def test_documented_defaults_are_the_defaults() -> None:
    """The defaults in the table of training options are those of the settings."""
    from components.core.settings import Hyperparameters, Settings

    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    defaults |= {name: field.default for name, field in Hyperparameters.model_fields.items()}
    page = (ROOT / "docs/training.md").read_text()
    rows = re.findall(r"^\| `--([a-z-]+)`( \*)? \| `?([^`|]+?)`? \|", page, re.MULTILINE)
    assert len(rows) > 15
    for name, starred, text in rows:
        default = defaults[name.replace("-", "_")]
        common = text.partition(";")[0]  # behind it stands the one of many rows
        assert (float(common) if not isinstance(default, str) else common) == default, name
        assert bool(starred) == (name.replace("-", "_") in Settings.SEARCHED), name


def test_config_example_names_settings() -> None:
    """Every name in the documented config file is a setting."""
    from components.core.settings import Settings

    example = next(fence for fence in fences(ROOT / "docs/training.md") if "small.yaml" in fence)
    names = re.findall(r"^([a-z-]+): ", example, re.MULTILINE)
    assert len(names) > 3
    assert {name.replace("-", "_") for name in names} <= Settings.model_fields.keys()


def source_tree() -> dict[str, str]:
    """Path and description of every entry of the source tree in the README."""
    (tree,) = [fence for fence in fences(ROOT / "README.md") if "├── cli.py" in fence]
    entries: dict[str, str] = {}
    folders: list[str] = []
    for line in tree.splitlines():
        found = re.fullmatch(r"((?:[│├└─ ]{4})*)(\S+)(?: +(.*))?", line)
        assert found is not None, line
        depth = len(found[1]) // 4
        path = "/".join([*folders[:depth], found[2].rstrip("/")])
        if found[2].endswith("/"):
            folders[depth:] = [found[2].rstrip("/")]
        entries[path] = found[3] or ""
    return entries


def test_source_tree_is_there() -> None:
    """Everything in the README's source tree exists, with a description."""
    for path, description in source_tree().items():
        assert list(ROOT.glob(path)), path
        assert description, path


def test_source_tree_is_complete() -> None:
    """Every package of components and pipelines is in the README's source tree; those inside one of core go with it."""
    folders = [ROOT / "components", ROOT / "components/core", ROOT / "pipelines"]
    packages = {path.parent.relative_to(ROOT).as_posix() for folder in folders for path in folder.glob("*/__init__.py")}
    assert packages <= source_tree().keys()


def test_every_step_is_in_the_picture_of_the_pipeline() -> None:
    """The README's picture of the DAG names every step, and nothing else."""
    (picture,) = [fence for fence in fences(ROOT / "README.md") if fence.startswith("exit handler")]
    named = set(re.findall(r"^[ │├└▸]*(?:exit handler ▸ )?(\w+)  ", picture, re.MULTILINE))
    assert named == {path.stem for path in (ROOT / "components").glob("[a-z]*.py")}


def test_the_template_of_a_task_is_the_file_that_runs() -> None:
    """The page on own tasks shows the template as it is tested, line by line."""
    template = (ROOT / "tests/fakes/smallest_task.py").read_text()
    assert template in fences(ROOT / "docs/own-task.md")
