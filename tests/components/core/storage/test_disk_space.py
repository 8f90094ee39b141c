"""A full disk is one sentence: which folder, how much is free, how to go on."""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from components.core import run_folder
from components.core.settings import Settings
from components.core.storage import disk_space, home_folder
from components.core.tracking import runs
from components.core.tracking.service import connection
from tests.conftest import TOY, copy_store, use_home


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with a disk of its own of 12 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system takes more rights")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607 - Debian's, as above


def fill(folder: Path) -> None:
    """Leave no room on the disk of a folder."""
    with (folder / "other").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):  # noqa: PT012 - until
        while True:
            file.write(bytes(4096))


def copy(folder: Path) -> None:
    shutil.copytree(Path(__file__).parent, folder / "copy")


@pytest.mark.parametrize(
    "write",
    [
        copy,
        lambda folder: (folder / "file").write_text("x" * 9000),
        lambda folder: save_file({"a": torch.zeros(10_000)}, folder / "a.safetensors"),
        lambda folder: torch.save({"a": torch.zeros(10_000)}, folder / "a.pt"),
        lambda folder: pq.write_table(pa.table({"a": [*range(100_000)]}), folder / "a.parquet"),
    ],
    ids=["copy", "file", "safetensors", "torch", "parquet"],
)
def test_every_writer_names_the_full_disk(
    write: Callable[[Path], object], small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a library raises becomes the folder, its free space, and what to do."""
    monkeypatch.setenv("THAWLINE_HOME", str(small_disk))
    fill(small_disk)
    with pytest.raises(disk_space.FullDiskError) as error, disk_space.explained(home_folder.home):
        write(small_disk)
    assert error.value.sentence == f"The disk is full: 0 bytes are free in {small_disk}."
    assert "--home" in error.value.hint


def test_a_full_folder_of_temporary_files_is_named(
    small_disk: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told from the home, which has room, and so is its variable."""
    monkeypatch.setenv("TMPDIR", str(small_disk))
    monkeypatch.setattr(tempfile, "tempdir", None)
    home.mkdir()
    fill(small_disk)
    with pytest.raises(disk_space.FullDiskError, match=f"0 bytes are free in {small_disk}.*set TMPDIR") as error:  # noqa: SIM117
        with disk_space.explained(home_folder.home):
            (small_disk / "file").write_text("x" * 9000)
    assert error.value.kind == "failure"


def test_a_step_on_a_full_disk_is_closed_with_its_reason(
    small_disk: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The space kept in reserve lets MLflow take the step's end, and the run's folder its reason."""
    home = small_disk / "home"
    copy_store(store, home)
    use_home(home, monkeypatch)
    disk_space.reserve(home)
    with pytest.raises(disk_space.FullDiskError):  # noqa: PT012, SIM117 - what a step does
        with runs.step("fine_tune", "key", Settings(**TOY).to_json()) as run:
            fill(small_disk)
            (small_disk / "file").write_text("x" * 9000)
    assert connection.client().get_run(run.run_id).info.status == "FAILED"
    assert "The disk is full" in run_folder.read_errors("key")["fine_tune"]["sentence"]
    assert not (home / disk_space.RESERVE).exists()


def test_what_does_not_fit_is_refused_before_it_is_begun(home: Path, tmp_path: Path) -> None:
    """Folders on one disk share its room; the sentence has what is needed and what there is."""
    free = shutil.disk_usage(tmp_path).free
    disk_space.check(home, {home: 1.0, tmp_path: 1.0}, "The checkpoint")
    with pytest.raises(disk_space.FullDiskError, match=r"^The checkpoint needs .* are free in .*temporary"):
        disk_space.check(home, {home: 0.6 * free, tmp_path / "temporary": 0.6 * free}, "The checkpoint")


def test_a_home_without_room_for_the_reserve_is_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that could not be closed is not begun."""
    monkeypatch.setenv("THAWLINE_HOME", str(small_disk))
    fill(small_disk)
    with pytest.raises(disk_space.FullDiskError, match="The disk is full"), disk_space.explained(home_folder.home):
        disk_space.reserve(small_disk)
    assert not (small_disk / disk_space.RESERVE).exists()


def test_other_errors_are_not_blamed_on_the_disk(home: Path) -> None:
    """They pass as they are."""
    with pytest.raises(PermissionError), disk_space.explained(home_folder.home):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
