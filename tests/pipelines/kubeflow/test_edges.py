"""The types along the edges of the compiled DAGs: a cluster's driver refuses what kfp's compiler lets pass."""

import copy
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pipelines.kubeflow import pods
from pipelines.kubeflow.pods import FINE_TUNING, SEARCHING_IN_PODS, Cluster
from tests.fakes.kubeflow.edges import edges, mismatches
from tests.support import every_kind
from tests.support.command import ROOT

Spec = dict[str, Any]
Path = tuple[str, ...]
GOLDEN = sorted((ROOT / "tests/golden").glob("*.yaml"))
RECORDED = ROOT / "tests/recorded"
EVERYTHING = ROOT / "tests/golden/cluster_options.yaml"


def read(text: str) -> Spec:
    spec: Spec = next(iter(yaml.load_all(text, Loader=yaml.CSafeLoader)))
    return spec


@functools.cache
def compiled(dag: str) -> str:
    return pods.compile_dag(Cluster(), dag).yaml


@pytest.fixture(scope="module")
def kinds() -> Spec:
    return read(every_kind.compiled())


def changed(spec: Spec, path: Path, value: Any) -> Spec:
    """A copy in which one thing is another."""
    copied = copy.deepcopy(spec)
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    assert inner[path[-1]] != value
    inner[path[-1]] = value
    return copied


def types(spec: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every type that is written anywhere in a DAG, with its place."""
    for key, value in spec.items() if isinstance(spec, dict) else ():
        if key in ("parameterType", "schemaTitle"):
            yield (*path, key), value
        elif key != "deploymentSpec":
            yield from types(value, (*path, key))


def readers(spec: Spec) -> dict[tuple[str, str], set[str]]:
    """Component and name of every output that is read, with the readers' DAGs, found by the selectors alone."""
    found: dict[tuple[str, str], set[str]] = {}
    for name, component in {"root": spec["root"], **spec["components"]}.items():
        tasks = component.get("dag", {}).get("tasks", {})
        for selector in selectors(component.get("dag", {})):
            task = tasks[selector.get("producerTask") or selector["producerSubtask"]]
            key = selector.get("outputParameterKey") or selector["outputArtifactKey"]
            place = f"{name} hands out" if "producerSubtask" in selector else name
            found.setdefault((task["componentRef"]["name"], key), set()).add(place)
    return found


def selectors(spec: Any) -> Iterator[Spec]:
    if isinstance(spec, dict) and {"outputParameterKey", "outputArtifactKey"} & spec.keys():
        yield spec
    for value in spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ():
        yield from selectors(value)


def loops(spec: Spec) -> set[str]:
    return {
        task["componentRef"]["name"]
        for component in (spec["root"], *spec["components"].values())
        for task in component.get("dag", {}).get("tasks", {}).values()
        if "parameterIterator" in task
    }


def meets_no_other(spec: Spec, path: Path) -> bool:
    """Whether it is the type of a step's output that nobody reads, or of a parameter that only goes into a list."""
    if path[0] == "root" or path[2] != "outputDefinitions" or "dag" in spec["components"][path[1]]:
        return False
    places = readers(spec).get((path[1], path[4]), set())
    return places <= (set() if path[3] == "artifacts" else {f"{name} hands out" for name in loops(spec)})


@pytest.mark.parametrize("path", [path for path in GOLDEN if path != EVERYTHING], ids=lambda path: path.stem)
def test_the_golden_dags_have_one_type_on_each_edge(path: Any) -> None:
    """What a task hands on is what the next one declares, in every sub-DAG, loop and branch."""
    assert mismatches(read(path.read_text())) == []


@pytest.mark.parametrize("dag", [FINE_TUNING, SEARCHING_IN_PODS, "canary"])
def test_the_compiled_dags_have_one_type_on_each_edge(dag: str) -> None:
    """So it is in what is submitted as it stands, the canary among it."""
    assert mismatches(read(compiled(dag))) == []


def test_every_kind_of_edge_is_looked_at(kinds: Spec) -> None:
    """A DAG of all kinds has them all, and none of them is taken for broken."""
    seen = {edge.kind for edge in edges(kinds)}
    assert seen == {"input", "output", "constant", "status", "default", "items", "item", "artifact", "handed out"}
    assert mismatches(kinds) == []


@pytest.mark.parametrize("dag", [FINE_TUNING, SEARCHING_IN_PODS, "every kind"])
def test_a_type_that_changes_on_either_side_is_found(dag: str, kinds: Spec) -> None:
    """Each type of a DAG, changed by itself, is found where it meets another."""
    spec = kinds if dag == "every kind" else read(compiled(dag))
    others = {"STRING": "BOOLEAN", "BOOLEAN": "STRING", "system.Model": "system.Dataset"}
    missed, alone = [], []
    for path, kind in types(spec):
        other = others.get(kind, "system.Model" if kind.startswith("system.") else "STRING")
        if not mismatches(changed(spec, path, other)):
            missed.append(path)
        if meets_no_other(spec, path):
            alone.append(path)
    assert missed == alone
    assert len(missed) < len(list(types(spec))) / 4


BRANCHES = ("components", "comp-branches", "dag", "tasks")
HANDLER = ("components", "comp-exit-handler-1", "dag", "tasks")


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ((*BRANCHES, "word", "inputs", "parameters", "text", "runtimeValue", "constant"), 4.0, "constant"),
        ((*HANDLER, "branches", "inputs", "parameters", "x", "runtimeValue", "constant"), 4.5, "constant"),
        ((*HANDLER, "for-loop-3", "parameterIterator", "items", "raw"), '[3, "6", 0]', "item"),
        (("root", "inputDefinitions", "parameters", "workers", "defaultValue"), ["1"], "item"),
        (("root", "inputDefinitions", "parameters", "workers", "defaultValue"), 1.0, "default"),
        ((*HANDLER, "for-loop-4", "parameterIterator", "items", "inputParameter"), "workers", "items"),
        ((*BRANCHES, "condition-branches-1", "inputs", "parameters"), {}, "given"),
        ((*HANDLER, "use", "inputs"), {}, "given"),
        (("components", "comp-branches", "dag", "outputs", "parameters"), {}, "given"),
        (("components", "comp-word", "inputDefinitions", "parameters", "flag", "defaultValue"), "yes", "default"),
        (
            ("root", "dag", "tasks", "end", "inputs", "parameters", "status", "taskFinalStatus", "producerTask"),
            "x",
            "status",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_found(path: Path, value: Any, found: str, kinds: Spec) -> None:
    """Values that the DAG itself holds, and inputs and outputs that nobody gives, are found."""
    assert {line.partition(" ")[0] for line in mismatches(changed(kinds, path, value))} >= {found}


def test_the_loop_that_a_cluster_refused_is_found() -> None:
    """Items declared as strings went into an integer; kfp compiled it, and the driver on a cluster failed."""
    assert mismatches(read((RECORDED / "dag_b96d06e.yaml").read_text())) == [
        "input comp-for-loop-1/search.worker: STRING into NUMBER_INTEGER"
    ]
