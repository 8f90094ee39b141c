"""What a task of a compiled DAG is given on a cluster, found and checked as Kubeflow's driver does.

Values are as the driver holds them: booleans are booleans, every number is a double, lists and mappings hold the like.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.kubeflow.conditions import kind

DONE = ("COMPLETE", "CACHED", "CANCELED")
ACCEPTED = {
    "number": ("NUMBER_DOUBLE", "NUMBER_INTEGER"),
    "bool": ("BOOLEAN",),
    "list": ("LIST",),
    "struct": ("STRUCT", "TASK_FINAL_STATUS", "TASK_CONFIG"),
}
Spec = dict[str, Any]


class DriverError(Exception):
    """A driver's pod fails with this sentence."""


class MissingValueError(DriverError):
    """An input of a run or a sub-DAG that is optional and was given nothing."""


class Refused(Exception):  # noqa: N818 - an answer
    """The API refuses to start the run."""


@dataclass
class Execution:
    """What the metadata store knows of a task that was begun."""

    name: str
    component: Spec
    parent: "Execution | None" = None
    index: int | None = None
    iterations: int | None = None
    state: str = "RUNNING"
    parameters: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, list[Spec]] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    made_artifacts: dict[str, Spec] = field(default_factory=dict)
    children: list["Execution"] = field(default_factory=list)

    @property
    def dag(self) -> Spec | None:
        """The tasks and outputs of a sub-DAG; none of a step."""
        found: Spec | None = self.component.get("dag")
        return found

    def child(self, name: str) -> "Execution":
        """The task of that name in this DAG.

        Raises:
            DriverError: It was never begun.
        """
        found = [one for one in self.children if one.name == name]
        if not found:
            raise DriverError(f"producer task, {name}, not in tasks")
        return found[0]

    def settle(self) -> None:
        """Say of this DAG how it ended, once its steps tell; only the end of a step's pod asks for that.

        The DAG of the whole run has no number of tasks in the store, so it never ends there.
        """
        if self.parent is None or self.dag is None:
            return
        states = [one.state for one in self.children]
        expected = len(self.dag["tasks"]) if self.iterations is None else self.iterations
        if sum(state in DONE for state in states) == expected:
            self.state = "COMPLETE"
        elif "FAILED" in states:
            self.state = "FAILED"
        else:
            return
        self.parent.settle()


def held(value: Any) -> Any:
    """A value as the driver holds it."""
    if isinstance(value, list | tuple):
        return [held(item) for item in value]
    if isinstance(value, Mapping):
        return {key: held(item) for key, item in value.items()}
    return float(value) if kind(value) == "number" else value


def plain(value: Any) -> Any:
    """A value as a step reads it from JSON, where a double without a fraction has no point."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def text(value: Any) -> str:
    """What becomes of a value that goes into a string."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(plain(value), separators=(",", ":"))


def run_parameters(root: Spec, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a run, checked as the API does; defaults stand in.

    Raises:
        Refused: One is missing, unknown or of another type.
    """
    definitions = root.get("inputDefinitions", {}).get("parameters", {})
    unknown = given.keys() - definitions.keys()
    if unknown:
        raise Refused(f"parameter(s) provided are not required by pipeline: {', '.join(sorted(unknown))}")
    found = {}
    for name, definition in definitions.items():
        if name in given:
            wanted, value = definition["parameterType"], held(given[name])
            if wanted not in (*ACCEPTED.get(kind(value), ()), "STRING" if kind(value) == "string" else ""):
                raise Refused(f"input parameter {name} requires type {wanted}, but the parameter value is not")
            found[name] = value
        elif "defaultValue" in definition:
            found[name] = held(definition["defaultValue"])
        elif not definition.get("isOptional"):
            lack = "is not optional, yet has neither default value nor user provided value"
            raise Refused(f"parameter {name} {lack}")
    return found


def find_inputs(task: Spec, execution: Execution) -> None:
    """Give an execution the inputs of its task.

    Raises:
        DriverError: One can't be found or has another type than the component declares.
    """
    dag = execution.parent
    assert dag is not None
    missing: set[str] = set()
    if execution.index is not None:
        _take_item(task, execution, dag)
    else:
        missing = _leave_out(task, execution)
        for name, source in task.get("inputs", {}).get("parameters", {}).items():
            try:
                execution.parameters[name] = _parameter(task, source, dag)
            except MissingValueError:
                if not _definitions(execution).get(name, {}).get("isOptional"):
                    raise
        for name, source in task.get("inputs", {}).get("artifacts", {}).items():
            execution.artifacts[name] = _artifacts(source, dag)
    _check(task, execution, missing)


def items_of(task: Spec, execution: Execution) -> list[Any]:
    """What a loop goes through; items that the DAG holds are kept as its input, where each iteration finds its own.

    Raises:
        DriverError: It is no list.
    """
    iterator = task["parameterIterator"]
    if "raw" in iterator["items"]:
        execution.parameters[iterator["itemInput"]] = held(json.loads(iterator["items"]["raw"]))
    return _list(execution.parameters.get(_items_input(iterator)))


def _items_input(iterator: Spec) -> str:
    name: str = iterator["items"].get("inputParameter") or iterator["itemInput"]
    return name


def _list(value: Any) -> list[Any]:
    value = held(json.loads(value)) if isinstance(value, str) else value
    if not isinstance(value, list):
        raise DriverError(f"value of type {kind(value)} cannot be iterated")
    return value


def _definitions(execution: Execution) -> dict[str, Spec]:
    found: dict[str, Spec] = execution.component.get("inputDefinitions", {}).get("parameters", {})
    return found


def _take_item(task: Spec, execution: Execution, loop: Execution) -> None:
    """An iteration has its loop's inputs, and one item in place of all."""
    assert execution.index is not None
    parameters = dict(loop.parameters)
    items = _list(parameters.pop(_items_input(task["parameterIterator"])))
    parameters[task["parameterIterator"]["itemInput"]] = items[execution.index]
    execution.parameters, execution.artifacts = parameters, dict(loop.artifacts)


def _leave_out(task: Spec, execution: Execution) -> set[str]:
    """A sub-DAG's optional inputs that no one gives are its defaults, else nothing; the names of the latter."""
    given = task.get("inputs", {}).get("parameters", {})
    left = {
        name: held(facts.get("defaultValue"))
        for name, facts in _definitions(execution).items()
        if execution.dag and name not in given and facts.get("isOptional")
    }
    execution.parameters |= left
    return {name for name, value in left.items() if value is None}


def _parameter(task: Spec, source: Spec, dag: Execution) -> Any:
    if "componentInputParameter" in source:
        name = source["componentInputParameter"]
        if name not in dag.parameters:
            raise DriverError(f"parent DAG does not have input parameter {name}")
        if dag.parameters[name] is None:
            raise MissingValueError(f"the resolved input parameter is null: {name}")
        return dag.parameters[name]
    if "taskOutputParameter" in source:
        read = source["taskOutputParameter"]
        return _output(dag.child(read["producerTask"]), read["outputParameterKey"])
    if "taskFinalStatus" in source:
        watched = dag.child(task["dependentTasks"][0])
        return {"state": watched.state, "pipelineTaskName": watched.name, "error": {}}
    constant = source["runtimeValue"]["constant"]
    if isinstance(constant, str) and "{{$." in constant:
        raise NotImplementedError(constant)
    return held(constant)


def _output(task: Execution, key: str) -> Any:
    """A step's output, through any number of sub-DAGs; of a loop the list of all its items' outputs."""
    if task.dag is None:
        return task.made.get(key)
    if task.iterations:
        return _collected(task, key)
    return _output(*_maker(task, key))


def _collected(task: Execution, key: str) -> list[Any]:
    """The outputs of all items; a loop within a loop makes no list of its own."""
    if task.dag is None:
        return [task.made.get(key)]
    if task.iterations is None:
        return _collected(*_maker(task, key))
    return [value for one in task.children for value in _collected(one, key)]


def _maker(task: Execution, key: str) -> tuple[Execution, str]:
    """The task inside a sub-DAG that makes one of its outputs; of several branches the first that was done."""
    assert task.dag is not None
    output = task.dag.get("outputs", {}).get("parameters", {}).get(key, {})
    if "valueFromParameter" in output:
        read = output["valueFromParameter"]
        return task.child(read["producerSubtask"]), read["outputParameterKey"]
    for read in output.get("valueFromOneof", {}).get("parameterSelectors", []):
        if any(one.name == read["producerSubtask"] and one.state in ("COMPLETE", "CACHED") for one in task.children):
            return task.child(read["producerSubtask"]), read["outputParameterKey"]
    raise DriverError(f"no successful task found for output key {key!r} in {task.name!r}")


def _artifacts(source: Spec, dag: Execution) -> list[Spec]:
    if "componentInputArtifact" in source:
        name = source["componentInputArtifact"]
        if name not in dag.artifacts:
            raise DriverError(f"parent DAG does not have input artifact {name}")
        return dag.artifacts[name]
    read = source["taskOutputArtifact"]
    return _made_artifacts(dag.child(read["producerTask"]), read["outputArtifactKey"])


def _made_artifacts(task: Execution, key: str) -> list[Spec]:
    if task.dag is None:
        if key not in task.made_artifacts:
            raise DriverError(f"cannot find output artifact key {key!r} in producer task {task.name!r}")
        return [task.made_artifacts[key]]
    if task.iterations is not None:
        return [artifact for one in task.children for artifact in _made_artifacts(one, key)]
    selectors = task.dag.get("outputs", {}).get("artifacts", {}).get(key, {}).get("artifactSelectors", [])
    for read in selectors:
        done = any(one.name == read["producerSubtask"] and one.state in ("COMPLETE", "CACHED") for one in task.children)
        if done or len(selectors) == 1:
            return _made_artifacts(task.child(read["producerSubtask"]), read["outputArtifactKey"])
    raise DriverError(f"no successful task found for output key {key!r} in {task.name!r}")


def _check(task: Spec, execution: Execution, missing: set[str]) -> None:
    """Each input has the type that the component declares; whatever goes into a string becomes text."""
    iterator = task.get("parameterIterator", {})
    for name, definition in _definitions(execution).items():
        not_yet = (
            iterator.get("itemInput") if execution.index is None else iterator.get("items", {}).get("inputParameter")
        )
        if iterator and name == not_yet:
            continue
        if name not in execution.parameters:
            if not definition.get("isOptional") and "defaultValue" not in definition:
                raise DriverError(f'neither value nor default value provided for non-optional parameter "{name}"')
            continue
        value = execution.parameters[name]
        if value is None and name in missing:
            continue
        if definition["parameterType"] == "STRING":
            execution.parameters[name] = text(value)
        elif value is None:
            raise DriverError(f'got null for input parameter "{name}"')
        elif definition["parameterType"] not in ACCEPTED.get(kind(value), ()):
            wanted = definition["parameterType"]
            raise DriverError(f'input parameter "{name}" type mismatch: expect {wanted}, got {kind(value)}')
