"""The documentation's site, and what its pages tell a machine to do every week."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.command import COMMAND
from tests.support.plain import PlainRun
from tests.test_docs import ROOT, fences

PAGE = ROOT / "docs/weekly.md"


def collected(folder: Path) -> Path:
    """The pages of the site."""
    subprocess.run([sys.executable, ROOT / "docs/site.py", folder], check=True, cwd=ROOT)
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Every page is in the navigation, every link of the site leads to a page and a heading, and it can be searched."""
    pages = collected(tmp_path / "pages")
    text = (
        (ROOT / "mkdocs.yml")
        .read_text()
        .replace("build/pages", str(pages))
        .replace("build/site", str(tmp_path / "site"))
    )
    config = tmp_path / "mkdocs.yml"
    config.write_text(text.replace("build/site", str(tmp_path / "site")))
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config)]
    answer = subprocess.run(call, check=False, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "site/search/search_index.json").stat().st_size > 100_000
    index = (tmp_path / "site/index.html").read_text()
    assert "https://" not in re.sub(r"<a [^>]*>", "", index)  # it fetches nothing from elsewhere
    assert 'id="thawline-schedule-create"' in (tmp_path / "site/commands.html").read_text()


def test_every_page_is_in_the_navigation() -> None:
    """A new page of the documentation has a place in the site."""
    text = re.sub(r"!!python\S*", "", (ROOT / "mkdocs.yml").read_text())
    named = {
        page
        for group in yaml.safe_load(text)["nav"]
        for part in group.values()
        for one in part
        for page in one.values()
    }
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.ipynb")]
    assert {path.with_suffix(".md").name for path in pages} == named - {
        "index.md",
        "commands.md",
        "contributing.md",
        "changelog.md",
    }


def test_a_link_to_a_source_file_becomes_its_path(tmp_path: Path) -> None:
    """Pages of the site link to one another, show pictures, and name what only the repository has."""
    pages = collected(tmp_path / "pages")
    assert "(your-data.md)" in (pages / "index.md").read_text()
    assert "(thaw-line.svg)" in (pages / "index.md").read_text()
    assert (pages / "thaw-line.svg").exists()
    assert "`components/core/compute/allocator.py`" in (pages / "benchmarks.md").read_text()
    assert "```python\nimport thawline" in (pages / "look-inside.md").read_text()  # the notebook
    assert "](../" not in "".join(path.read_text() for path in pages.glob("*.md"))


def lines_of_cron() -> list[str]:
    """The lines that the page on weekly runs gives to cron, without comments."""
    return [line for fence in fences(PAGE) for line in fence.splitlines() if re.match(r"\d+ \d+ [*\d]", line)]


@pytest.fixture
def place(toy_home: PlainRun, toy_source: Path, tmp_path: Path) -> Path:
    """A folder like the page's: a source, an environment with the command, and a model that was trained before."""
    folder = tmp_path / "srv"
    shutil.copytree(toy_source, folder / "photos")
    (tmp_path / "home").rename(folder / ".thawline")
    chosen = toy_home.settings.model_dump(exclude_defaults=True)
    toy = shlex.join(word for name, value in chosen.items() for word in (f"--{name.replace('_', '-')}", str(value)))
    command = folder / ".venv/bin/thawline"  # the toy's task and model in place of the default task's
    command.parent.mkdir(parents=True)
    command.write_text(
        f"""#!/bin/sh
export PYTHONPATH={ROOT}
case $1 in
run) shift; set -- run "$@" {toy};;
status) shift 2; set -- status toy "$@";;
esac
exec {shlex.quote(COMMAND)} "$@"
"""
    )
    command.chmod(0o755)
    return folder


def as_cron(command: str, place: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command as cron does: from the home folder, with little in its environment."""
    return subprocess.run(
        ["/bin/sh", "-c", command.replace("/srv/stamps", str(place))],
        check=False,
        capture_output=True,
        text=True,
        cwd=place.parent,
        env={"HOME": str(place.parent), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"},
    )


@pytest.mark.slow
def test_the_lines_for_cron_run(place: Path) -> None:
    """Cron's line runs the pipeline and appends its result; the second line reports a model that has become stale."""
    run, status = (line.split(maxsplit=5)[5] for line in lines_of_cron())
    answer = as_cron(run, place)
    assert answer.returncode == 0, (place / "runs.log").read_text()
    assert json.loads((place / "runs.jsonl").read_text())["status"] == "skipped"
    answer = as_cron(status, place)
    assert (answer.returncode, "is stale" in answer.stdout) == (0, False)
    answer = as_cron(status.replace("8d", "0m"), place)
    assert answer.stdout.endswith("photos is stale\n")


@pytest.mark.slow
def test_the_units_for_systemd_are_valid(place: Path) -> None:
    """Both units of systemd have no unknown setting or bad time, and the service's command runs."""
    units = [fence for fence in fences(PAGE) if "Description=" in fence]
    names = [unit.splitlines()[0].removeprefix("# ") for unit in units]
    assert names == ["thawline-photos.service", "thawline-photos.timer"]
    for name, unit in zip(names, units, strict=True):
        (place / name).write_text(unit.replace("/srv/stamps", str(place)))
    if analyze := shutil.which("systemd-analyze"):
        checked = subprocess.run(
            [analyze, "verify", "--man=no", *names], check=False, capture_output=True, text=True, cwd=place
        )
        assert not [line for line in checked.stderr.splitlines() if "thawline-photos" in line], checked.stderr
        assert checked.returncode == 0, checked.stderr
    service = (place / names[0]).read_text()
    command = re.search(r"^ExecStart=(.*)$", service, re.MULTILINE)
    assert command is not None
    assert as_cron(f"cd {place} && {command[1]}", place).returncode == 0
