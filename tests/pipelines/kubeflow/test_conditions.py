"""Conditions on the values that a cluster's driver sees: booleans are booleans, and every number is a double."""

from typing import Any

import pytest

from tests.fakes.kubeflow.conditions import ConditionError, holds

X = "inputs.parameter_values['x']"


@pytest.mark.parametrize(
    ("condition", "value", "found"),
    [
        (f"{X} == true", True, True),
        (f"{X} == true", False, False),
        (f"{X} == true", "true", False),
        (f"{X} == true", 1.0, False),
        (f"int({X}) == 3", 3.0, True),
        (f"!(int({X}) == 3) && int({X}) > 5", 6.0, True),
        (f"!(int({X}) == 3) && int({X}) > 5", 3.0, False),
        (f"{X} >= 2.5 || {X} == 0", 0.0, True),
        (f"{X} == 'it\\'s'", "it's", True),
        (f"{X} != ''", "", False),
        (f"inputs.parameter_values['y'] == 1 && {X} == true", False, False),
        (f"{X} == true || inputs.parameter_values['y'] == 1", True, True),
    ],
)
def test_a_condition_holds_as_the_driver_sees_it(condition: str, value: Any, found: bool) -> None:  # noqa: FBT001 - a case
    """What kfp's compiler writes is read, and values of two kinds are never equal."""
    assert holds(condition, {"x": value}) is found


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("inputs.parameter_values['y'] == true", "no such key: y"),
        (f"{X} > 'a'", "no such overload"),
        (f"{X}", "return type is not bool"),
        (f"!{X}", "no such overload"),
        (f"{X} == 1 or true", "can't read"),
        ("__import__('os')", "can't read"),
        (f"({X} == 1", "no \\)"),
        ("int == 1", "can't read"),
    ],
)
def test_what_is_no_condition_is_refused(condition: str, message: str) -> None:
    """The driver fails where a condition can't be evaluated, and no text is run as code."""
    with pytest.raises(ConditionError, match=message):
        holds(condition, {"x": 1.0})
