"""Every command in a fence of the README, CONTRIBUTING and docs/: parsed by the real command line, or run.

At first each line is taken apart without running it: one of `thawline` is parsed by the command line itself, values of
settings included; targets of make, modules of `python -m`, and files of this repository must exist; every other program
is named in `OTHERS`. What needs no training and no server is then run in a folder like the one that the pages speak of.
Runs of the DAG on the pages' data are tests of their own (`tests/pipelines/test_*.py`, `tests/test_site.py`).
"""

import importlib.util
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from tests.support.command import call
from tests.support.plain import PlainRun
from tests.test_docs import FENCE, PAGES, ROOT, by_page, prose

OWN = ("thawline", "make", "python", "torchrun", "mlflow")
OTHERS = {  # programs of others: their lines are not parsed, files of the repository in them must exist
    "curl": "asks a server",
    "kubectl": "speaks to a cluster",
    "docker": "needs an engine; tests/docker runs the compose file and the image",
    "createdb": "needs Postgres; tests/pipelines/test_services.py has one",
    "base64": "of coreutils",
    "sha256sum": "of coreutils",
    "ls": "of coreutils",
    "tail": "of coreutils",
    "cat": "of coreutils",
    "cd": "of the shell",
    "echo": "of the shell",
    "cp": "of coreutils",
    "sed": "standard",
    "jq": "not needed by Thawline",
    "source": "of the shell",
    "export": "of the shell",
    "for": "of the shell",
    "done": "of the shell",
    "pre-commit": "runs ruff and mypy",
    "git": "version control",
}
# Made by the line itself, or by a worked example.
MADE = ("docker/.env", "docker/torch-cpu.txt", "tests/components/tasks/test_point_classification.py")


class Line(NamedTuple):
    """A command of a page."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def program(words: tuple[str, ...]) -> str:
    return Path(words[0]).name if words else ""


def commands_in(fence: str, page: str) -> Iterator[Line]:
    """The commands of a fence, those of a pipeline one by one, without assignments, redirections and comments."""
    text = re.sub(r"<<-?'?(\w+)'?(.*?)\n.*?\n *\1$", r"\2", fence.replace("\\\n", " "), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\d?>+ *(&\d|\S+)", "", re.sub(r"'[^'\n]*\n[^']*'", "''", text))
    for line in text.splitlines():
        line = re.sub(r"^(?:[\d*/]+ ){5}", "", line)  # noqa: PLW2901 - cron's times
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for token in [*lexer, ";"]:
            if token in ("|", ";", "&&", "||", "&", "done"):
                while words and re.fullmatch(r"\w+=.*|do", words[0]):
                    words.pop(0)
                if words:
                    yield Line(page, tuple(words))
                words = []
            else:
                words.append(token)


def is_command(fence: str) -> bool:
    """Whether a fence holds commands, and not what they print."""
    first = re.sub(r"^(#.*\n)*([\d*/]+ )*(\w+=\S+ )*", "", fence.lstrip()).split(maxsplit=1)
    return bool(first) and Path(first[0]).name in (*OWN, *OTHERS)


@cache
def lines() -> tuple[Line, ...]:
    """Every command of every page."""
    found = []
    for page in PAGES:
        for fence in FENCE.findall(page.read_text()):
            if is_command(fence):
                found += commands_in(fence, page.stem)
    return tuple(found)


@cache
def group() -> Any:
    from pipelines.cli import app

    return typer.main.get_command(app)


def parsed(words: list[str]) -> dict[str, Any]:
    """The options that `thawline` would be called with.

    Raises:
        typer.TyperException: It does not take them.
    """
    command, context = group(), group().make_context("thawline", ["-"], resilient_parsing=True)
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        if hasattr(command, "commands"):
            context = command.make_context(name, words[:1], parent=context)
        else:
            context = command.make_context(name, [*words], parent=context)
    return dict(context.params)


def check_thawline(words: list[str]) -> None:
    """Check a command line without running it, and the values of a run's settings."""
    from components.core.settings import Settings
    from pipelines.commands.options import merge

    if {"-h", "--help"} & set(words):
        assert words[0] in group().commands
        return
    given = parsed([*words])
    settings = {name: value for name, value in given.items() if name in Settings.model_fields}
    if "trials" in settings:  # the commands that take all of them
        merge(settings, None, str(given.get("source") or "photos"))


def check(line: Line) -> None:
    """Check a command without running it.

    Raises:
        AssertionError, typer.TyperException, InputError: It names what is not there.
    """
    words, name = [*line.words[1:]], program(line.words)
    if name == "thawline":
        check_thawline([word for word in words if not word.startswith((">", "2>"))])
    elif name == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in words if "=" not in word} <= targets
    elif name == "python" and words[:1] == ["-m"]:
        assert importlib.util.find_spec(words[1]), words[1]
    elif name == "python" and words[:1] == ["-c"]:
        compile(words[1], str(line), "exec")
    else:
        assert name in (*OWN, *OTHERS), name
    assert not (gone := [word for word in words if not is_there(word)]), gone


def is_there(word: str) -> bool:
    """Whether a word is no path of this repository, or one that exists."""
    path = word.partition("::")[0].removeprefix("@")
    if path in MADE or not re.match(r"(docker|tests|docs|components|pipelines)/[\w./-]+$", path):
        return True
    return (ROOT / path).exists()


def test_every_command_is_one_that_the_programs_take() -> None:
    """Options, values, make targets, modules and files of all commands in the pages exist."""
    assert len(lines()) > 120
    wrong = []
    for line in lines():
        try:
            check(line)
        except Exception as error:  # noqa: BLE001 - all of them are listed
            wrong.append(f"{line}\n    {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


@by_page
def test_files_that_the_text_names_exist(page: Path) -> None:
    """Paths of this repository in spans of code are there, those of tests and modules among them."""
    spans = re.findall(r"`([^`\n]+)`", prose(page))
    named = {word for span in spans for word in span.split() if not re.search(r"NAME|[*<…]", word)}
    assert {word for word in named if not is_there(word)} == set()
    modules = {found for span in spans for found in re.findall(r"python -m ([\w.]+)", span) if found != "MODULE"}
    assert {name for name in modules if importlib.util.find_spec(name) is None} == set()


@pytest.mark.parametrize(
    "text",
    [
        "thawline run photos --triasl 8",
        "thawline run photos --trials many",
        "thawline run photos --optimizer sgdm",
        "thawline cache prune --max-tb 1",
        "thawline promote --model stamps",
        "thawline train photos",
        "make everything",
        "python -m tests.data.gone",
        "python -m pytest tests/test_gone.py",
        "docker compose -f docker/gone.yaml up",
        "wget http://127.0.0.1",
    ],
)
def test_what_does_not_exist_is_noticed(text: str) -> None:
    """The check can fail: at an option, a value, a missing argument, a command, a target, a module, a file."""
    (line,) = commands_in(text, "page")
    with pytest.raises(Exception, match=r"."):
        check(line)


# Run in the folder below, on a toy in place of the pages' models. The other commands are parsed only: they train, need
# a server, a cluster or a model of pictures, or move the champion. Their own tests run them.
RUN = ("cache", "doctor", "init", "labels", "models", "predict", "export", "report", "status")
NOT_RUN = {
    ("doctor", "--cluster"): "needs a cluster",
    ("labels", "accept"): "needs a changed label",
    ("predict", "--draw"): "needs a detector",
    ("predict", "voices"): "needs a model of sounds",
    ("predict", "speech"): "as above",
    ("predict", "fortunes"): "needs a model of texts",
    ("predict", "shop"): "needs a recommender",
    ("status", "--prometheus-file"): "writes outside of this folder",
}


def is_run(line: Line) -> bool:
    words = line.words[1:]
    return (
        program(line.words) == "thawline"
        and words[0] in RUN
        and not any(words[0] == command and word in words for command, word in NOT_RUN)
    )


@pytest.mark.slow
def test_commands_that_need_no_training_run(
    three_versions: PlainRun,
    toy_source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of them ends with status 0, on a model of points in place of the pages' pictures."""
    monkeypatch.chdir(tmp_path)
    points = sorted(toy_source.rglob("*.txt"))
    pictures = ("crow.png", "photos/a.png", "photos/b.png", "vehicles/tram.png", ".thawline/demo/stamps/bird/crow.png")
    for name in pictures:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(points[0], tmp_path / name)
    chosen = [line for line in lines() if is_run(line)]
    assert {line.words[1] for line in chosen} == set(RUN)
    failed = []
    for line in sorted(chosen, key=lambda line: "prune" in line.words):  # what empties the store comes last
        words = ["toy" if word in ("stamps", "photos", "birds") else word for word in line.words[1:]]
        words = [name for word in words for name in ([*map(str, tmp_path.glob(word))] if "*" in word else [word])]
        answer = call(capsys, monkeypatch, *words)
        if answer.status:
            failed.append(f"{line}\n    {answer.err}")
    assert not failed, "\n".join(failed)
    assert all((tmp_path / name).stat().st_size for name in ("answers.parquet", "stamps.onnx", "weekly.yaml"))


def write_sources(folder: Path) -> None:
    """The sources and files that the pages speak of, as small as they may be."""
    from PIL import Image

    for number, name in enumerate(("bird/crow", "bird/heron", "vehicle/tram", "vehicle/bus")):
        for place in ("photos", "stamps"):
            (folder / place / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(folder / place / f"{name}.png")
    spoken, pasted = folder / ".thawline/demo/spoken", folder / ".thawline/demo/pasted"
    for place in (spoken, pasted, folder / "measured", folder / "far"):
        place.mkdir(parents=True)
    sounds = "uri,label\na.ogg,a\nb.ogg,b\n"
    texts = "text,label\nGood,a\nBad,b\n"
    taps = "user,item,time\n1,2,3\n1,4,5\n"
    box = '{{"uri": "{0}.png", "label": [{{"label": "{0}", "box": [0, 0, 4, 4]}}]}}\n'
    tags = '{{"uri": "../photos/{0}.png", "label": ["{1}"]}}\n'
    files = {
        "photos.csv": "uri,label\nphotos/bird/crow.png,bird\nphotos/vehicle/tram.png,vehicle\n",
        "fortunes.csv": texts,
        "snippets.csv": texts,
        "interactions.csv": taps,
        "ml-100k.csv": taps,
        "far/points.csv": 'text,label\n"1,2",3\n"1,3",4\n',
        "measured/tags.jsonl": tags.format("bird/crow", "bird") + tags.format("vehicle/bus", "vehicle"),
        "small.yaml": "trials: 0\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (spoken / "voices.csv").write_text(sounds)
    (spoken / "speech.csv").write_text(sounds)
    (pasted / "boxes.jsonl").write_text(box.format("a") + box.format("b"))
    for name in ("resnet18.pth", "resnet50.pth", str(spoken / "speaker.pt"), "assignments.parquet"):
        (folder / name).touch()


@pytest.mark.slow
def test_runs_would_start(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each `thawline run` of the pages on local data would begin: its source, task, network and settings are in order.

    They are asked with `--dry-run` in a new home, where nothing is loaded and nothing was trained before.
    """
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_sources(folder)
    call(capsys, monkeypatch, "init", "weekly.yaml")
    failed, asked = [], 0
    for line in lines():
        words = [word for word in line.words[1:] if word != "--dry-run"]
        if program(line.words) != "thawline" or words[0] != "run" or "-h" in words or "s3://" in words[1]:
            continue
        asked += 1
        answer = call(capsys, monkeypatch, *words, "--dry-run", "--home", str(tmp_path / "home"))
        if answer.status or not re.search('Would train: |"change": "train"', answer.out):
            failed.append(f"{line}\n    {answer.out}{answer.err}")
    assert asked > 30
    assert not failed, "\n".join(failed)
