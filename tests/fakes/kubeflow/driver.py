"""A small interpreter of a compiled DAG by the rules of Kubeflow 2.17: its drivers, its launcher, and Argo's order.

Tasks that wait for nothing begin side by side, drivers first, and then go on one after another. Left out: the end of a
branch that is at work when another fails, a pod that Argo tries again together with all of its sub-DAG, Kubeflow's
cache. Nobody has seen a failed exit handler on a cluster: here it leaves the run's state as it was.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.fakes.kubeflow.conditions import ConditionError, holds
from tests.fakes.kubeflow.inputs import DriverError, Execution, Spec, find_inputs, held, items_of, plain, run_parameters
from tests.fakes.kubeflow.server import parse_package

AT_THE_END = "ALL_UPSTREAM_TASKS_COMPLETED"
RETRIES = 2  # of Argo's defaults, where a task has no retries of its own


class Killed(Exception):  # noqa: N818 - what happens to a pod
    """A step's pod ends before its launcher could write down how, as one that is over its time does."""


class PodLost(Killed):
    """A step's pod is deleted, or its node goes away; this alone is what Argo calls an error and tries again."""


@dataclass(frozen=True)
class Call:
    """One pod of a step: what it is given, and the places of what it makes."""

    path: str
    function: str
    parameters: dict[str, Any]
    artifacts: dict[str, list[Spec]]
    component: Spec
    made: dict[str, Spec]


Perform = Callable[[Call], Mapping[str, Any]]  # runs a step and returns the parameters that it makes


@dataclass(frozen=True)
class Interpreted:
    """How a run went. States are those of Kubeflow's API, which has none of a task that was left out."""

    state: str
    told: str
    tasks: Mapping[str, str | None]
    nodes: tuple[tuple[str, str | None], ...]
    pods: tuple[str, ...]
    calls: tuple[Call, ...]
    outputs: Mapping[str, Mapping[str, Any]]
    errors: Mapping[str, str]

    def named(self, state: str | None) -> list[str]:
        """The tasks in that state, by their paths."""
        return [path for path, found in self.tasks.items() if found == state]


def run(
    package: str,
    parameters: Mapping[str, Any],
    perform: Perform,
    root: str = "s3://artifacts",
    policy: str = "OnError",
    terminate_at: str = "",
) -> Interpreted:
    """Run a compiled DAG.

    Args:
        package: The YAML.
        parameters: Of the run, as they are submitted.
        perform: Runs each step.
        root: Folder or address of the artifacts.
        policy: Argo's `retryPolicy`: `OnError` tries again only pods that were lost, `Always` those that failed, too.
        terminate_at: The pod that is to start when the user terminates the run.

    Raises:
        Refused: The parameters are not those of the DAG.
    """
    spec, _ = parse_package(package)
    going = _Run(spec, perform, root, policy, terminate_at)
    state = going.whole(run_parameters(spec["root"], parameters))
    return Interpreted(
        state,
        going.told,
        going.tasks,
        tuple(going.nodes),
        tuple(going.pods),
        tuple(going.calls),
        going.outputs,
        going.errors,
    )


class _Terminated(Exception):  # noqa: N818 - not one of the step's
    pass


@dataclass(frozen=True)
class _Task:
    name: str
    spec: Spec
    dag: Execution
    path: str
    node: str
    index: int | None = None

    @property
    def needs(self) -> list[str]:
        found: list[str] = self.spec.get("dependentTasks", [])
        return found


@dataclass
class _Run:
    spec: Spec
    perform: Perform
    root: str
    policy: str
    terminate_at: str
    terminated: bool = False
    told: str = ""
    tasks: dict[str, str | None] = field(default_factory=dict)
    nodes: list[tuple[str, str | None]] = field(default_factory=list)
    pods: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outputs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def whole(self, parameters: dict[str, Any]) -> str:
        try:
            self._pod("root-driver")
        except _Terminated:
            return "FAILED"
        self._node("root-driver", "SUCCEEDED")
        state = self._dag(Execution("root", self.spec["root"], parameters=parameters), "")
        self._node("root", state)
        return state

    def _node(self, name: str, state: str | None) -> None:
        self.nodes.append((name, state))

    def _pod(self, name: str) -> None:
        self.pods.append(name)
        self.terminated = self.terminated or name == self.terminate_at
        if self.terminated:
            raise _Terminated("Step exceeded its deadline")

    def _dag(self, dag: Execution, path: str) -> str:
        """All tasks of a DAG, each as soon as those it needs are done."""
        assert dag.dag is not None
        tasks = [_Task(name, spec, dag, f"{path}/{name}".lstrip("/"), name) for name, spec in dag.dag["tasks"].items()]
        hooks = {task.needs[0]: task for task in tasks if _is_hook(task)}
        waiting = sorted((task for task in tasks if not _is_hook(task)), key=lambda task: task.name)
        states: dict[str, str | None] = {}
        failed = False
        while waiting:
            ready = [task for task in waiting if states.keys() >= set(task.needs)]
            waiting = [task for task in waiting if task not in ready]
            begun = [self._begin(task, states) for task in ready]
            for task, end in zip(ready, begun, strict=True):
                states[task.name], failing = end()
                failed = failed or failing
                if task.name in hooks and states[task.name] in ("SUCCEEDED", "FAILED"):
                    self._hook(task.name, hooks[task.name])
        return "FAILED" if failed else "SUCCEEDED"

    def _begin(self, task: _Task, states: Mapping[str, str | None]) -> Callable[[], tuple[str | None, bool]]:
        """Begin a task; what is returned ends it, and says its state and whether it fails its DAG."""
        is_loop = "parameterIterator" in task.spec
        if any(states[name] != "SUCCEEDED" for name in task.needs):
            for name in (task.name,) if is_loop else (f"{task.name}-driver", task.name):
                self._node(name, None)
            self.tasks[task.path] = None
            return lambda: (None, False)
        if is_loop:
            return lambda: self._loop(task)
        execution = self._drive(task, f"{task.node}-driver")
        return lambda: self._go_on(task, execution)

    def _hook(self, watched: str, task: _Task) -> None:
        """The exit handler, which begins whatever became of what it watches."""
        state, failed = self._go_on(task, self._drive(task, f"{task.node}-driver"))
        self._node(f"{watched}.onExit", "FAILED" if failed else state)

    def _drive(self, task: _Task, pod: str) -> Execution | None:
        """A driver's pod: find the inputs, look at the condition, and write the task into the store."""
        component = self.spec["components"][task.spec["componentRef"]["name"]]
        execution = Execution(task.name, component, task.dag, task.index)
        try:
            self._pod(pod)
            find_inputs(task.spec, execution)
            condition = task.spec.get("triggerPolicy", {}).get("condition")
            if condition and not holds(condition, execution.parameters):
                execution.state = "CANCELED"
            elif "parameterIterator" in task.spec and task.index is None:
                execution.iterations = len(items_of(task.spec, execution))
        except (DriverError, ConditionError, _Terminated) as error:
            self._node(pod, "FAILED")
            self.errors[task.path] = str(error)
            return None
        self._node(pod, "SUCCEEDED")
        task.dag.children.append(execution)
        return execution

    def _go_on(self, task: _Task, execution: Execution | None) -> tuple[str | None, bool]:
        """What comes after a task's driver: nothing, the pod of a step, or the tasks of a sub-DAG."""
        if execution is None:
            state = None
        elif execution.state == "CANCELED":
            state = "SKIPPED"
        elif execution.dag is None:
            state = self._step(task, execution)
        else:
            state = self._dag(execution, task.path)
        self._node(task.node, state)
        self.tasks[task.path] = state or "FAILED"
        return state, execution is None or state == "FAILED"

    def _loop(self, task: _Task) -> tuple[str | None, bool]:
        """A driver of the loop, and one for each item, side by side."""
        loop = self._drive(task, "iteration-driver")
        if loop is None or loop.iterations is None:
            state = "FAILED" if loop is None else "SUCCEEDED"
            self._node("iteration-iterations", None if loop is None else "SKIPPED")
        else:
            items = [
                replace(task, dag=loop, index=index, path=f"{task.path}[{index}]", node="iteration-item")
                for index in range(loop.iterations)
            ]
            begun = [self._drive(item, "iteration-item-driver") for item in items]
            ends = [self._go_on(item, execution) for item, execution in zip(items, begun, strict=True)]
            state = "FAILED" if any(failed for _, failed in ends) else "SUCCEEDED"
            self._node("iteration-iterations", state)
        self._node(task.name, state)
        self.tasks[task.path] = state
        return state, state == "FAILED"

    def _step(self, task: _Task, execution: Execution) -> str:
        """A step's pod, and another one as often as Argo tries again."""
        retries = int(task.spec.get("retryPolicy", {}).get("maxRetryCount", RETRIES))
        state = "FAILED"
        for attempt in range(1 + retries):
            call = self._call(task, execution, attempt)
            error = self._attempt(call, task.node, execution)
            if error is None:
                state = "SUCCEEDED"
                break
            self.errors[task.path] = str(error)
            if isinstance(error, _Terminated) or (self.policy != "Always" and not isinstance(error, PodLost)):
                break
        self._node("executor", state)
        return state

    def _attempt(self, call: Call, pod: str, execution: Execution) -> BaseException | None:
        """Run a step once; its launcher writes down how it ended, and how that ends the DAGs around it."""
        failed: BaseException | None = None
        try:
            self._pod(pod)
            self.calls.append(call)
            self.told = _told(call) or self.told
            made = self.perform(call)
            absent = call.component.get("outputDefinitions", {}).get("parameters", {}).keys() - made.keys()
            if absent:
                failed = FileNotFoundError(f"failed to read output parameters: {', '.join(sorted(absent))}")
        except (_Terminated, Killed) as error:
            return error
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a step ends with
            failed = error
        execution.state = "FAILED" if failed else "COMPLETE"
        if not failed:
            execution.made, execution.made_artifacts = held(made), call.made
            self.outputs[call.path] = dict(made)
        assert execution.parent is not None
        execution.parent.settle()
        return failed

    def _call(self, task: _Task, execution: Execution, attempt: int) -> Call:
        component = execution.component
        arguments = self.spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]["args"]
        definitions = component.get("inputDefinitions", {}).get("parameters", {})
        defaults = {name: facts["defaultValue"] for name, facts in definitions.items() if "defaultValue" in facts}
        made = {
            name: {"name": name, "uri": f"{self.root}/{task.path}/{attempt}/{name}", "metadata": {}}
            | {"type": facts["artifactType"]}
            for name, facts in component.get("outputDefinitions", {}).get("artifacts", {}).items()
        }
        function = arguments[arguments.index("--function_to_execute") + 1]
        parameters = plain(held(defaults) | execution.parameters)
        return Call(task.path, function, parameters, execution.artifacts, component, made)


def _is_hook(task: _Task) -> bool:
    return bool(task.spec.get("triggerPolicy", {}).get("strategy") == AT_THE_END)


def _told(call: Call) -> str:
    """What an exit handler is told of the run; nothing for other steps."""
    for name, facts in call.component.get("inputDefinitions", {}).get("parameters", {}).items():
        if facts["parameterType"] == "TASK_FINAL_STATUS" and name in call.parameters:
            return str(call.parameters[name]["state"])
    return ""


def stubs(**functions: Any) -> Perform:
    """Steps that do nothing: what each of these makes, raises, or finds by a call; the others make anything."""
    anything = {"STRING": "", "BOOLEAN": True, "NUMBER_INTEGER": 1, "NUMBER_DOUBLE": 1.0, "LIST": [], "STRUCT": {}}

    def perform(call: Call) -> Mapping[str, Any]:
        found = functions.get(call.function, {})
        found = found(call) if callable(found) else found
        if isinstance(found, BaseException):
            raise found
        definitions = call.component.get("outputDefinitions", {}).get("parameters", {})
        return {name: anything[facts["parameterType"]] for name, facts in definitions.items()} | dict(found)

    return perform
