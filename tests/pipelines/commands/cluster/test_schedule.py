"""`thawline schedule` against a server that keeps what Kubeflow keeps, killed at every point."""

import json
from datetime import UTC, datetime
from typing import Any

import kfp_server_api as api
import pytest

from components.core.settings import Settings
from pipelines.kubeflow import limits, schedules
from tests.fakes.kubeflow.server import Kubeflow, model_of, recorded
from tests.support.command import Answer, call, is_one_sentence

CREATE = ("create", "weekly", "s3://bucket/stamps", "--cron", "0 2 * * 1", "--time-zone", "Europe/Berlin")
CREATE += ("--env", "MLFLOW_TRACKING_URI=http://mlflow:5000", "--trials", "8")
CHANGE = ("change", "weekly", "--cron", "0 4 * * 2", "--trials", "16")
STEPS = 4  # a change: create, disable, enable, delete


class Clock(datetime):
    """The time as the tests say it is."""

    at = datetime(2026, 10, 19, 12, tzinfo=UTC)  # a Monday in summer; clocks go back on the next Sunday

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]  # noqa: ARG003 - a plain datetime is enough
        return cls.at


@pytest.fixture
def server(kubeflow_server: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> Kubeflow:
    """A Kubeflow that the command finds, on a day in October."""
    monkeypatch.setattr(Clock, "at", Clock.at)
    for module in ("pipelines.kubeflow.schedules", "pipelines.commands.cluster.schedule"):
        monkeypatch.setattr(f"{module}.datetime", Clock)
    return kubeflow_server


@pytest.fixture
def schedule(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: Kubeflow) -> Any:
    def run(*arguments: str) -> Answer:
        return call(capsys, monkeypatch, "schedule", *arguments)

    return run


def said(answer: Answer) -> Any:
    assert answer.status == 0, answer.err
    return json.loads(answer.out)


def only(server: Kubeflow) -> Any:
    [one] = server.recurring.values()
    return one


def test_a_schedule_is_created(schedule: Any, server: Kubeflow) -> None:
    """A schedule is a recurring run with six fields in Kubeflow's zone, one run at a time, no catch-up, no run key."""
    told = said(schedule(*CREATE, "--json"))
    made = only(server)
    assert (made.mode, made.max_concurrency, made.no_catchup) == ("ENABLE", "1", True)
    assert made.trigger.cron_schedule.cron == "0 0 1 * * 1"  # the next Monday is in winter
    given = made.runtime_config.parameters
    assert (given["run_key"], given["source"]) == ("", "s3://bucket/stamps")
    assert Settings.from_json(given["settings"]) == Settings(model="stamps", trials=8, search_workers=2)
    assert told["next"] == "2026-10-26T01:00:00+00:00"
    assert told["next_local"] == "2026-10-26T02:00:00+01:00"
    assert (told["enabled"], told["last"], told["model"]) == (True, None, "stamps")


def test_a_schedule_can_be_created_paused_and_catch_up(schedule: Any, server: Kubeflow) -> None:
    """With --paused it waits for `resume`; with --catch-up Kubeflow makes up for every time that was missed."""
    told = said(schedule(*CREATE, "--paused", "--catch-up", "--json"))
    assert (told["enabled"], told["next"]) == (False, "")
    assert (only(server).mode, only(server).no_catchup) == ("DISABLE", False)
    assert said(schedule("resume", "weekly", "--json"))["enabled"] is True
    assert only(server).mode == "ENABLE"


def test_names_are_taken_once(schedule: Any, server: Kubeflow) -> None:
    """A second schedule of a name is refused; so is a name that is none."""
    assert schedule(*CREATE).status == 0
    answer = schedule(*CREATE)
    assert answer.status == 2
    assert "`thawline schedule change weekly`" in answer.err
    answer = schedule("create", "Every Week", *CREATE[2:])
    assert answer.status == 2
    assert "'Every Week'" in answer.err
    assert len(server.recurring) == 1


def test_the_list_tells_the_last_outcome_and_the_next_time(schedule: Any, server: Kubeflow) -> None:
    """`list` is a line for each schedule, in its own time zone; recurring runs of others are left alone."""
    assert schedule("list").out == "There are no schedules yet.\n"
    schedule(*CREATE)
    server.recurring["other"] = type(only(server))(recurring_run_id="other", mode="ENABLE", created_at=server.now())
    server.fire(next(iter(server.recurring)), "SUCCEEDED")
    server.fire(next(iter(server.recurring)), "FAILED")
    lines = [" ".join(line.split()) for line in schedule("list").out.splitlines()]
    assert lines[0] == "schedule cron zone state last run ended (UTC) next"
    assert lines[1:] == ["weekly 0 2 * * 1 Europe/Berlin on failed 2026-10-26 02:00"]
    [told] = said(schedule("list", "--json"))["schedules"]
    assert told["last"]["state"] == "failed"
    assert told["last"]["kubeflow"].startswith(server.host)


def test_pause_and_resume(schedule: Any, server: Kubeflow) -> None:
    """A paused schedule has no next time, and its run in progress goes on; resumed, it has one."""
    schedule(*CREATE)
    run = server.fire(only(server).recurring_run_id)
    assert said(schedule("pause", "weekly", "--json"))["next"] == ""
    assert (only(server).mode, server.runs[run].state) == ("DISABLE", "RUNNING")
    assert said(schedule("pause", "weekly", "--json"))["enabled"] is False
    assert said(schedule("resume", "weekly", "--json"))["next"] != ""


def test_a_change_keeps_what_is_not_given(schedule: Any, server: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change takes what is given, keeps the rest whatever this shell has set, and makes the next revision."""
    schedule(*CREATE, "--model", "post", "--memory", "fine_tune=16Gi", "--image", "registry/thawline-python:1")
    experiment = only(server).experiment_id
    monkeypatch.setenv("THAWLINE_IMAGE", "something-python:else")
    told = said(schedule(*CHANGE, "--json"))
    assert (told["cron"], told["time_zone"], told["revision"]) == ("0 4 * * 2", "Europe/Berlin", 2)
    assert told["settings"] == {"model": "post", "trials": 16}
    assert told["pods"]["memory"] == ["fine_tune=16Gi"]
    assert told["pods"]["image"] == "registry/thawline-python:1"
    assert only(server).experiment_id == experiment
    given = Settings.from_json(only(server).runtime_config.parameters["settings"])
    assert given == Settings(model="post", trials=16, search_workers=2)


def test_a_change_never_ends_a_run_in_progress(schedule: Any, server: Kubeflow) -> None:
    """The recurring run of a run in progress stays, disabled, until that has ended; then it goes."""
    schedule(*CREATE)
    old = only(server).recurring_run_id
    run = server.fire(old)
    answer = schedule(*CHANGE)
    assert "a run of its former revision 1 is in progress and continues" in answer.err
    assert server.runs[run].state == "RUNNING"
    assert [one.display_name for one in server.enabled()] == ["weekly r2"]
    assert old in server.recurring
    assert said(schedule("show", "weekly", "--json"))["last"]["state"] == "running"
    server.runs[run].state = "SUCCEEDED"
    assert said(schedule("show", "weekly", "--json"))["last"]["state"] == "succeeded"
    assert only(server).display_name == "weekly r2"


def test_a_pause_is_kept_while_a_former_revision_waits(schedule: Any, server: Kubeflow) -> None:
    """Paused while a run of its former revision goes on, a schedule stays paused."""
    schedule(*CREATE)
    run = server.fire(only(server).recurring_run_id)
    schedule(*CHANGE)
    assert said(schedule("pause", "weekly", "--json"))["enabled"] is False
    for _ in range(2):
        assert said(schedule("show", "weekly", "--json"))["enabled"] is False
    assert (server.enabled(), server.runs[run].state) == ([], "RUNNING")
    server.runs[run].state = "FAILED"
    assert said(schedule("resume", "weekly", "--json"))["enabled"] is True
    assert len(server.enabled()) == len(server.recurring) == 1


def test_a_paused_schedule_changes_and_stays_paused(schedule: Any, server: Kubeflow) -> None:
    """A change does not start what was paused."""
    schedule(*CREATE, "--paused")
    assert said(schedule(*CHANGE, "--json"))["enabled"] is False
    assert (only(server).mode, only(server).display_name) == ("DISABLE", "weekly r2")


@pytest.mark.parametrize("answered", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["before", "after"])
@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize(
    "command",
    [*(pytest.param(reading, marks=pytest.mark.slow) for reading in (("list",), ("show", "weekly"))), CHANGE],
    ids=lambda command: command[0],
)
def test_a_change_that_was_killed_is_mended(
    step: int,
    answered: bool,  # noqa: FBT001 - pytest passes by name
    command: tuple[str, ...],
    schedule: Any,
    server: Kubeflow,
) -> None:
    """Cut off before or after any of its steps, a change is done, or not begun, after the next command of any kind."""
    schedule(*CREATE)
    if answered:
        server.die_before = step
    else:
        server.die_after = step + 1
    assert schedule(*CHANGE).status == 1
    server.cut = False
    assert len(server.enabled()) <= 1
    assert schedule(*command).status == 0
    [enabled] = server.enabled()
    assert only(server) is enabled
    assert server.most_enabled == 1
    begun = (step, answered) != (0, True) or command == CHANGE
    assert enabled.trigger.cron_schedule.cron == ("0 0 2 * * 2" if begun else "0 0 1 * * 1")


def test_a_killed_change_ends_no_run(schedule: Any, server: Kubeflow) -> None:
    """Killed and mended while a run is in progress, a change leaves the run alone."""
    schedule(*CREATE)
    run = server.fire(only(server).recurring_run_id)
    for _ in range(3):
        server.die_after = 2
        schedule(*CHANGE)
        server.cut = False
        schedule("list")
        assert server.runs[run].state == "RUNNING"
        assert len(server.enabled()) == server.most_enabled == 1


def test_a_schedule_is_deleted(schedule: Any, server: Kubeflow) -> None:
    """A schedule goes when its run has ended, and not before."""
    schedule(*CREATE)
    run = server.fire(only(server).recurring_run_id)
    answer = schedule("delete", "weekly")
    assert answer.status == 2
    assert is_one_sentence(answer)
    assert len(server.recurring) == 1
    server.runs[run].state = "SUCCEEDED"
    assert said(schedule("delete", "weekly", "--json")) == {"name": "weekly", "deleted": True}
    assert server.recurring == {}
    answer = schedule("show", "weekly")
    assert answer.status == 2
    assert "'weekly'" in answer.err


def test_clocks_that_change_move_a_schedule(schedule: Any, server: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first command after the last run in winter moves the schedule to what summer wants, once, without a gap."""
    monkeypatch.setattr(Clock, "at", datetime(2026, 3, 20, 12, tzinfo=UTC))
    schedule(*CREATE)
    assert only(server).trigger.cron_schedule.cron == "0 0 1 * * 1"
    assert schedule("list").err == ""
    monkeypatch.setattr(Clock, "at", datetime(2026, 3, 23, 12, tzinfo=UTC))
    answer = schedule("list")
    assert "0 0 0 * * 1 in UTC from now on" in answer.err
    assert only(server).trigger.cron_schedule.cron == "0 0 0 * * 1"
    assert schedule("list").err == ""
    [told] = said(schedule("list", "--json"))["schedules"]
    assert told["next_local"] == "2026-03-30T02:00:00+02:00"


def test_a_time_that_is_late_already_is_not_lost(
    schedule: Any, server: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the time that was wanted and the hour later that Kubeflow still keeps, nothing is moved."""
    monkeypatch.setattr(Clock, "at", datetime(2026, 3, 20, 12, tzinfo=UTC))
    schedule(*CREATE)
    monkeypatch.setattr(Clock, "at", datetime(2026, 3, 30, 0, 30, tzinfo=UTC))
    assert said(schedule("list", "--json"))["schedules"][0]["next"] == "2026-03-30T01:00:00+00:00"
    monkeypatch.setattr(Clock, "at", datetime(2026, 3, 30, 1, 30, tzinfo=UTC))
    assert said(schedule("list", "--json"))["schedules"][0]["next"] == "2026-04-06T00:00:00+00:00"


def test_a_schedule_put_forward_in_autumn_runs_once(
    schedule: Any, server: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved within the hour after its run, a schedule does not run again that day."""
    monkeypatch.setattr(Clock, "at", datetime(2026, 10, 16, 12, tzinfo=UTC))
    schedule(*CREATE)
    monkeypatch.setattr(Clock, "at", datetime(2026, 10, 19, 0, 10, tzinfo=UTC))
    [told] = said(schedule("list", "--json"))["schedules"]
    assert only(server).trigger.cron_schedule.cron == "0 0 1 * * 1"
    assert only(server).trigger.cron_schedule.start_time == datetime(2026, 10, 26, 0, 59, tzinfo=UTC)
    assert told["next"] == "2026-10-26T01:00:00+00:00"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--cron", "0 25 * * *"), "'0 25 * * *'"),
        (("--cron", "0 2 * * 1", "--time-zone", "Mars"), "'Mars'"),
        (("--cron", "0 2 * * 1", "--search-workers", "2"), "THAWLINE_STUDY_STORAGE"),
        (("--cron", "0 2 * * 1", "--trials", "-1"), "--trials"),
        (("--cron", "0 2 * * 1", "--memory", "lots"), "--memory"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_sent(
    arguments: tuple[str, ...], wanted: str, schedule: Any, server: Kubeflow
) -> None:
    """What can't be is one sentence, without a word to the server."""
    answer = schedule("create", "weekly", "s3://bucket/stamps", *arguments)
    assert answer.status == 2
    assert wanted in answer.err
    assert server.calls == []


@pytest.mark.parametrize(
    "parameters", [None, {}, {"schedule": ""}, {"schedule": "every hour"}, {"schedule": "{}"}, {"schedule": 7}]
)
def test_a_recurring_run_of_others_is_none_of_ours(parameters: Any) -> None:
    """A recurring run whose pipeline has no such parameter, or another meaning for it, is not read as a schedule."""
    config = None if parameters is None else api.V2beta1RuntimeConfig(parameters=parameters)
    assert schedules.read(api.V2beta1RecurringRun(runtime_config=config)) is None


def test_what_a_schedule_remembers_is_a_parameter(schedule: Any, server: Kubeflow) -> None:
    """However much a schedule has to remember, its description is a short sentence; its settings know nothing of it."""
    source = f"s3://bucket/{'long/' * 60}stamps"
    many = [option for number in range(30) for option in ("--env", f"NAME_{number}={'x' * 20}")]
    told = said(schedule("create", "weekly", source, "--cron", "0 2 * * 1", *many, "--json"))
    made = only(server)
    given = made.runtime_config.parameters
    assert made.description.startswith("Thawline trains by 0 2 * * 1 in UTC from s3://bucket/long/")
    assert len(made.description) == 255
    assert json.loads(given["schedule"])["source"] == source == given["source"] == told["source"]
    assert set(json.loads(given["settings"])) == set(Settings().model_dump())
    assert said(schedule("show", "weekly", "--json")) == told


def test_a_refused_schedule_may_have_begun(schedule: Any, server: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Kubeflow refuses for a fault of its own, the error says where what it may have left behind is found."""
    monkeypatch.setattr(limits, "cut", lambda text: text)
    answer = schedule("create", "weekly", f"s3://bucket/{'x' * 300}", "--cron", "0 2 * * 1")
    assert answer.status == 1
    assert "Data too long for column 'Description' at row 1. It may be running anyway" in answer.err
    assert (len(server.orphans), server.recurring) == (1, {})
    assert schedule("list").out == "There are no schedules yet.\n"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--cron", "0 2 * * 1", "--experiment", "x" * 129), "has 129 bytes, 1 more than Kubeflow keeps."),
        (
            ("--cron", f"0 {','.join(map(str, range(24)))} {','.join(map(str, range(1, 32)))} * 1-5,{'1,' * 60}1"),
            "cron",
        ),
        (("--cron", "0 2 * * 1", "--model", "ö" * 65), "Use a shorter --experiment."),
    ],
)
def test_what_is_too_long_is_said_before_anything_is_sent(
    arguments: tuple[str, ...], wanted: str, schedule: Any, server: Kubeflow
) -> None:
    """A name or an expression that Kubeflow does not keep is one sentence, without a word to the server."""
    answer = schedule("create", "weekly", "s3://bucket/stamps", *arguments)
    assert (answer.status, server.calls, is_one_sentence(answer)) == (2, [], True)
    assert wanted in answer.err


def test_a_run_in_progress_is_said_once(schedule: Any, server: Kubeflow) -> None:
    """That a former revision's run goes on is said by the change and by `show`, and not by what asks every day."""
    schedule(*CREATE)
    server.fire(only(server).recurring_run_id)
    text = "weekly: a run of its former revision 1 is in progress and continues."
    assert [text in schedule(*words).err for words in (CHANGE, ("list",), ("show", "weekly"), ("list",))] == [
        *(True, False, True, False)
    ]


@pytest.mark.parametrize(
    ("name", "state", "finished"),
    [
        ("succeeded", "succeeded", "2026-11-29T14:18:28+00:00"),
        pytest.param("terminated", "terminated", "2026-11-29T14:49:26+00:00", marks=pytest.mark.slow),
        ("no-node", "running", ""),
    ],
)
def test_the_last_run_is_told_as_it_ended(
    name: str, state: str, finished: str, schedule: Any, server: Kubeflow
) -> None:
    """A real Kubeflow's answer about the last run is the schedule's outcome; a terminated run is called that."""
    schedule(*CREATE)
    run = model_of({**recorded(name), "recurring_run_id": only(server).recurring_run_id}, "V2beta1Run")
    server.runs[run.run_id] = run
    last = said(schedule("show", "weekly", "--json"))["last"]
    assert last == {
        "state": state,
        "started": run.created_at.isoformat(),
        "finished": finished,
        "kubeflow": f"{server.host}/#/runs/details/{run.run_id}",
    }
    [row] = schedule("list").out.splitlines()[1:]
    assert row.split()[7:8] == ["on"]
    assert row.split()[8] == state
    [line] = [line for line in schedule("show", "weekly").out.splitlines() if line.startswith("Last")]
    assert line.split()[1] == state


def test_former_revisions_are_remembered_for_their_runs(schedule: Any, server: Kubeflow) -> None:
    """After changes the last run is still told, though its recurring run is gone."""
    schedule(*CREATE)
    server.fire(only(server).recurring_run_id, "SUCCEEDED")
    for _ in range(2):
        schedule(*CHANGE)
    assert said(schedule("show", "weekly", "--json"))["last"]["state"] == "succeeded"
