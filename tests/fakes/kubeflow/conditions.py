"""The conditions of a compiled DAG, evaluated as Kubeflow's driver does: the part of CEL that kfp's compiler writes."""

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

Values = Mapping[str, Any]
Term = Callable[[Values], Any]
TOKEN = re.compile(
    r"""\s*(?P<token>
    inputs\.parameter_values\['(?P<name>[^']*)'\]
    | '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*"
    | -?\d+\.\d+ | -?\d+
    | true | false | null | int | double | string
    | && | \|\| | == | != | <= | >= | < | > | ! | \( | \)
    )""",
    re.VERBOSE,
)
ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
LITERALS = {"true": True, "false": False, "null": None}
CASTS: dict[str, Callable[[Any], Any]] = {"int": int, "double": float, "string": str}


class ConditionError(Exception):
    """A condition that the driver can't evaluate."""


def kind(value: Any) -> str:
    """The kind of a value as the driver holds it; every number is a double."""
    names = {type(None): "null", bool: "bool", str: "string", list: "list", dict: "struct"}
    return names.get(type(value), "number")


def holds(condition: str, values: Values) -> bool:
    """Whether a condition is true of a task's inputs.

    Raises:
        ConditionError: It is no condition, asks for an input that is not there, or has no boolean as its result.
    """
    found = _Reader(condition).whole()(values)
    if not isinstance(found, bool):
        raise ConditionError(f"evaluation error: return type is not bool, got {found}")
    return found


class _Reader:
    """Reads a condition from left to right; each rule of the grammar is a method."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def whole(self) -> Term:
        term = self.any_of()
        if self.text[self.at :].strip():
            raise ConditionError(f"can't read {self.text[self.at :]!r}")
        return term

    def any_of(self) -> Term:
        term = self.all_of()
        while self.take("||"):
            term = _joined(term, self.all_of(), decides=True)
        return term

    def all_of(self) -> Term:
        term = self.comparison()
        while self.take("&&"):
            term = _joined(term, self.comparison(), decides=False)
        return term

    def comparison(self) -> Term:
        left = self.single()
        sign = self.take("==", "!=", *ORDER)
        return _compared(left, sign, self.single()) if sign else left

    def single(self) -> Term:
        if self.take("!"):
            return _negated(self.single())
        if self.take("("):
            return self.closed()
        cast = self.take(*CASTS)
        if cast and self.take("("):
            return _converted(CASTS[cast], self.closed())
        match = TOKEN.match(self.text, self.at)
        if match is None or cast:
            raise ConditionError(f"can't read {self.text[self.at :]!r}")
        self.at = match.end()
        return _named(match["name"]) if match["name"] is not None else _fixed(_literal(match["token"]))

    def closed(self) -> Term:
        term = self.any_of()
        if not self.take(")"):
            raise ConditionError(f"no ) in {self.text!r}")
        return term

    def take(self, *wanted: str) -> str:
        """The next token if it is one of those."""
        match = TOKEN.match(self.text, self.at)
        if match is None or match["token"] not in wanted:
            return ""
        self.at = match.end()
        return match["token"]


def _literal(token: str) -> Any:
    if token in LITERALS:
        return LITERALS[token]
    if token[0] in "'\"":
        return re.sub(r"\\(.)", r"\1", token[1:-1])
    if re.fullmatch(r"-?\d+(\.\d+)?", token):
        return float(token) if "." in token else int(token)
    raise ConditionError(f"can't read {token!r}")


def _fixed(value: Any) -> Term:
    return lambda _values: value


def _named(name: str) -> Term:
    def term(values: Values) -> Any:
        if name not in values:
            raise ConditionError(f"no such key: {name}")
        return values[name]

    return term


def _negated(inner: Term) -> Term:
    def term(values: Values) -> Any:
        found = inner(values)
        if not isinstance(found, bool):
            raise ConditionError("no such overload")
        return not found

    return term


def _converted(cast: Callable[[Any], Any], inner: Term) -> Term:
    def term(values: Values) -> Any:
        try:
            return cast(inner(values))
        except (TypeError, ValueError):
            raise ConditionError("no such overload") from None

    return term


def _compared(left: Term, sign: str, right: Term) -> Term:
    """Values of two kinds are unlike, and have no order."""

    def term(values: Values) -> bool:
        one, other = left(values), right(values)
        alike = kind(one) == kind(other)
        if sign in ORDER:
            if not alike:
                raise ConditionError("no such overload")
            return bool(ORDER[sign](one, other))
        return (alike and one == other) == (sign == "==")

    return term


def _joined(left: Term, right: Term, *, decides: bool) -> Term:
    """And, or: where one side decides, the other may be an error."""

    def term(values: Values) -> bool:
        found, error = [], None
        for side in (left, right):
            try:
                found.append(side(values))
            except ConditionError as failed:
                error = failed
        if any(value is decides for value in found):
            return decides
        if error or not all(isinstance(value, bool) for value in found):
            raise error or ConditionError("no such overload")
        return not decides

    return term
