"""The locks of the images say the same as requirements.lock and pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.command import ROOT

LOCKS = sorted({path.name for path in (ROOT / "docker").glob("*.txt")} - {"torch-cpu.txt"})  # not of this index
LOGIN = {"flask-wtf", "wtforms"}  # the server's own
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(lock: Path) -> dict[str, set[str]]:
    """The versions of every package of a lock; a package may have one for each Python."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_an_image_has_the_versions_of_the_lock(name: str) -> None:
    """What CI tests is what the image holds."""
    whole, image = pins(ROOT / "requirements.lock"), pins(ROOT / "docker" / name)
    assert image
    assert {package for package in image if image[package] != whole.get(package)} <= LOGIN


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_hashes(name: str) -> None:
    """No line of a lock is without a hash, so pip takes nothing else."""
    blocks = re.split(r"\n(?=\S)", (ROOT / "docker" / name).read_text().strip())
    assert [block for block in blocks if "--hash=sha256:" not in block] == []


def test_the_steps_image_has_every_dependency() -> None:
    """All of pyproject.toml's dependencies are there, and nothing that only developing or the demo needs."""
    image = pins(ROOT / "docker" / "torch-cuda.txt") | pins(ROOT / "docker" / "requirements.txt")
    needed = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert needed <= image.keys()
    extras = PROJECT["optional-dependencies"]
    spared = {canonicalize_name(Requirement(text).name) for extra in ("dev", "demo") for text in extras[extra]}
    # PyTorch itself needs setuptools
    assert spared & image.keys() <= needed | {"setuptools"}


def test_every_group_of_a_task_has_a_lock() -> None:
    """A group that a task brings into pyproject.toml is named in the Makefile and locked for the image."""
    groups = PROJECT["optional-dependencies"].keys() - {"dev", "demo"}
    (line,) = re.findall(r"^TASKS :=(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(line.split()) == groups
    assert all((ROOT / "docker" / f"requirements-{group}.txt").exists() for group in groups)


def test_no_file_of_an_image_names_a_package_index() -> None:
    """Which index packages come from is the builder's to say, never the repository's."""
    for path in (ROOT / "docker").glob("*"):
        if path.is_file() and path.name != ".env":
            assert not re.search(r"https?://(?!127\.0\.0\.1|s3:|localhost)", path.read_text()), path.name
