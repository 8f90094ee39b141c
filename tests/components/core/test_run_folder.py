"""The run's folder: events, errors, lease."""

import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from components.core import run_folder, weight_sources
from components.core.errors import ExpectedError, InputError
from components.core.storage import home_folder


def test_events_are_read_from_where_reading_stopped(home: Path) -> None:
    """A reader gets each event once, with the offset behind it."""
    run_folder.emit("k", "search", "started")
    [(first, offset)] = run_folder.events("k")
    run_folder.emit("k", "search", "progress", done=1, total=2, text="")
    [(second, _)] = run_folder.events("k", offset)
    assert (first["event"], second["event"], second["done"]) == ("started", "progress", 1)


def test_half_written_event_waits(home: Path) -> None:
    """An event without its end of line is left for the next look."""
    (run_folder.run_folder("k") / "events.jsonl").write_text('{"event": "sta')
    assert list(run_folder.events("k")) == []


def test_errors_are_kept_by_step(home: Path) -> None:
    """What a step wrote as an expected error is read back with its kind."""
    run_folder.write_error("k", "prepare_data", InputError("It is empty.", "Fill it."))
    assert run_folder.read_errors("k") == {
        "prepare_data": {"kind": "input", "sentence": "It is empty.", "hint": "Fill it."}
    }


def test_a_step_that_ended_well_has_no_error(home: Path) -> None:
    """The error of an attempt is dropped when another one ends well; that of another step stays."""
    for step in ("search", "evaluate"):
        run_folder.write_error("k", step, InputError("It is empty.", "Fill it."))
    run_folder.forget_error("k", "search")
    run_folder.forget_error("k", "register")
    assert set(run_folder.read_errors("k")) == {"evaluate"}


def test_reading_makes_no_folder(home: Path) -> None:
    """Asking for the errors of a run that was elsewhere leaves nothing here."""
    assert run_folder.read_errors("elsewhere") == {}
    assert not (home / "runs").exists()


def test_a_home_that_can_not_be_written_to_is_one_sentence(home: Path) -> None:
    """A step that may not write to its home names the folder, the user that it runs as, and the hint."""
    run_folder.emit("known", "search", "started")
    for path in (home / "runs/known/events.jsonl", home / "runs"):
        path.chmod(0o444 if path.is_file() else 0o555)
    user, other = os.geteuid(), os.geteuid() or 65534  # root may write anywhere
    os.seteuid(other)
    try:
        for key in ("new", "known"):
            with pytest.raises(
                InputError, match=f"^{home}/runs/{key}.* can't be written to: Permission denied"
            ) as error:
                run_folder.start("search", key)
            assert f"Give {home} to this process's user, {other}, or choose another" in error.value.hint
    finally:
        os.seteuid(user)
        (home / "runs").chmod(0o755)


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.EROFS, "Mount that file system for writing, or"), (errno.ENOSPC, "Free space there, or")],
)
def test_the_hint_for_a_home_fits_what_is_wrong(number: int, hint: str) -> None:
    """Neither a read-only file system nor a full one is a matter of the folder's owner."""
    with pytest.raises(ExpectedError) as error, home_folder.writable():
        raise OSError(number, os.strerror(number), "/home")
    assert any(words in error.value.sentence for words in (os.strerror(number), "The disk is full"))
    assert error.value.hint.startswith(hint)


def test_old_runs_of_a_cluster_are_deleted(home: Path) -> None:
    """Folders of pods go after a month without a word; studies and activations, a machine's runs, and new ones stay."""
    month_ago = time.time() - run_folder.KEPT_SECONDS - 3600
    for key in ("old", "of a machine", "written to lately"):
        run_folder.emit(key, "search", "started")
        run_folder.write_error(key, "search", InputError("It is empty.", "Fill it."))
    (home / "runs/of a machine/lease.json").write_text("{}")
    for name in ("studies/study.log", "activations/part", "artifacts/model"):
        (home / name).parent.mkdir()
        (home / name).write_text("kept")
    for path in (home, *home.rglob("*")):
        os.utime(path, (month_ago, month_ago))
    run_folder.emit("written to lately", "search", "progress")
    kept = {path for path in home.rglob("*") if not path.is_relative_to(home / "runs/old")}
    run_folder.delete_old()
    assert set(home.rglob("*")) == kept


def test_a_run_whose_process_is_gone_is_abandoned(home: Path) -> None:
    """A lease of a dead process marks the run as abandoned; our own lease does not, nor does a finished run."""
    run_folder.take_lease("alive")
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = json.dumps({"pid": int(done.stdout), "started": "1"})
    for key in ("dead", "finished"):
        (run_folder.run_folder(key) / "lease.json").write_text(dead)
    (run_folder.run_folder("finished") / "result.json").write_text("{}")
    assert run_folder.abandoned_runs() == ["dead"]


def test_a_pod_is_told_to_get_weights_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed into a pod goes with it, so there the hint is the image, or S3."""
    assert (
        weight_sources.install_hint("resemblyzer==0.1.4", "--no-deps ")
        == "Run: pip install --no-deps resemblyzer==0.1.4."
    )
    monkeypatch.setenv("KFP_POD_NAME", "fine-tuning-7v4gg-1")
    hint = weight_sources.install_hint("resemblyzer==0.1.4", "--no-deps ")
    assert "into the image" in hint
    assert "--weights s3://" in hint
    assert "pip install" not in hint


def test_a_reused_process_id_is_no_lease(home: Path) -> None:
    """A living process that started at another time is not the one that took the lease."""
    lease = {"pid": os.getpid(), "started": "1"}
    (run_folder.run_folder("k") / "lease.json").write_text(json.dumps(lease))
    assert run_folder.abandoned_runs() == ["k"]


def test_temporary_files_of_a_killed_run_are_found_from_elsewhere(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of a later run, whose temporary files lie elsewhere, removes those that a killed run left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run_folder.take_lease("killed")
    left = run_folder.temporary_folder("killed")
    (left / "half").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "thawline-later"))
    run_folder.clear("killed")
    assert not left.exists()


def test_temporary_files_of_a_run_killed_behind_its_result_go_with_the_next_one(home: Path, tmp_path: Path) -> None:
    """Those of a run whose process lives stay."""
    for name, started in (("gone", "1"), ("lives", "")):
        run_folder.take_lease(name)
        lease = run_folder.run_folder(name) / "lease.json"
        facts = {**json.loads(lease.read_text()), "temporary": str(tmp_path / f"thawline-{name}")}
        lease.write_text(json.dumps(facts | {"started": started or facts["started"]}))
        (tmp_path / f"thawline-{name}").mkdir()
    run_folder.clear_all()
    assert [path.name for path in tmp_path.glob("thawline-*")] == ["thawline-lives"]


def test_run_keys_never_repeat() -> None:
    """Two runs that start within one second have different keys."""
    assert len({run_folder.new_run_key() for _ in range(50)}) == 50


def test_a_process_is_told_apart_from_others() -> None:
    """Its mark tells whether it lives or is gone, also with its number given to another, or not yet waited for."""
    assert run_folder.fate(run_folder.process_mark()) == "lives"
    space, number, _ = run_folder.process_mark().rsplit(" ", 2)
    assert run_folder.fate(f"{space} {number} 1") == "gone"
    code = "from components.core import run_folder; print(run_folder.process_mark(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        mark = child.stdout.readline().strip()
        assert run_folder.fate(mark) == "lives"
        child.kill()
        while run_folder.fate(mark) == "lives":  # nobody has waited for it yet
            time.sleep(0.01)
        assert run_folder.fate(mark) == "gone"


def test_a_process_of_another_machine_is_unknown() -> None:
    """Neither alive nor gone: its number means another process here."""
    mark = run_folder.process_mark()
    assert run_folder.fate(f"other{mark}") == "unknown"
    assert run_folder.fate("") == run_folder.fate("nonsense") == "unknown"
