"""Every command in a fence of the README, CONTRIBUTING and docs/: parsed by the real command line, or run.

At first each line is taken apart without running it: one of `thawline` is parsed by the command line itself, values of
settings included; targets of make, modules of `python -m`, and files of this repository must exist; every other program
is named in `OTHERS`. What needs no training and no server is then run in a folder like the one that the pages speak of.
Each other command has the test that runs it (`ELSEWHERE`), or the reason why none does (`NOT_RUN`).
"""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
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
    "uv": "installs packages",
    "touch": "of coreutils",
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


# Run below on a toy in place of the pages' models; `thawline run` on local data is asked what it would do.
RUN = ("cache", "doctor", "init", "labels", "models", "predict", "export", "report", "status")
PAGES_ON_PHOTOS = "tests/pipelines/test_pages_on_photos.py"
# Where the other commands are run as they stand, or what they do is, by a pattern of page and command.
ELSEWHERE = {
    r"(README|quick-start): make run": "tests/pipelines/test_photos.py",
    r"(README|CONTRIBUTING): make (install|test|check|test-slow|docs)": ".ci/run",
    r"CONTRIBUTING: \S*python -m pytest": "tests/test_contributing.py",
    r"(quick-start|predict-and-serve|serving): (source|export|mlflow|base64|jq|curl)": PAGES_ON_PHOTOS,
    r"backbones: python -$": PAGES_ON_PHOTOS,
    r"(quick-start|serving): thawline serve|predict-and-serve: thawline explain crow": PAGES_ON_PHOTOS,
    r"quick-start: thawline ui": "tests/pipelines/commands/test_tracking_pages.py",
    r"predict-and-serve: thawline explain --text": "tests/pipelines/predictions/test_explanation.py",
    r"\S+: thawline (promote|rollback)": "tests/pipelines/commands/models/test_promotion.py",
    r"your-data: thawline labels accept": "tests/pipelines/commands/models/test_labels.py",
    r"notifications: thawline status --prom": "tests/pipelines/commands/test_status.py",
    r"weekly: (cd|echo|\S*thawline)": "tests/test_site.py",
    r"(audio|speech): (python -m tests.data.spoken|thawline predict)": "tests/pipelines/test_spoken.py",
    r"text: (python -m tests.data.fortunes|thawline predict)": "tests/pipelines/test_fortunes.py",
    r"targets: python -m tests.data.measured_photos": "tests/pipelines/test_targets.py",
    r"object-detection: thawline predict --model pasted --draw": "tests/components/tasks/test_object_detection.py",
    r"recommendation: thawline predict": "tests/components/tasks/test_recommendation.py",
    r"recommendation: thawline pretrain": "tests/pipelines/commands/test_pretrain.py",
    r"multi-gpu: torchrun": "tests/components/core/machine/test_torchrun.py",
    r"resume: python -m tests.faults.kills": "tests/faults/test_kills.py",
    r"image: (make image|docker run|python -m tests.services)": "tests/docker/test_image.py",
    r"server: (cp|docker|export)": "tests/docker/test_compose.py",
    r"services: (export|createdb|cat|mlflow|curl|thawline run)": "tests/pipelines/test_services.py",
    r"your-data: (export|thawline run s3:)": "tests/pipelines/test_services.py",
}
NOT_RUN = {  # with the reason
    r"\S+: thawline (submit|schedule)": "needs a cluster; tests/pipelines/kubeflow speaks with a fake one",
    r"\S+: thawline doctor --cluster": "as above",
    r"kubeflow: export": "the address of a cluster",
    r"quick-start: (uv|touch)": "installs gigabytes; `make install` does by pip, from the same lock",
    r"\S+: kubectl": "needs a cluster; tests/docker checks the manifests",
    r"image: make lock-image": "asks an index of packages for the versions of a day",
    r"notifications: export": "the address of a webhook; tests/components/core/reporting/test_webhook.py has one",
    r"backbones: python -c": "downloads 100 MB of weights",
    r"object-detection: python -m": "reads a package of icons, and pastes 2,000 pictures",
    r"text: python -m tests.data.snippets": "reads 100 MB of this machine's documentation",
    r"serving: python -m tests.benchmarks": "measures, for minutes, servers that are not installed here",
    r"skipping: python -c": "ends a run on the server of a team",
    r"training: (for|cat|sha256sum|thawline run photos --home)": "trains twice; test_phase.py does, to the same bits",
    r"your-data: python -c": "reads the list of a run whose records were rejected; test_prepare_data.py does",
    r"results: jq": "a result's keys; tests/pipelines/test_cli.py reads them",
    r"troubleshooting: (ls|tail)": "lists a folder",
}


def place(line: Line, table: dict[str, str]) -> str:
    """What a table says of a line; nothing if it does not name it."""
    return next((said for pattern, said in table.items() if re.match(pattern, str(line))), "")


def is_run(line: Line) -> bool:
    return program(line.words) == "thawline" and line.words[1] in RUN and not place(line, ELSEWHERE | NOT_RUN)


def is_asked(line: Line) -> bool:
    """Whether it is a run on local data that the pages have."""
    words = line.words[1:]
    return program(line.words) == "thawline" and words[0] == "run" and "-h" not in words and "s3://" not in words[1]


def test_every_command_is_run_or_says_why_not() -> None:
    """A command of a page is run by a test, or has its reason; both tables name only what is there."""
    own = [line for line in lines() if not (is_run(line) or is_asked(line) or is_exercised(line))]
    assert [str(line) for line in own if not place(line, ELSEWHERE | NOT_RUN)] == []
    assert {path for path in ELSEWHERE.values() if not (ROOT / path).exists()} == set()
    idle = [pattern for pattern in ELSEWHERE | NOT_RUN if not any(re.match(pattern, str(line)) for line in lines())]
    assert idle == []


def is_exercised(line: Line) -> bool:
    """Whether the test of runs that would start calls it on the way: what makes their sources and files."""
    return line.page in ("own-task", "command-line") and program(line.words) in ("python", "sed", "thawline")


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
    for place in (spoken, pasted, folder / "measured"):
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
    for line in lines():
        if is_exercised(line) and program(line.words) != "thawline":  # as a shell would, without one
            program_ = sys.executable if program(line.words) == "python" else "/bin/sed"
            subprocess.run([program_, *line.words[1:]], check=True, env={"PYTHONPATH": str(ROOT)})
    assert "\ntrials: 8\n" in (folder / "weekly.yaml").read_text()
    failed, asked = [], 0
    for line in filter(is_asked, lines()):
        words = [word for word in line.words[1:] if word != "--dry-run"]
        asked += 1
        answer = call(capsys, monkeypatch, *words, "--dry-run", "--home", str(tmp_path / "home"))
        if answer.status or not re.search('Would train: |"change": "train"', answer.out):
            failed.append(f"{line}\n    {answer.out}{answer.err}")
    assert asked > 30
    assert not failed, "\n".join(failed)
