"""The demo's photos, from a tree like the one in the package."""

import shutil
import stat
from pathlib import Path

import pytest

from components.core.errors import InputError
from pipelines.local import demo

STAMPS = "usr/share/tuxpaint/stamps"
PHOTOS = {
    "animals/birds/duck.png": "bird",
    "animals/birds/wild/crow.png": "bird",
    "food/fruit/apple.png": "food",
    "household/cup.png": "household",
    "hobbies/ball.png": "household",
    "animals/mammals/cat.png": "mammal",
    "animals/marsupials/koala.png": "mammal",
    "symbols/money/cent.png": "money",
    "plants/rose.png": "plant",
    "animals/fish/carp.png": "sea_or_insect",
    "animals/insects/bee.png": "sea_or_insect",
    "vehicles/bus.png": "vehicle",
    "military/vehicles/tank.png": "vehicle",
}
LEFT_OUT = (
    "animals/birds/duck_mirror.png",
    "animals/birds/cartoon/tux.png",
    "animals/birds/duck.txt",
    "clothes/hat.png",
    "symbols/letters/a.png",
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree like the unpacked package's, in its place."""
    root = tmp_path / "package"
    for name in (*PHOTOS, *LEFT_OUT):
        path = root / STAMPS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.setattr(demo, "extract", lambda _package, _folder: root)
    return root


def taken(target: Path) -> dict[str, str]:
    """The class of each photo by what it holds."""
    return {path.read_text(): path.parent.name for path in target.glob("*/*")}


def test_photos_are_sorted_into_classes(package: Path, tmp_path: Path) -> None:
    """Each photo lies in its class; mirrored copies, cartoons, texts and other folders are left out."""
    assert demo.fetch_demo(tmp_path / "demo") == len(PHOTOS)
    assert taken(tmp_path / "demo") == PHOTOS


def test_names_keep_their_folders(package: Path, tmp_path: Path) -> None:
    """Two photos of the same name in different folders both stay."""
    for folder in ("wild", "farm"):
        path = package / STAMPS / "animals/birds" / folder / "goose.png"
        path.parent.mkdir(exist_ok=True)
        path.write_text(folder)
    demo.fetch_demo(tmp_path / "demo")
    names = {path.name for path in (tmp_path / "demo/bird").glob("*goose.png")}
    assert names == {"animals-birds-wild-goose.png", "animals-birds-farm-goose.png"}


def test_a_second_call_fetches_nothing(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos that are there are counted, not fetched again."""
    demo.fetch_demo(tmp_path / "demo")

    def refuse(_folder: Path) -> Path:
        raise AssertionError

    monkeypatch.setattr(demo, "extract", refuse)
    assert demo.fetch_demo(tmp_path / "demo") == len(PHOTOS)


def test_a_failure_leaves_nothing_half_done(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure in the middle the folder is absent, and the next call makes it complete."""
    copies: list[Path] = []
    real = shutil.copy

    def fail_at_the_fifth(source: Path, target: Path) -> None:
        copies.append(target)
        if len(copies) == 5:
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy", fail_at_the_fifth)
        with pytest.raises(OSError, match="No space left"):
            demo.fetch_demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
    assert demo.fetch_demo(tmp_path / "demo") == len(PHOTOS)
    assert taken(tmp_path / "demo") == PHOTOS


def test_without_apt_the_error_is_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no apt-get the error names the package and another way."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="tuxpaint-stamps-default.*no apt-get.*folder of your own"):
        demo.fetch_demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_a_failed_fetch_tells_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package can't be fetched, also after an update of the lists, the error says what apt said."""
    calls = tmp_path / "calls"
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("apt-get", "dpkg-deb"):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\necho "{name} $1" >> {calls}\necho "E: no such package" >&2\nexit 100\n')
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    with pytest.raises(InputError, match="could not be fetched \\(E: no such package\\).*apt-get update"):
        demo.fetch_demo(tmp_path / "demo")
    assert calls.read_text().splitlines() == ["apt-get download", "apt-get update", "apt-get download"]
