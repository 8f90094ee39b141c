"""The types along every edge of a compiled DAG: what flows out of one place has to be what the next one declares."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LISTED = "LIST"
KINDS: dict[type, str] = {bool: "BOOLEAN", str: "STRING", list: LISTED, dict: "STRUCT"}
Spec = dict[str, Any]


@dataclass(frozen=True)
class Edge:
    """Where a value or an artifact crosses from one definition into another."""

    kind: str
    where: str
    comes: str
    declared: str

    @property
    def fits(self) -> bool:
        """Both sides have one type; a number that is written down has no fraction where an integer is declared."""
        whole = self.comes == "NUMBER_INTEGER" and self.declared == "NUMBER_DOUBLE" and self.kind in LITERAL
        return "" not in (self.comes, self.declared) and (self.comes == self.declared or whole)


LITERAL = ("constant", "default", "item")


def mismatches(spec: Spec) -> list[str]:
    """One line for each edge whose sides differ."""
    return [
        f"{e.kind} {e.where}: {e.comes or 'nothing'} into {e.declared or 'nothing'}" for e in edges(spec) if not e.fits
    ]


def edges(spec: Spec) -> Iterator[Edge]:
    """Every edge of the DAG, sub-DAGs included."""
    loops = _loops(spec)
    for name, component in _components(spec).items():
        yield from _defaults(name, component)
        if "dag" in component:
            yield from _outputs(spec, name, component, looped=name in loops)
            for key, task in component["dag"]["tasks"].items():
                place = f"{name}/{key}"
                yield from _parameters(spec, place, component, task)
                yield from _artifacts(spec, place, component, task)
                yield from _items(spec, place, name, task)


def _components(spec: Spec) -> dict[str, Spec]:
    return {"root": spec["root"], **spec["components"]}


def _loops(spec: Spec) -> set[str]:
    """The components that are run once for each item."""
    return {task["componentRef"]["name"] for _, task in _tasks(spec) if "parameterIterator" in task}


def _tasks(spec: Spec) -> Iterator[tuple[str, Spec]]:
    for name, component in _components(spec).items():
        for task in component.get("dag", {}).get("tasks", {}).values():
            yield name, task


def _declared(component: Spec, side: str, what: str) -> dict[str, Spec]:
    found: dict[str, Spec] = component.get(side, {}).get(what, {})
    return found


def _type(definitions: dict[str, Spec], name: str) -> str:
    """A parameter's type, or an artifact's title with a mark for lists; nothing where there is no such definition."""
    definition = definitions.get(name, {})
    title = definition.get("artifactType", {}).get("schemaTitle", "")
    return definition.get("parameterType", "") or title + ("[]" if definition.get("isArtifactList") else "")


def _literal(value: Any) -> str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return "NUMBER_INTEGER" if float(value).is_integer() else "NUMBER_DOUBLE"
    return KINDS.get(type(value), "")


def _defaults(name: str, component: Spec) -> Iterator[Edge]:
    for key, definition in _declared(component, "inputDefinitions", "parameters").items():
        if "defaultValue" in definition:
            comes = _literal(definition["defaultValue"])
            yield Edge("default", f"{name}.{key}", comes, definition.get("parameterType", ""))


def _producer(spec: Spec, dag: Spec, task: str, what: str, key: str) -> str:
    """The type of an output of a task beside the one that reads it."""
    name = dag["dag"]["tasks"][task]["componentRef"]["name"]
    return _type(_declared(spec["components"][name], "outputDefinitions", what), key)


def _parameters(spec: Spec, place: str, dag: Spec, task: Spec) -> Iterator[Edge]:
    component = spec["components"][task["componentRef"]["name"]]
    definitions = _declared(component, "inputDefinitions", "parameters")
    given = task.get("inputs", {}).get("parameters", {})
    for key, source in given.items():
        kind, comes = _source(spec, dag, source)
        yield Edge(kind, f"{place}.{key}", comes, _type(definitions, key))
    item = task.get("parameterIterator", {}).get("itemInput")
    for key, definition in definitions.items():
        if key not in given and key != item and not definition.get("isOptional"):
            yield Edge("given", f"{place}.{key}", "", definition.get("parameterType", ""))


def _source(spec: Spec, dag: Spec, source: Spec) -> tuple[str, str]:
    if "componentInputParameter" in source:
        definitions = _declared(dag, "inputDefinitions", "parameters")
        return "input", _type(definitions, source["componentInputParameter"])
    if "taskOutputParameter" in source:
        read = source["taskOutputParameter"]
        return "output", _producer(spec, dag, read["producerTask"], "parameters", read["outputParameterKey"])
    if "taskFinalStatus" in source:
        known = source["taskFinalStatus"]["producerTask"] in dag["dag"]["tasks"]
        return "status", "TASK_FINAL_STATUS" if known else ""
    return "constant", _literal(source["runtimeValue"]["constant"])


def _artifacts(spec: Spec, place: str, dag: Spec, task: Spec) -> Iterator[Edge]:
    component = spec["components"][task["componentRef"]["name"]]
    definitions = _declared(component, "inputDefinitions", "artifacts")
    given = task.get("inputs", {}).get("artifacts", {})
    for key, source in given.items():
        if "componentInputArtifact" in source:
            comes = _type(_declared(dag, "inputDefinitions", "artifacts"), source["componentInputArtifact"])
        else:
            read = source["taskOutputArtifact"]
            comes = _producer(spec, dag, read["producerTask"], "artifacts", read["outputArtifactKey"])
        yield Edge("artifact", f"{place}.{key}", comes, _type(definitions, key))
    for key in definitions.keys() - given.keys():
        if not definitions[key].get("isOptional"):
            yield Edge("given", f"{place}.{key}", "", _type(definitions, key))


def _items(spec: Spec, place: str, dag: str, task: Spec) -> Iterator[Edge]:
    """What a loop goes through, and each item of it that the DAG itself holds."""
    if "parameterIterator" not in task:
        return
    loop, items = task["parameterIterator"]["itemInput"], task["parameterIterator"]["items"]
    component = spec["components"][task["componentRef"]["name"]]
    definitions = _declared(component, "inputDefinitions", "parameters")
    if "raw" in items:
        held = json.loads(items["raw"])
    else:
        yield Edge("items", f"{place}.{items['inputParameter']}", _type(definitions, items["inputParameter"]), LISTED)
        held = _held(spec, dag, task["inputs"]["parameters"].get(items["inputParameter"], {}))
    for value in held:
        yield Edge("item", f"{place}.{loop}", _literal(value), _type(definitions, loop))


def _held(spec: Spec, dag: str, source: Spec) -> list[Any]:
    """The items of a list that is written in the DAG: a constant, or the default of an input that it comes from."""
    if "runtimeValue" in source:
        return _as_list(source["runtimeValue"]["constant"])
    name = source.get("componentInputParameter")
    if name is None:
        return []
    definition = _declared(_components(spec)[dag], "inputDefinitions", "parameters").get(name, {})
    found = _as_list(definition.get("defaultValue"))
    for user, task in _tasks(spec):
        if task["componentRef"]["name"] == dag:
            found += _held(spec, user, task.get("inputs", {}).get("parameters", {}).get(name, {}))
    return found


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else []


def _outputs(spec: Spec, name: str, dag: Spec, *, looped: bool) -> Iterator[Edge]:
    """What a sub-DAG hands out, by each task that may have made it; a loop hands out lists."""
    outputs = dag["dag"].get("outputs", {})
    for what in ("parameters", "artifacts"):
        definitions = _declared(dag, "outputDefinitions", what)
        for key in definitions.keys() - outputs.get(what, {}).keys():
            yield Edge("given", f"{name}.{key}", "", _type(definitions, key))
        for key, output in outputs.get(what, {}).items():
            for read in _selectors(output):
                made = read.get("outputParameterKey") or read["outputArtifactKey"]
                comes = _producer(spec, dag, read["producerSubtask"], what, made)
                if looped:
                    comes = comes and (LISTED if what == "parameters" else comes.removesuffix("[]") + "[]")
                yield Edge("handed out", f"{name}.{key}", comes, _type(definitions, key))


def _selectors(output: Spec) -> list[Spec]:
    if "valueFromParameter" in output:
        return [output["valueFromParameter"]]
    found: list[Spec] = output.get("valueFromOneof", {}).get("parameterSelectors", []) or output["artifactSelectors"]
    return found
