"""What of the user's environment would change a run is dropped, refused or survived."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.core.errors import InputError
from pipelines.commands.options import use_home
from pipelines.terminal import surroundings
from tests.support.command import COMMAND, environment, thawline


def test_variables_of_other_runs_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a finished run, a pod or torchrun left behind goes, with its name; the rest stays."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    assert surroundings.drop_left_over() == ["MLFLOW_EXPERIMENT_ID", "WORLD_SIZE"]
    assert "MLFLOW_EXPERIMENT_ID" not in os.environ
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "ann"
    assert surroundings.drop_left_over() == []


def test_a_command_reports_what_it_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that are ignored stand in one line on stderr; stdout is for results."""
    monkeypatch.setenv("RANK", "1")
    answer = thawline("models", home=tmp_path / "home", cwd=tmp_path)
    assert "Ignoring RANK: left over in the environment" in answer.err
    assert "RANK" not in answer.out


@pytest.mark.parametrize("address", ["databricks", "databricks://profile", "mlruns", "./mlruns", "file:///tmp/mlruns"])
def test_a_tracking_store_of_another_kind_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that steps could not write to is refused before anything starts, with what to do."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(InputError, match="is not supported") as refused:
        use_home(tmp_path)
    assert refused.value.hint.startswith("Unset it")


def test_a_refused_store_keeps_its_password() -> None:
    """Of an address that is refused, only the kind is shown."""
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI=oracle:… is not supported") as refused:
        surroundings.check_store("oracle://ann:private@db/mlflow")
    assert "private" not in str(refused.value)


@pytest.mark.parametrize(
    "address", ["", "http://127.0.0.1:5000", "sqlite:////tmp/mlflow.db", "postgresql+psycopg://h/d"]
)
def test_stores_that_steps_can_write_to_are_taken(address: str) -> None:
    """A server, SQLite and the databases that MLflow itself supports pass."""
    surroundings.check_store(address)


@pytest.mark.parametrize("name", ["a%2Fb", "what?", "first#1"])
def test_a_home_that_no_address_can_hold_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path whose characters mean something in a database's address would lose the database elsewhere."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="can't be used: its path contains"):
        use_home(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_user_without_a_home_folder_is_given_a_sentence() -> None:
    """A ~ that stands for no folder ends in a sentence, not in a traceback."""
    with pytest.raises(InputError, match="has no home folder"):
        use_home(Path("~no-such-user/thawline"))


def test_libraries_find_a_home_for_a_user_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id without a name and without HOME, as in pods, gets a folder for caches; nobody else's changes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    surroundings.ensure_home()
    assert Path.home() == tmp_path
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 987_654)
    with pytest.raises(RuntimeError):
        Path.home()
    surroundings.ensure_home()
    assert Path.home().is_dir()


def test_a_missing_temporary_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps would fail in their shells without a word on it: TMPDIR has to be a folder."""
    (tmp_path / "file").touch()
    for name, reason in (("missing", "no such file or directory"), ("file", "not a directory")):
        monkeypatch.setenv("TMPDIR", str(tmp_path / name))
        with pytest.raises(InputError, match=rf"no usable folder for temporary files: TMPDIR=.*{name} \({reason}\)"):
            use_home(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    use_home(tmp_path)


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.ENOSPC, "Free space there, or set TMPDIR"), (errno.EROFS, "Create it, or set TMPDIR")]
)
def test_a_full_or_read_only_temporary_folder_is_reported(
    number: int, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the system says of a small file there is told with its reason, before anything starts."""

    def refuse(**_given: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    for folder in (str(tmp_path), ""):
        monkeypatch.setenv("TMPDIR", folder)
        with pytest.raises(InputError, match=os.strerror(number).lower()) as error:
            surroundings.check_temporary_folder()
        assert error.value.hint.startswith(hint)


def test_a_source_whose_name_is_not_utf_8_is_refused() -> None:
    """A name that JSON can't hold is refused with its bytes shown, before anything starts."""
    with pytest.raises(InputError, match=r"The name caf\\xe9 is not UTF-8"):
        surroundings.check_name(os.fsdecode(b"caf\xe9"))
    surroundings.check_name("café")


def test_a_deleted_working_folder_is_reported(tmp_path: Path) -> None:
    """Started in a folder that was deleted, a command says so and ends with status 2."""
    folder = tmp_path / "gone"
    folder.mkdir()
    command = f"rmdir {folder} && exec {COMMAND} models"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "was deleted" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_no_run_that_goes_on(tmp_path: Path) -> None:
    """Help whose reader goes away ends without a word: there is no run to continue."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"{COMMAND} run --help | head -n 1 >/dev/null"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_work_goes_on_when_nobody_reads_its_output(tmp_path: Path) -> None:
    """A closed pipe ends neither the work nor its exit status, and is reported once on stderr."""
    code = (
        "import sys, pathlib; from pipelines.terminal.surroundings import enduring\n"
        "with enduring('nobody reads'):\n"
        "    for line in range(20_000): print(line, flush=True)\n"
        "    pathlib.Path('done').write_text('all')\n"
        "sys.exit(3)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.wait(60) == 3
    assert (tmp_path / "done").read_text() == "all"
    assert process.stderr.read() == "nobody reads\n"
    process.stderr.close()
