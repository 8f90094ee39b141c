"""Folders of the user's that files are copied to."""

from pathlib import Path

import pytest

from components.core.errors import InputError
from components.core.storage.output_folder import check_output, copy_files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a.json").write_text("{}")
    (folder / "b.bin").write_bytes(bytes(9))
    return folder


@pytest.mark.usefixtures("home")
def test_files_are_copied_into_a_new_folder(source: Path, tmp_path: Path) -> None:
    """The folder is made, with those above it, and holds the same files and nothing else."""
    output = tmp_path / "one/two"
    check_output(output)
    copy_files(source, output)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == {"a.json": b"{}", "b.bin": bytes(9)}


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("full", "is not empty: it holds notes.txt. Choose a new folder"),
        ("full/notes.txt", "can't be written to: file exists. Choose another folder"),
        ("full/notes.txt/below", "can't be written to: not a directory. Choose another folder"),
    ],
)
def test_what_is_no_empty_folder_is_refused(place: str, sentence: str, tmp_path: Path) -> None:
    """A folder with other files, a file, and a folder below a file are told in a sentence."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    with pytest.raises(InputError, match=sentence):
        check_output(tmp_path / place)


@pytest.mark.usefixtures("home")
def test_a_copy_that_was_cut_off_is_completed(source: Path, tmp_path: Path) -> None:
    """A whole file and half of another one don't stop the copy of the same files; another content does."""
    output = tmp_path / "output"
    output.mkdir()
    (output / "a.json").write_text("{}")
    (output / ".b.bin.part").write_bytes(bytes(3))
    with pytest.raises(InputError, match="is not empty"):
        check_output(output)
    check_output(output, source)
    copy_files(source, output)
    assert {path.name for path in output.iterdir()} == {"a.json", "b.bin"}
    (output / "a.json").write_text("[]")
    with pytest.raises(InputError, match="it holds a.json"):
        check_output(output, source)
