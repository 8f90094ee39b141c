"""Check a task and its target against the contract; name what is missing or wrong in one sentence."""

import ast
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from components.core.errors import InputError

PAGE = "docs/own-task.md says what each member is."


def check_members(own: object, protocols: Sequence[type], defaults: type, whose: str) -> None:
    """Refuse a task or target that lacks a member, or has one of another form.

    Args:
        own: The task's module, or the target.
        protocols: Classes that declare the members.
        defaults: Has those that are optional.
        whose: Begins the sentence, such as "The task mine.points".

    Raises:
        InputError: A member is missing, or has another form.
    """
    declared = [(name, protocol) for protocol in protocols for name in _members(protocol)]
    missing = [name for name, _ in declared if not hasattr(own, name) and not hasattr(defaults, name)]
    if missing:
        where = f" in {file}" if (file := getattr(own, "__file__", "")) else ""
        raise InputError(f"{whose} lacks {_listed(missing)}{where}.", PAGE)
    for name, protocol in declared:
        if hasattr(own, name) and (reason := _misfit(getattr(own, name), name, protocol)):
            raise InputError(f"{whose} can't be used: {reason}.", PAGE)


def check_shipped(file: Path, function: str, whose: str) -> None:
    """Refuse code that travels with a model but imports Thawline.

    Raises:
        InputError: The file does not define the function, or imports Thawline outside of functions.
    """
    tree = ast.parse(file.read_text())
    if function not in {name for node in tree.body for name in _bound(node)}:
        raise InputError(f"{whose} ships {file} with the model, which defines no function {function}.", PAGE)
    if imported := next((name for node in tree.body for name in _imported(node) if _is_ours(name)), ""):
        raise InputError(
            f"{whose} ships {file} with the model, which imports {imported}: it has to run without Thawline.",
            f"Import it inside the functions that need it, or move {function} into a separate file.",
        )


def _members(protocol: type) -> list[str]:
    own = [*inspect.get_annotations(protocol), *vars(protocol)]
    return [name for name in dict.fromkeys(own) if not name.startswith("_")]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _misfit(value: object, name: str, protocol: type) -> str:
    """Return the reason why a member does not fit; empty if it does."""
    declared = getattr(protocol, name, None)
    if declared is None:
        wanted = inspect.get_annotations(protocol)[name]
        return "" if _is_a(value, wanted) else f"{name} is {value!r}, not {_in_words(wanted)}"
    return _uncallable(value, name, list(inspect.signature(declared).parameters)[1:])


def _uncallable(value: object, name: str, parameters: Sequence[str]) -> str:
    if not callable(value):
        return f"{name} is not a function"
    try:
        signature = inspect.signature(value)
    except ValueError:  # some built-in functions have none
        return ""
    try:
        signature.bind(*parameters)
    except TypeError:
        return f"{name}{_bare(signature)} has to take ({', '.join(parameters)})"
    return ""


def _bare(signature: inspect.Signature) -> str:
    return f"({', '.join(signature.parameters)})"


def _is_a(value: object, wanted: Any) -> bool:  # noqa: ANN401 - an annotation of any kind
    origin = get_origin(wanted) or wanted
    if origin is Literal:
        return value in get_args(wanted)
    if origin is type:
        return isinstance(value, type) and all(issubclass(value, base) for base in get_args(wanted))
    if origin is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str)
    return isinstance(value, origin)


def _in_words(wanted: Any) -> str:  # noqa: ANN401 - as above
    origin = get_origin(wanted) or wanted
    if origin is Literal:
        return " or ".join(map(repr, get_args(wanted)))
    return {str: "a text", type: "a class", Sequence: "a list", Path: "a Path"}.get(origin, str(wanted))


def _bound(node: ast.stmt) -> Iterator[str]:
    """Names that a statement of a module binds."""
    if isinstance(node, ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in node.names)


def _imported(node: ast.AST) -> Iterator[str]:
    """Modules that a statement imports when its module is loaded, so neither in a function nor for types alone."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield "." * node.level + (node.module or "")
    elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        yield from (name for child in node.orelse for name in _imported(child))
    elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        yield from (name for child in ast.iter_child_nodes(node) for name in _imported(child))


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in {
        "components",
        "pipelines",
        "thawline",
        "",
    }  # relative: of a package that stays behind
