"""Which run a command is: a new one, or one that goes on."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from components.core import run_folder
from components.core.errors import InputError
from components.core.run_result import RunResult
from components.core.settings import Settings
from components.core.sources import source_index
from components.core.tracking import provenance, queries, runs, tag_names
from components.detect_changes import DECISION, Decision, go_on
from components.finish import finish
from pipelines.commands.dry_run import foreseen, print_foreseen
from pipelines.local import resume
from tests.fakes.toy import write_points

SETTINGS = Settings(model="toy", task="tests.fakes.toy")
GONE = "0"  # no process began at the boot


def killed(source: str = "/points", change: str = "train", settings: Settings = SETTINGS) -> str:
    """The key of a run that was killed in a step, as it lies in the home and in MLflow."""
    key = resume.begin(source, settings, fresh=True).run_key
    folder = run_folder.run_folder(key)
    if change:
        (folder / DECISION).write_text(json.dumps(vars(Decision(change, "why"))))  # type: ignore[arg-type]  # of texts
    with runs.step("train_head", key, settings.to_json()) as step:
        step.tags({tag_names.LEASE: tag_names.HELD}, pipeline=True)
    runs.create("fine_tune", key, settings.model, "step", step.pipeline_id)
    leave(key)
    return key


def leave(key: str) -> None:
    """Let the process that drives a run be gone."""
    path = run_folder.run_folder(key) / run_folder.LEASE
    path.write_text(json.dumps({**json.loads(path.read_text()), "started": GONE}))


def next_key(source: str = "/points", settings: Settings = SETTINGS) -> str:
    """The key that the next command gets."""
    return resume.begin(source, settings, fresh=False).run_key


def test_the_same_command_goes_on(tracked_home: Path) -> None:
    """It gets the key of the run that was killed, is told where that ended, and sees no event of before again."""
    key = killed()
    begun = resume.begin("/points", SETTINGS, fresh=False)
    assert begun.run_key == key
    assert begun.before.startswith("the run of ")
    assert begun.before.endswith(", which ended in train_head")
    assert list(run_folder.events(key, begun.offset)) == []
    assert run_folder.driver(key) == "lives"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (run_folder.LEASE, b"[]"),
        (run_folder.LEASE, b'{"pid": "x"}'),
        (run_folder.RESULT, b"{"),
        ("settings.json", b""),
        (resume.BEGIN, b"\xff\x00"),
        (DECISION, b"{}"),
    ],
)
def test_a_damaged_file_of_a_run_stops_no_command(name: str, content: bytes, tracked_home: Path) -> None:
    """As a power failure leaves them: the run resumes if the rest tells that it may; in doubt a new run begins."""
    key = killed()
    (run_folder.run_folder(key) / name).write_bytes(content)
    run_folder.clear_all()
    begun = resume.begin("/points", SETTINGS, fresh=False)
    assert (begun.run_key == key) == (name == run_folder.RESULT)
    finish(SETTINGS.to_json(), begun.run_key, "FAILED")
    assert all(run.info.status != "RUNNING" for run in queries.find_runs("toy", begun.run_key))


def test_half_an_event_is_passed_over(tracked_home: Path) -> None:
    """What a lost machine wrote half of spoils no event behind the next one, and without events the run has its key."""
    key = killed()
    path = run_folder.run_folder(key) / "events.jsonl"
    with path.open("a") as file:
        file.write('[1]\n{}\n{"time": 1, "st')
    for step in ("fine_tune", "evaluate"):
        run_folder.emit(key, step, "started")
    assert [event["step"] for event, _ in run_folder.events(key)][-1] == "evaluate"
    path.write_bytes(b"")
    assert resume.begin("/points", SETTINGS, fresh=False).before == f"the run {key}"
    go_on(SETTINGS, key)


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_run_that_would_go_on_is_foreseen(form: str, tracked_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--dry-run` tells which run, where that ended, and the steps without a record; it takes nothing up."""
    key = killed()
    (run_folder.run_folder(key) / "steps").mkdir()
    for step in ("prepare_data", "search", "select_trial", "train_head"):
        (run_folder.run_folder(key) / f"steps/{step}.json").write_text("{}")
    begun = resume.foresee("/points", SETTINGS)
    decision = foreseen("/points", SETTINGS, begun, Console(quiet=True))
    print_foreseen(decision, SETTINGS, begun, as_json=form == "json")
    printed = capsys.readouterr().out
    if form == "json":
        facts = json.loads(printed)
        assert (facts["goes_on"], facts["steps"]) == (key, ["fine_tune", "evaluate", "register"])
    else:
        assert re.fullmatch(
            r"Would resume the run of .*, which ended in train_head; --fresh starts over\.\n"
            r"Steps: fine_tune, evaluate, register\n",
            printed,
        )
    assert run_folder.driver(key) == "gone"


def test_a_server_that_is_away_is_told_at_once(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that might go on is not looked for with the minutes of retries of MLflow's client."""
    killed()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="can't be reached"):
        resume.begin("/points", SETTINGS, fresh=False)


def test_a_new_run_is_known_from_its_begin(tracked_home: Path) -> None:
    """Its folder has the settings, and the lease by which a later command sees that it was killed."""
    key = next_key()
    assert Settings.from_json((run_folder.run_folder(key) / "settings.json").read_text()) == SETTINGS
    assert run_folder.driver(key) == "lives"


def test_fresh_starts_anew(tracked_home: Path) -> None:
    """`--fresh` begins a run of its own."""
    key = killed()
    assert resume.begin("/points", SETTINGS, fresh=True).run_key != key


def _other_source(_key: str) -> str:
    return next_key(source="/other")


def _other_settings(_key: str) -> str:
    return next_key(settings=SETTINGS.model_copy(update={"max_minutes": 5.0}))


def _alive(key: str) -> str:
    run_folder.take_lease(key)
    return next_key()


def _ended_well(key: str) -> str:
    RunResult(status="succeeded").write(key)
    return next_key()


def _judges(key: str) -> str:
    (run_folder.run_folder(key) / DECISION).write_text(json.dumps(vars(Decision("judge", "why"))))
    return next_key()


def _another_since(_key: str) -> str:
    runs.create("toy other", "other", "toy", "pipeline", None)  # on another machine, on the same server
    return next_key()


def _of_an_earlier_version(key: str) -> str:
    (run_folder.run_folder(key) / resume.BEGIN).unlink()
    return next_key()


@pytest.mark.parametrize(
    "changed",
    [_other_source, _other_settings, _alive, _ended_well, _judges, _another_since, _of_an_earlier_version],
)
def test_in_doubt_a_new_run_begins(changed: Callable[[str], str], tracked_home: Path) -> None:
    """Another source or setting, a process that lives, a good end, a later run of the model: nothing goes on."""
    key = killed()
    assert changed(key) != key


def test_other_data_start_anew(tracked_home: Path, tmp_path: Path) -> None:
    """A run that has prepared its data goes on only if the source holds these."""
    source = write_points(tmp_path / "points", per_class=2)
    key = killed(str(source))
    dataset, record = tmp_path / "dataset", run_folder.run_folder(key) / "steps/prepare_data.json"
    dataset.mkdir()
    rows = source_index.take(str(source), [])
    source_index.write_index(dataset / source_index.INDEX, rows)
    found = {"outputs": {"dataset": [str(dataset), ""]}, "result": {"data_digest": source_index.data_digest(rows)}}
    record.parent.mkdir()
    record.write_text(json.dumps(found))
    assert next_key(str(source)) == key
    leave(key)
    (source / "class0/0000.txt").write_text("3,3")
    assert next_key(str(source)) != key


def test_other_code_starts_anew(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of another version of the code does not go on."""
    key = killed()
    monkeypatch.setattr(provenance, "program", lambda task: {"code": task})
    assert next_key() != key


def test_a_failed_run_goes_on(tracked_home: Path) -> None:
    """A run that was interrupted, or whose step failed, goes on; its result and its errors are those of before."""
    key = killed()
    RunResult(status="failed", reason="The run was interrupted.").write(key)
    (run_folder.run_folder(key) / "errors").mkdir()
    (run_folder.run_folder(key) / "errors/fine_tune.json").write_text('{"kind": "failure", "sentence": "", "hint": ""}')
    assert next_key() == key
    assert RunResult.read(key) is None
    assert run_folder.read_errors(key) == {}


def test_a_run_that_gave_way_is_none_in_between(tracked_home: Path) -> None:
    """A second command that was skipped does not keep the first run from going on."""
    key = killed()
    busy = resume.begin("/points", SETTINGS, fresh=True).run_key
    RunResult(status="skipped").write(busy)
    run_id = runs.create("toy busy", busy, "toy", "pipeline", None, more={tag_names.SKIPPED: "true"})
    runs.fail(run_id)
    assert next_key() == key


@pytest.mark.parametrize(("silent", "goes_on"), [(0, False), (10_000, True)])
def test_a_restarted_machine_goes_on(silent: float, tracked_home: Path, *, goes_on: bool) -> None:
    """The process of another boot can't be seen: it counts as gone when its signs of life have stopped for minutes."""
    key = killed()
    path = run_folder.run_folder(key) / run_folder.LEASE
    path.write_text(json.dumps({**json.loads(path.read_text()), "space": "another boot"}))
    [pipeline] = queries.find_runs("toy", key, "pipeline")
    runs.record(pipeline.info.run_id, {}, {tag_names.ALIVE: f"{time.time() - silent:.0f} another boot 1 1"})
    assert (next_key() == key) == goes_on


def test_two_commands_take_up_one_run_once(tracked_home: Path) -> None:
    """Of two commands the second one finds a process at work."""
    key = killed()
    assert [next_key() == key for _ in range(2)] == [True, False]


@pytest.mark.parametrize(("last", "paused"), [(1.0, True), (4e9, False)], ids=["long ago", "a clock that was put back"])
def test_a_run_goes_on_in_mlflow(last: float, tracked_home: Path, *, paused: bool) -> None:
    """The pipeline's run is open again under its lease; the step that was killed is closed; the pause is recorded."""
    key = killed()
    runs.close_running("toy", key, failed=True)  # as after an interruption
    assert next_key() == key
    events = run_folder.run_folder(key) / "events.jsonl"
    lines = [json.loads(line) | {"time": last} for line in events.read_text().splitlines()]
    events.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    go_on(SETTINGS, key)
    found = {run.info.run_name: run for run in queries.find_runs("toy", key)}
    pipeline = next(run for run in found.values() if run.data.tags[tag_names.KIND] == "pipeline")
    assert pipeline.info.status == "RUNNING"
    assert pipeline.data.tags[tag_names.LEASE] == tag_names.HELD
    idle = float(pipeline.data.tags[tag_names.IDLE])
    assert idle > 1e9 if paused else idle == 0
    assert found["fine_tune"].info.status == "FAILED"
    assert found["detect_changes"].info.status == "FINISHED"


def test_what_a_kill_left_half_done_goes(tracked_home: Path) -> None:
    """Temporary files and half-written ones of the processes of before are removed; what is whole stays."""
    key = killed()
    folder = run_folder.run_folder(key)
    (folder / "steps").mkdir()
    for name in (".result.json.17", "steps/.search.json.17", "steps/search.json"):
        (folder / name).write_text("{}")
    temporary = run_folder.temporary_folder(key)
    temporary.mkdir()
    assert next_key() == key
    assert not temporary.exists()
    assert sorted(path.name for path in (folder / "steps").iterdir()) == ["search.json"]
    assert not (folder / ".result.json.17").exists()
