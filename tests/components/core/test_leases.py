"""One run at a time for each model, with a real store, and a Kubeflow that answers or does not."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.core import inputs, kubeflow_runs, leases, outcomes, runs, tracking
from components.core.settings import Settings
from components.detect_changes import detect_changes, look
from components.finish import finish
from tests import kubeflow
from tests.kubeflow import Kubeflow

SETTINGS = Settings(model="toy", task="tests.toy")
LONG_AGO = time.time() - 25 * 3600


def begin(key: str, settings: Settings = SETTINGS) -> str:
    """A run that asks for the lease; what `take` answers."""
    with tracking.step("detect_changes", key, settings.to_json()) as run:
        return leases.take(run)


def pipeline(key: str) -> str:
    [run] = tracking.find_runs("toy", key, "pipeline")
    return str(run.info.run_id)


def state_of(key: str) -> tuple[str, str]:
    """Status in MLflow, and why it was closed."""
    run = tracking.client().get_run(pipeline(key))
    return run.info.status, run.data.tags.get(tracking.LOST, "")


def silent_since(key: str, when: float) -> None:
    """The run's last sign of life, of a process of some other machine."""
    tracking.client().set_tag(pipeline(key), tracking.ALIVE, f"{when:.0f} another machine")


@pytest.mark.usefixtures("tracked_home")
def test_a_second_run_gives_way() -> None:
    """While a run has the lease, another one of its model is told which run has it; other models are not concerned."""
    assert begin("first") == ""
    told = begin("second")
    assert told.startswith("The run toy first is in progress since 20")
    assert begin("other", SETTINGS.model_copy(update={"model": "other"})) == ""
    assert begin("first") == ""  # its pod was started again


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
    assert result["status"] == "skipped"
    assert result["reason"].startswith("The run toy first is in progress since")
    assert (result["version"], result["metrics"], result["report"], result["same_as"]) == ("", {}, "", "")
    found = outcomes.of("toy")
    assert (found.status, found.running, found.succeeded) == ("running", True, 0.0)
    finish(SETTINGS.to_json(), "first", "FAILED")
    assert outcomes.of("toy").status == "failed"
    assert look(str(toy_source), SETTINGS, "third").change == "train"


@pytest.mark.usefixtures("tracked_home")
def test_a_silent_run_is_over_after_a_day() -> None:
    """A run whose process can't be seen from here blocks for the hours of the setting, then it is closed."""
    begin("first")
    with tracking.step("search", "first", SETTINGS.to_json()):
        silent_since("first", time.time() - 23 * 3600)
        assert "is in progress" in begin("second")
        silent_since("first", LONG_AGO)
        assert begin("third") == ""
        assert {run.info.status for run in tracking.find_runs("toy", "first")} == {"FINISHED", "KILLED"}
    assert state_of("first") == ("KILLED", "It showed no sign of life for 24 hours.")
    hour = SETTINGS.model_copy(update={"lost_after_hours": 1})
    silent_since("third", time.time() - 4000)
    assert begin("fourth", hour) == ""


@pytest.mark.usefixtures("tracked_home")
def test_a_run_whose_process_is_gone_is_over_at_once() -> None:
    """A killed run of this machine stands in nobody's way; one whose process lives does, however silent it is."""
    begin("first")
    runs.take_lease("first")
    silent_since("first", LONG_AGO)
    assert "is in progress" in begin("second")
    (runs.run_folder("first") / "lease.json").write_text('{"pid": 999999999, "started": "1"}')
    silent_since("first", time.time())
    assert begin("third") == ""
    assert state_of("first") == ("KILLED", "Its process ended without closing it.")
    tracking.client().delete_run(pipeline("second"))
    found = outcomes.of("toy")
    assert (found.status, found.reason) == ("terminated", "Its process ended without closing it.")


@pytest.mark.usefixtures("tracked_home")
def test_a_step_that_outlives_its_driver_goes_on() -> None:
    """Where the driver was killed and a step's process lives, the run is not over."""
    begin("first")
    (runs.run_folder("first") / "lease.json").write_text('{"pid": 999999999, "started": "1"}')
    assert "is in progress" in begin("second")


@pytest.fixture
def cluster(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubeflow]:
    """A Kubeflow whose pods can ask it; each run of a test says which of its runs it is."""
    with kubeflow.serve() as server:
        monkeypatch.setenv("THAWLINE_KUBEFLOW_API", server.host)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        yield server


def in_pod(key: str, monkeypatch: pytest.MonkeyPatch, settings: Settings = SETTINGS) -> str:
    monkeypatch.setenv("THAWLINE_RUN_KEY", key)
    return begin(key, settings)


def recorded(name: str) -> Any:
    return json.loads((Path(kubeflow.__file__).parent / f"recorded/run-{name}.json").read_text())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("terminated", "It was terminated on Kubeflow."),
        ("succeeded", "It ended there as succeeded."),
        ("step-failed", "It ended there as failed."),
        ("", "It was deleted on Kubeflow."),
    ],
)
def test_kubeflow_is_asked_what_became_of_a_run(
    answer: str, reason: str, cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that Kubeflow ended or does not know is over at once, however fresh its sign of life; it is told why."""
    in_pod("first", monkeypatch)
    if answer:
        cluster.runs["first"] = recorded(answer)
    assert in_pod("second", monkeypatch) == ""
    assert state_of("first") == ("KILLED", reason)


def test_a_run_that_waits_for_a_node_is_not_over(cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Kubeflow says goes on has the lease, however long it was silent."""
    in_pod("first", monkeypatch)
    silent_since("first", LONG_AGO)
    cluster.runs["first"] = recorded("no-node")
    assert "is in progress" in in_pod("second", monkeypatch)


def test_what_kubeflow_can_not_know_is_decided_by_age(cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of another cluster or machine, and any run while Kubeflow does not answer, blocks until it is too old."""
    in_pod("first", monkeypatch)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.2")  # another cluster, which never knew it
    assert "is in progress" in in_pod("second", monkeypatch)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    for status in (401, 500):
        cluster.trouble = lambda _method, _path, status=status: (status, "no")  # type: ignore[misc]  # as above
        assert "is in progress" in in_pod(f"after {status}", monkeypatch)
    monkeypatch.setattr(kubeflow_runs, "SECONDS", 0.1)
    cluster.slow = 0.5
    assert "is in progress" in in_pod("third", monkeypatch)
    silent_since("first", LONG_AGO)
    assert in_pod("fourth", monkeypatch) == ""


def test_a_run_of_kubeflows_plugin_is_ended_by_it(cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost run that Kubeflow's plugin made has no lease any more, and its end is left to the plugin."""
    in_pod("first", monkeypatch)
    tracking.client().set_tag(pipeline("first"), tracking.ADOPTED, "true")
    assert in_pod("second", monkeypatch) == ""
    assert state_of("first") == ("RUNNING", "")


@pytest.mark.usefixtures("tracked_home")
def test_a_step_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a step works, its pipeline's run says when it did so last, again and again."""
    monkeypatch.setattr(tracking, "ALIVE_SECONDS", 0.05)
    said = []
    with tracking.step("search", "k", SETTINGS.to_json()) as run:
        for _ in range(3):
            said.append(run.pipeline_tags()[tracking.ALIVE])
            tracking.client().set_tag(run.pipeline_id, tracking.ALIVE, "")
            while not run.pipeline_tags()[tracking.ALIVE]:
                time.sleep(0.01)
    assert all(runs.fate(text.partition(" ")[2]) == "lives" for text in said)
    assert os.getpid() == int(said[0].split()[-2])


@pytest.mark.usefixtures("tracked_home")
def test_a_skipped_run_leaves_the_lease(toy_source: Path) -> None:
    """A run that found nothing to do, and was closed, is not in the way of the next one."""
    begin("first")
    tracking.client().set_tag(pipeline("first"), inputs.SKIPPED, "true")
    finish(SETTINGS.to_json(), "first", "RUNNING")
    assert look(str(toy_source), SETTINGS, "second").change == "train"
