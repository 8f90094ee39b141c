"""What `thawline submit --wait` shows of runs as a real Kubeflow told of them."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import kfp_server_api as api
import pytest

from pipelines.commands.cluster import submit
from pipelines.kubeflow import progress, submission
from pipelines.terminal.display import STEPS
from tests.fakes.kubeflow.server import RECORDED, Kubeflow, model_of, recorded, replay
from tests.support.command import Answer, call

LAB = [*STEPS, "recall"]  # of the DAG that was recorded
ZERO = "0001-01-01T00:00:00Z"  # Go's
GATE = (("evaluate", 19), ("register", 17), ("finish", 6))
PENDING = "describe pods -l pipeline/runid={run},workflows.argoproj.io/completed=false"


@pytest.fixture
def waited(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kubeflow_server: Kubeflow) -> Any:
    """Submit a run that looks as these answers say, and wait for it."""
    monkeypatch.setattr(submission, "POLL", 0.01)
    monkeypatch.setattr(submit, "steps_of", lambda _given: LAB)

    def run(*answers: dict[str, Any], more: tuple[str, ...] = ()) -> Answer:
        kubeflow_server.next_script = lambda _run: replay(*answers)
        options = ("--env", "MLFLOW_TRACKING_URI=http://mlflow:5000", "--wait", *more)
        return call(capsys, monkeypatch, "submit", "s3://bucket/stamps", *options)

    return run


def ran(*steps: tuple[str, float]) -> list[str]:
    """The lines of steps that ended well, one after another."""
    return [line for step, seconds in steps for line in (f"{step} started", f"{step} finished in {seconds:.1f} s")]


def lines_of(answer: Answer) -> list[str]:
    """What was shown after the run's link, blanks taken together."""
    return [" ".join(line.split()) for line in answer.err.splitlines()[2:]]


def ending(word: str) -> list[str]:
    return [f"Status {word}", f"Why Kubeflow says that the run ended as {word}."]


WHOLE = [
    *ran(("detect_changes", 8), ("prepare_data", 11), ("search", 14), ("select_trial", 7), ("train_head", 10)),
    *ran(("fine_tune", 12), *GATE),
]
LOST = [
    *ran(("detect_changes", 8), ("prepare_data", 14)),
    *("search started", "search started again (attempt 2)", "search finished in 93.0 s"),
    *ran(("select_trial", 10), ("train_head", 12)),
    *("fine_tune started", "fine_tune started again (attempt 2)", "fine_tune finished in 84.0 s"),
    *ran(("evaluate", 17), ("register", 19), ("finish", 6)),
]
JUDGED = [
    *ran(("detect_changes", 10)),
    *("prepare_data started", "recall started", "recall finished in 7.0 s", "prepare_data finished in 12.0 s"),
    *ran(("evaluate", 18), ("register", 17), ("finish", 6)),
]
WORKERS = [
    *ran(("detect_changes", 9), ("prepare_data", 13), ("search", 31), ("select_trial", 8), ("train_head", 12)),
    *ran(("fine_tune", 12), ("evaluate", 16), ("register", 19), ("finish", 7)),
]


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("succeeded", WHOLE),
        ("skipped", ran(("detect_changes", 9), ("finish", 7))),
        ("judged", JUDGED),
        ("two-workers", WORKERS),
        ("pods-lost", LOST),
    ],
)
def test_the_steps_of_a_run_that_ended_well_are_lines(name: str, steps: list[str], waited: Any) -> None:
    """Each step that ran is shown once with its seconds and its attempts after the first, and no other step is."""
    answer = waited(recorded(name))
    assert (answer.status, lines_of(answer)) == (0, [*steps, *ending("succeeded")])


FAILED = [
    *ran(("detect_changes", 10)),
    *("prepare_data started", "prepare_data failed in 90.0 s"),
    *ran(("finish", 10)),
]
DRIVERLESS = [
    *ran(("detect_changes", 10), ("prepare_data", 20)),
    "search did not start: Kubeflow's driver for it failed; see its log (search-driver)",
    *ran(("finish", 10)),
]
TERMINATED = ran(("detect_changes", 9), ("prepare_data", 14))


@pytest.mark.parametrize(
    ("name", "steps", "said"),
    [
        ("step-failed", FAILED, "Kubeflow says that the run ended as failed."),
        ("driver-failed", DRIVERLESS, "Kubeflow says that the run ended as failed."),
        ("terminated", TERMINATED, "The run was terminated on Kubeflow."),
    ],
)
def test_steps_that_never_ran_are_not_shown(
    name: str, steps: list[str], said: str, waited: Any, kubeflow_server: Kubeflow
) -> None:
    """Of a run that failed or was terminated only what ran is shown, and why the rest did not where that is known."""
    answer = waited(recorded(name))
    link = f"{kubeflow_server.host}/#/runs/details/{next(iter(kubeflow_server.runs))}"
    assert (answer.status, lines_of(answer)) == (1, [*steps, f"Error: {said} See {link} ."])


@pytest.mark.parametrize(("name", "pod"), [("no-image", "2085455571"), ("no-node", "2280118620")])
def test_a_pod_that_does_not_begin_is_reported_once(
    name: str, pod: str, waited: Any, kubeflow_server: Kubeflow
) -> None:
    """A step whose pod has been pending for a minute has not started; the command that tells why is shown."""
    answer = waited(recorded(name), more=("--wait-minutes", "0.003", "--namespace", "team"))
    run = next(iter(kubeflow_server.runs))
    why = f"to see why: kubectl -n team {PENDING.format(run=run)}"
    link = f"{kubeflow_server.host}/#/runs/details/{run}"
    assert answer.status == 1
    assert lines_of(answer) == [
        f"detect_changes its pod …-{pod} has not started since 15:11:11 UTC; {why}",
        f"Error: The run has not ended within 0.003 minutes. The run continues: {link}",
    ]


def test_a_pod_may_take_a_minute(waited: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod that has been pending for less than the constant says is no news."""
    monkeypatch.setattr(progress, "PENDING_SECONDS", float("inf"))
    [line] = lines_of(waited(recorded("no-image"), more=("--wait-minutes", "0.003")))
    assert line.startswith("Error: The run has not ended")


def test_a_run_is_shown_as_it_grows(waited: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at one run, fifteen seconds and more apart, show each step once, in order, with its whole time."""
    monkeypatch.setattr(progress, "PENDING_SECONDS", float("inf"))
    looks = [json.loads(line) for line in (RECORDED / "timeline.jsonl").read_text().splitlines()]
    answer = waited(*looks)
    steps = ran(("detect_changes", 10), ("prepare_data", 21), ("search", 20), ("select_trial", 20), ("train_head", 21))
    steps += ran(("fine_tune", 20), ("evaluate", 21), ("register", 20), ("finish", 10))
    assert (answer.status, lines_of(answer)) == (0, [*steps, *ending("succeeded")])


def seen_at(clock: str, answer: dict[str, Any]) -> Any:
    """A run as it was at a time of its day, by the history of each task's state; Argo's second pods come by and by."""
    moment = f"2026-11-29T{clock}Z"
    whole = answer["run_details"]["task_details"]
    again = [task["start_time"] for task in whole if task["display_name"] == "executor(1)"]
    tasks = []
    for task in whole:
        past = [entry for entry in task["state_history"] if entry["update_time"] <= moment]
        if past and task["start_time"] <= moment:
            over = task["end_time"] <= moment and len(past) == len(task["state_history"])
            now = {**task, "state": past[-1].get("state"), "end_time": task["end_time"] if over else ZERO}
            if task["display_name"] == "executor":
                second = any(task["start_time"] < start <= min(moment, task["end_time"]) for start in again)
                now["child_tasks"] = task["child_tasks"][: 1 + second]
            tasks.append(now)
    return model_of({**answer, "state": "RUNNING", "run_details": {"task_details": tasks}}, "V2beta1Run")


def test_each_change_is_an_event_when_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is started when its pod runs, not while that is pending, and its second pod is said when it is there."""
    monkeypatch.setattr(progress, "PENDING_SECONDS", float("inf"))
    answer, shown = recorded("pods-lost"), progress.Progress(LAB)
    seen = {
        clock: [
            (event["step"], event["event"], event.get("text", "")) for event in shown.events(seen_at(clock, answer))
        ]
        for clock in ("14:42:46", "14:42:50", "14:42:56", "14:43:50", "14:44:40", "14:45:05", "14:45:17")
    }
    assert list(seen.values()) == [
        [],
        [("detect_changes", "started", "")],
        [("detect_changes", "finished", "")],
        [("prepare_data", "started", ""), ("prepare_data", "finished", ""), ("search", "started", "")],
        [],
        [("search", "note", "started again (attempt 2)")],
        [("search", "finished", "")],
    ]


def test_parallel_steps_are_told_apart() -> None:
    """Of two steps that run side by side, one of which has ended, the other's pending pod is that one's."""
    answer = recorded("judged")
    for task in answer["run_details"]["task_details"]:
        name = task["display_name"]
        if name == "executor(0)" and (task["start_time"], task["end_time"][11:19]) == (
            "2026-11-29T14:54:30Z",
            "14:54:41",
        ):
            task |= {"state": "PENDING", "end_time": ZERO}
        elif name == "prepare-data-2" or (name == "executor" and task["end_time"][11:19] == "14:54:42"):
            task |= {"state": "RUNNING", "end_time": ZERO}
    shown = progress.Progress(LAB).events(model_of({**answer, "state": "RUNNING"}, "V2beta1Run"))
    notes = [event for event in shown if event["event"] == "note"]
    started = {event["step"] for event in shown if event["event"] == "started"}
    assert [note["step"] for note in notes] == ["prepare_data"]
    assert ("recall" in started, "prepare_data" in started) == (True, False)


def test_a_driver_that_does_not_begin_is_reported() -> None:
    """Where Kubeflow's own pod before a step is pending, that is said too, once."""
    answer = recorded("no-image")
    [driver] = [t for t in answer["run_details"]["task_details"] if t["display_name"] == "root-driver(0)"]
    driver |= {"state": "PENDING", "end_time": ZERO}
    answer["run_details"]["task_details"] = [driver]
    shown = progress.Progress(LAB, "kubectl")
    [event] = shown.events(model_of(answer, "V2beta1Run"))
    assert event["text"] == "its pod root-driver(0) has not started since 15:10:57 UTC; to see why: kubectl"
    assert shown.events(model_of(answer, "V2beta1Run")) == []


def test_a_branch_that_is_started_again_is_one_step() -> None:
    """Where Argo starts a branch again as a whole, its step is started again, with the attempts of both branches."""
    shown = progress.Progress(LAB)
    seen = []
    for states in (("RUNNING",), ("FAILED",), ("FAILED", "RUNNING"), ("FAILED", "SUCCEEDED")):
        tasks = _branches(states)
        run = api.V2beta1Run(state="RUNNING", run_details=api.V2beta1RunDetails(task_details=tasks))
        seen.append([event.get("text") or event["event"] for event in shown.events(run)])
    assert seen == [["started"], ["failed"], ["started", "started again (attempt 2)"], ["finished"]]
    [[part]] = [list(group.values()) for group in progress._parts(tasks, STEPS).values()]
    assert (part.state, part.attempts, part.end - part.begin) == ("finished", 2, 5.0)


def _branches(states: tuple[str, ...]) -> list[Any]:
    """The tasks of a branch that was started once for each of these states, each time with one step in it."""
    tries = [f"wf.branch({number})" for number in range(len(states))]
    tasks = [_task("wf", ["wf.branch"]), _task("wf.branch", tries)]
    for number, (root, state) in enumerate(zip(tries, states, strict=True)):
        step, executor = f"{root}.search", f"{root}.search(0).executor"
        chain = [root, step, f"{step}(0)", executor, f"{executor}(0)"]
        for path, child in zip(chain, [*chain[1:], ""], strict=True):
            tasks.append(_task(path, [child] if child else [], number, state))
    return tasks


def _task(path: str, children: list[str], after: int = 0, state: str = "RUNNING") -> Any:
    """A task as the API tells of it: by its last name, with Argo's ids of its children."""
    begin = datetime(2026, 11, 29, 12, after, tzinfo=UTC)
    return api.V2beta1PipelineTaskDetail(
        display_name=path.rpartition(".")[2],
        state=state,
        start_time=begin,
        end_time=begin + timedelta(seconds=5) if state != "RUNNING" else None,
        child_tasks=[api.PipelineTaskDetailChildTask(pod_name=f"wf-{progress._hashed(one)}") for one in children],
    )
