"""The interpreter of compiled DAGs against runs of a real Kubeflow 2.17, recorded from its API."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fakes.kubeflow.driver import Interpreted, PodLost, run, stubs
from tests.support.command import ROOT

RECORDED = ROOT / "tests/recorded"
WORKFLOW = re.compile(r"(fine-tuning|canary)-[a-z0-9]{5}")  # its own node, the run's state once more
LAB = (RECORDED / "dag_of_the_lab.yaml").read_text()
# the loop's items, as they were declared when its driver failed
BROKEN = LAB.replace(
    "-loop-item:\n          parameterType: NUMBER_INTEGER", "-loop-item:\n          parameterType: STRING"
)
GIVEN: dict[str, Any] = {"source": "s3://photos", "settings": "{}", "run_key": ""}
CANARY = {"run_key": "key", "secrets": "", "source": "s3://photos", "fail_once": True}
TRAIN, JUDGE, SKIP = (
    {"train": train, "judge": judge, "version": "", "input_digest": ""}
    for train, judge in ((True, False), (False, True), (False, False))
)


@dataclass(frozen=True)
class Recorded:
    """What the API said at the end of a run."""

    state: str
    nodes: Counter[tuple[str, str | None]]
    pods: Counter[str]


def recorded(name: str) -> Recorded:
    """A run's tasks, and the pods among their attempts."""
    answer = json.loads((RECORDED / f"run-{name}.json").read_text())
    tasks = [(task["display_name"], task.get("state")) for task in answer["run_details"]["task_details"]]
    nodes = Counter((task, state) for task, state in tasks if "(" not in task and not WORKFLOW.fullmatch(task))
    attempts = [task.partition("(")[0] for task, _ in tasks if "(" in task]
    return Recorded(
        answer["state"], nodes, Counter(task for task in attempts if task == "executor" or task.endswith("-driver"))
    )


def pods(found: Interpreted) -> Counter[str]:
    """The pods by the names that the API gives them: each step's is its `executor`."""
    return Counter(name if name.endswith("-driver") else "executor" for name in found.pods)


def lost_once() -> Any:
    """A step whose first pod is deleted."""
    pods = iter([PodLost("deleted")])

    def step(_call: Any) -> Any:
        return next(pods, {})

    return step


def canary(policy: str) -> Interpreted:
    """The canary's second step fails at its first attempt."""
    attempts = iter([RuntimeError("on purpose")])
    steps = stubs(look={"Output": True}, look_again=lambda _call: next(attempts, {}))
    return run((RECORDED / "canary_of_the_lab.yaml").read_text(), CANARY, steps, policy=policy)


def lab(workers: int = 1, package: str = LAB, terminate_at: str = "", **steps: Any) -> Interpreted:
    """A run of the DAG that was recorded."""
    given = GIVEN | {"search_workers": list(range(workers))}
    return run(package, given, stubs(**{"detect_changes": TRAIN, **steps}), terminate_at=terminate_at)


RUNS = {
    "succeeded": lab,
    "plugin": lab,
    "two-workers": lambda: lab(workers=2),
    "judged": lambda: lab(detect_changes=JUDGE),
    "skipped": lambda: lab(detect_changes=SKIP),
    "step-failed": lambda: lab(prepare_data=SystemExit(1)),
    "driver-failed": lambda: lab(package=BROKEN),
    "pods-lost": lambda: lab(search=lost_once(), fine_tune=lost_once()),
    "terminated": lambda: lab(terminate_at="iteration-driver"),
    "canary-on-error": lambda: canary("OnError"),
    "canary-always": lambda: canary("Always"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_as_it_went_on_a_real_cluster(name: str) -> None:
    """The same tasks succeed, fail, are skipped and left out, in as many pods, and the run ends the same way."""
    found, wanted = RUNS[name](), recorded(name)
    assert found.state == wanted.state
    assert Counter(found.nodes) == wanted.nodes, found.errors
    assert pods(found) == wanted.pods


@pytest.mark.parametrize(
    ("name", "word"), [("succeeded", "COMPLETE"), ("skipped", "RUNNING"), ("step-failed", "FAILED"), ("terminated", "")]
)
def test_the_exit_handler_is_told_what_it_was_told(name: str, word: str) -> None:
    """It hears COMPLETE after success, RUNNING where all branches stay out, FAILED after a step's failure."""
    assert RUNS[name]().told == word


def test_pods_are_counted_as_they_were() -> None:
    """A training run had 26 pods, and a week without changes 9."""
    assert (len(lab().pods), len(lab(detect_changes=SKIP).pods)) == (26, 9)


def test_the_loop_fails_with_the_drivers_sentence() -> None:
    """An item that was declared as text fits no integer."""
    found = lab(package=BROKEN)
    path = "exit-handler-1/train-or-judge/condition-1/best-trial/for-loop-1[0]/search"
    assert found.errors == {path: 'input parameter "worker" type mismatch: expect NUMBER_INTEGER, got string'}
