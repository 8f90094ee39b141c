"""One run at a time for each model, with a real store, and a Kubeflow that answers or does not."""

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.core import run_folder
from components.core.errors import StepError
from components.core.reporting import status as outcomes
from components.core.settings import Settings
from components.core.tracking import kubeflow_runs, leases, queries, runs, tag_names
from components.core.tracking.service import connection
from components.detect_changes import detect_changes, look
from components.finish import finish
from tests.fakes.kubeflow import server as kubeflow
from tests.fakes.kubeflow.server import Kubeflow
from tests.support import moves

SETTINGS = Settings(model="toy", task="tests.fakes.toy")
LONG_AGO = time.time() - 25 * 3600


def begin(key: str, settings: Settings = SETTINGS) -> str:
    """A run that asks for the lease; what `take` answers."""
    with runs.step("detect_changes", key, settings.to_json()) as run:
        return leases.take(run)


def pipeline(key: str) -> str:
    [run] = queries.find_runs("toy", key, "pipeline")
    return str(run.info.run_id)


def state_of(key: str) -> tuple[str, str]:
    """Status in MLflow, and why it was closed."""
    run = connection.client().get_run(pipeline(key))
    return run.info.status, run.data.tags.get(tag_names.FAILURE, "")


def silent_since(key: str, when: float) -> None:
    """The run's last sign of life, of a process of some other machine."""
    connection.client().set_tag(pipeline(key), tag_names.ALIVE, f"{when:.0f} another machine")


@pytest.mark.usefixtures("tracked_home")
def test_a_second_run_gives_way() -> None:
    """While a run has the lease, another one of its model is told which run has it; other models are not concerned."""
    assert begin("first") == ""
    told = begin("second")
    assert told.startswith("The run toy first is in progress (since 20")
    assert begin("other", SETTINGS.model_copy(update={"model": "other"})) == ""
    assert begin("first") == ""  # its pod was started again


@pytest.mark.usefixtures("tracked_home")
@pytest.mark.parametrize("hours", [1, -1, 30])
def test_a_clock_that_jumps_ends_no_run(hours: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of this machine is asked of its process, whatever the clock has done since its last sign of life."""
    with runs.step("detect_changes", "first", SETTINGS.to_json()) as run:
        run_folder.take_lease("first")
        assert leases.take(run) == ""
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 3600 * hours)
        assert begin("second").startswith("The run toy first is in progress")
    assert state_of("first") == ("RUNNING", "")


@pytest.mark.usefixtures("tracked_home")
def test_the_lease_ends_with_the_run() -> None:
    """What the exit handler closed stands in nobody's way."""
    begin("first")
    finish(SETTINGS.to_json(), "first", "FAILED")
    assert begin("second") == ""


def test_a_run_that_gives_way_is_skipped_and_counts_for_nothing(tracked_home: Path, toy_source: Path) -> None:
    """It ends as skipped with the reason, whatever it was asked, and neither status nor later runs look at it."""
    begin("first")
    forced = SETTINGS.model_copy(update={"force": True})
    assert detect_changes(str(toy_source), forced.to_json(), "second") == (False, "", "second")
    result = finish(forced.to_json(), "second", "RUNNING")
    assert result.status == "skipped"
    assert result.reason.startswith("The run toy first is in progress (since")
    assert (result.version, result.metrics, result.report, result.same_as) == ("", {}, "", "")
    found = outcomes.of("toy")
    assert (found.status, found.running, found.succeeded) == ("running", True, 0.0)
    finish(SETTINGS.to_json(), "first", "FAILED")
    assert outcomes.of("toy").status == "failed"
    assert look(str(toy_source), SETTINGS, "third").change == "train"


@pytest.mark.usefixtures("tracked_home")
def test_a_silent_run_is_over_after_a_day() -> None:
    """A run whose process can't be seen from here blocks for the hours of the setting, then it is closed."""
    begin("first")
    with runs.step("search", "first", SETTINGS.to_json()):
        silent_since("first", time.time() - 23 * 3600)
        assert "is in progress" in begin("second")
        silent_since("first", LONG_AGO)
        assert begin("third") == ""
        assert {run.info.status for run in queries.find_runs("toy", "first")} == {"FINISHED", "KILLED"}
    assert state_of("first") == ("KILLED", "It showed no sign of life for 24 hours.")
    hour = SETTINGS.model_copy(update={"lost_after_hours": 1.0})
    silent_since("third", time.time() - 4000)
    assert begin("fourth", hour) == ""


@pytest.mark.usefixtures("tracked_home")
def test_a_run_whose_process_is_gone_is_over_at_once() -> None:
    """A killed run of this machine stands in nobody's way; one whose process lives does, however silent it is."""
    begin("first")
    run_folder.take_lease("first")
    silent_since("first", LONG_AGO)
    assert "is in progress" in begin("second")
    (run_folder.run_folder("first") / "lease.json").write_text('{"pid": 999999999, "started": "1"}')
    silent_since("first", time.time())
    assert begin("third") == ""
    assert state_of("first") == ("KILLED", "Its process ended without closing it.")
    connection.client().delete_run(pipeline("second"))
    found = outcomes.of("toy")
    assert (found.status, found.reason) == ("terminated", "Its process ended without closing it.")


@pytest.mark.usefixtures("tracked_home")
def test_a_process_of_another_container_is_not_taken_for_gone() -> None:
    """Where containers share a home, a process that can't be seen from here blocks by its sign of life."""
    begin("first")
    silent_since("first", time.time())
    owner = {"pid": 999999999, "started": "1", "space": "another container"}
    (run_folder.run_folder("first") / "lease.json").write_text(json.dumps(owner))
    assert "is in progress" in begin("second")
    assert run_folder.abandoned_runs() == []


@pytest.mark.usefixtures("tracked_home")
def test_a_run_that_gave_way_stays_so(toy_source: Path) -> None:
    """Its pod may be started again after the other run has ended: it is skipped all the same."""
    begin("first")
    assert look(str(toy_source), SETTINGS, "second").change == "busy"
    finish(SETTINGS.to_json(), "first", "FAILED")
    assert look(str(toy_source), SETTINGS, "second").change == "busy"


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True], ids=["files", "server"])
def test_of_runs_that_start_together_one_has_the_lease(tracked_home: Path, shared: bool) -> None:  # noqa: FBT001 - pytest's
    """Four processes ask in the same moment, by the lock of files or by the election of a server: one gets it."""
    context = multiprocessing.get_context("forkserver")
    barrier, results = context.Barrier(4), context.Queue()
    children = [moves.process(moves.leasing, f"run {number}", shared, barrier, results) for number in range(4)]
    answers = [results.get(timeout=120) for _ in children]
    for child in children:
        child.join(60)
    assert sorted(answer == "" for answer in answers) == [False, False, False, True]


@pytest.mark.usefixtures("tracked_home")
def test_a_step_that_outlives_its_driver_goes_on() -> None:
    """Where the driver was killed and a step's process lives, the run is not over."""
    begin("first")
    (run_folder.run_folder("first") / "lease.json").write_text('{"pid": 999999999, "started": "1"}')
    assert "is in progress" in begin("second")


@pytest.fixture
def cluster(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubeflow]:
    """A Kubeflow whose pods can ask it; each run of a test says which of its runs it is."""
    monkeypatch.setattr(kubeflow_runs, "_ACCOUNT", tracked_home / "ca.crt")
    (tracked_home / "ca.crt").write_text("this cluster's")
    with kubeflow.serve() as server:
        monkeypatch.setenv("THAWLINE_KUBEFLOW_API", server.host)
        yield server


def in_pod(server: Kubeflow, key: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `take` answers in a pod of a run that Kubeflow knows."""
    monkeypatch.setenv("THAWLINE_RUN_KEY", key)
    server.runs[key] = recorded("no-node")  # any that is in progress
    return begin(key)


def recorded(name: str) -> Any:
    return json.loads((kubeflow.RECORDED / f"run-{name}.json").read_text())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("terminated", "It was terminated on Kubeflow."),
        ("succeeded", "It ended there as succeeded."),
        ("step-failed", "It ended there as failed."),
    ],
)
def test_kubeflow_is_asked_what_became_of_a_run(
    answer: str, reason: str, cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that Kubeflow ended is over at once, however fresh its sign of life; MLflow says why."""
    in_pod(cluster, "first", monkeypatch)
    cluster.runs["first"] = recorded(answer)
    assert in_pod(cluster, "second", monkeypatch) == ""
    assert state_of("first") == ("KILLED", reason)


def test_a_run_that_was_deleted_is_over(cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that Kubeflow does not know is over once it has been silent for three signs of life."""
    in_pod(cluster, "first", monkeypatch)
    del cluster.runs["first"]
    assert "is in progress" in in_pod(cluster, "second", monkeypatch)
    silent_since("first", time.time() - leases.FRESH_SECONDS - 1)
    assert in_pod(cluster, "third", monkeypatch) == ""
    assert state_of("first") == ("KILLED", "It was deleted on Kubeflow.")


@pytest.mark.parametrize("wrong", ["no such path", "another server"])
def test_an_answer_of_no_kubeflow_ends_no_run(wrong: str, cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 404 of a proxy, or of a server that does not know the asking run either, says nothing of a run."""
    in_pod(cluster, "first", monkeypatch)
    silent_since("first", time.time() - 3600)
    if wrong == "no such path":
        monkeypatch.setenv("THAWLINE_KUBEFLOW_API", f"{cluster.host}/elsewhere")
        monkeypatch.setattr(kubeflow, "CODES", {})
    else:
        cluster.trouble = lambda _method, path: (404, "Run not found") if path.startswith("/runs/") else None
    assert "is in progress" in in_pod(cluster, "second", monkeypatch)


@pytest.mark.parametrize("ended", ["succeeded", "step-failed"])
def test_a_run_that_came_to_its_end_is_no_lost_one(
    ended: str, cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that registered its version, and lost its exit handler, ends as FINISHED, when it last showed life."""
    in_pod(cluster, "first", monkeypatch)
    silent_since("first", LONG_AGO)
    connection.client().set_tag(pipeline("first"), tag_names.VERSION, "1")
    cluster.runs["first"] = recorded(ended)
    assert in_pod(cluster, "second", monkeypatch) == ""
    assert state_of("first") == ("FINISHED", "")
    assert outcomes.of("toy").succeeded == round(LONG_AGO)


def test_a_run_that_was_closed_does_not_go_on(cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step of a run that was taken for lost begins, not even its exit handler's result is a success."""
    in_pod(cluster, "first", monkeypatch)
    cluster.runs["first"] = recorded("terminated")
    assert in_pod(cluster, "second", monkeypatch) == ""
    with pytest.raises(StepError, match="This run has been closed: It was terminated on Kubeflow."):
        in_pod(cluster, "first", monkeypatch)
    connection.client().set_tag(pipeline("first"), tag_names.VERSION, "1")
    result = finish(SETTINGS.to_json(), "first", "COMPLETE")
    assert (result.status, result.reason) == ("failed", "It was terminated on Kubeflow.")
    assert state_of("second")[0] == "RUNNING"


def test_a_run_that_is_retried_takes_the_lease_again(cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed run that somebody retries on Kubeflow has the lease while it works; it waits for one that has it."""
    in_pod(cluster, "first", monkeypatch)
    finish(SETTINGS.to_json(), "first", "FAILED")
    with runs.step("search", "first", SETTINGS.to_json()):
        assert "The run toy first is in progress" in in_pod(cluster, "second", monkeypatch)
        monkeypatch.setenv("THAWLINE_RUN_KEY", "first")
    finish(SETTINGS.to_json(), "first", "FAILED")
    assert in_pod(cluster, "third", monkeypatch) == ""
    monkeypatch.setenv("THAWLINE_RUN_KEY", "first")
    with (
        pytest.raises(StepError, match="The run toy third is in progress"),
        runs.step("search", "first", SETTINGS.to_json()),
    ):
        pytest.fail("it must not work")
    assert state_of("first")[0] == "FAILED"


def test_a_run_that_waits_for_a_node_is_not_over(cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Kubeflow says goes on has the lease, however long it was silent."""
    in_pod(cluster, "first", monkeypatch)
    silent_since("first", LONG_AGO)
    assert "is in progress" in in_pod(cluster, "second", monkeypatch)


def test_a_retried_run_looks_for_others_whatever_its_tag_says(
    cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was terminated under Kubeflow's plugin has a lease that ended with it, and takes it anew."""
    in_pod(cluster, "first", monkeypatch)
    first = pipeline("first")
    connection.client().set_tag(first, tag_names.FAILURE, "It was terminated.")
    connection.client().set_terminated(first, "FAILED")
    assert in_pod(cluster, "second", monkeypatch) == ""
    monkeypatch.setenv("THAWLINE_RUN_KEY", "first")
    with pytest.raises(StepError, match="toy second is in progress"), runs.step("search", "first", SETTINGS.to_json()):
        pytest.fail("it must not work")
    finish(SETTINGS.to_json(), "second", "FAILED")
    monkeypatch.setenv("THAWLINE_RUN_KEY", "first")
    with runs.step("search", "first", SETTINGS.to_json()):
        assert state_of("first") == ("RUNNING", "")


def test_what_kubeflow_can_not_know_is_decided_by_age(cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of another cluster or machine, and any run while Kubeflow does not answer, blocks until it is too old."""
    in_pod(cluster, "first", monkeypatch)
    silent_since("first", time.time() - 3600)
    del cluster.runs["first"]
    kubeflow_runs._ACCOUNT.write_text("another cluster's, which never knew it")
    assert "is in progress" in in_pod(cluster, "second", monkeypatch)
    kubeflow_runs._ACCOUNT.unlink()
    assert "is in progress" in in_pod(cluster, "of a pod without an account", monkeypatch)
    kubeflow_runs._ACCOUNT.write_text("this cluster's")
    for status in (401, 500):
        cluster.trouble = lambda _method, _path, status=status: (status, "no")  # type: ignore[misc]  # as above
        assert "is in progress" in in_pod(cluster, f"after {status}", monkeypatch)
    monkeypatch.setattr(kubeflow_runs, "SECONDS", 0.1)
    cluster.slow = 0.5
    assert "is in progress" in in_pod(cluster, "third", monkeypatch)
    silent_since("first", LONG_AGO)
    assert in_pod(cluster, "fourth", monkeypatch) == ""


def test_a_run_of_kubeflows_plugin_is_ended_by_it(cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost run that Kubeflow's plugin made has no lease any more, and its end is left to the plugin."""
    in_pod(cluster, "first", monkeypatch)
    connection.client().set_tag(pipeline("first"), tag_names.ADOPTED, "true")
    cluster.runs["first"] = recorded("terminated")
    assert in_pod(cluster, "second", monkeypatch) == ""
    assert state_of("first") == ("RUNNING", "")


@pytest.mark.usefixtures("tracked_home")
def test_a_step_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a step works, its pipeline's run says when it did so last, again and again."""
    monkeypatch.setattr(runs, "ALIVE_SECONDS", 0.05)
    said = []
    with runs.step("search", "k", SETTINGS.to_json()) as run:
        for _ in range(3):
            said.append(run.pipeline_tags()[tag_names.ALIVE])
            connection.client().set_tag(run.pipeline_id, tag_names.ALIVE, "")
            while not run.pipeline_tags()[tag_names.ALIVE]:
                time.sleep(0.01)
    assert all(run_folder.fate(text.partition(" ")[2]) == "lives" for text in said)
    assert os.getpid() == int(said[0].split()[-2])


@pytest.mark.usefixtures("tracked_home")
def test_a_skipped_run_leaves_the_lease(toy_source: Path) -> None:
    """A run that found nothing to do, and was closed, is not in the way of the next one."""
    begin("first")
    connection.client().set_tag(pipeline("first"), tag_names.SKIPPED, "true")
    finish(SETTINGS.to_json(), "first", "RUNNING")
    assert look(str(toy_source), SETTINGS, "second").change == "train"
