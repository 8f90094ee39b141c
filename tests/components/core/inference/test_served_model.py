"""Requests to a served model, as MLflow's server hands them over: what is decoded, and what is refused how."""

import base64
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from components.core.contract.optional_members import Overlay
from components.core.contract.task import load_task
from components.core.registry.serving import agree, answer_some, build_served
from components.core.settings import Settings
from components.core.tracking import pyfunc
from tests.fakes import toy

LEFT, RIGHT = "-2,0", "2,0"


def served(folder: Path, column: str) -> Any:
    """The untrained toy as a served model whose records are in a column of that name."""
    task: Any = Overlay(load_task("tests.fakes.toy"), input_name=column)
    network = toy.build(Settings(), ["a", "b"], 0.0)
    build_served(folder, task, task.target(Settings()), network, ["a", "b"], {"temperature": 1.0}, [LEFT.encode()])
    return pyfunc.load_pyfunc(folder)


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return served(tmp_path_factory.mktemp("point") / "served", "point")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return served(tmp_path_factory.mktemp("text") / "served", "text")


def asked(model: Any, request: Any) -> Any:
    """The answers of MLflow's server to a JSON request."""
    schema = model.metadata.get_input_schema()
    answer = scoring_server.invocations(json.dumps(request), "application/json", model, schema)
    assert answer.status == 200
    return json.loads(answer.response)["predictions"]


def base64_of(record: str) -> str:
    return base64.b64encode(record.encode()).decode()


def forms(column: str, left: Any, right: Any) -> dict[str, Any]:
    """Two records in every form that is documented."""
    return {
        "records": {"dataframe_records": [{column: left}, {column: right}]},
        "split": {"dataframe_split": {"columns": [column], "data": [[left], [right]]}},
        "inputs by column": {"inputs": {column: [left, right]}},
        "inputs by record": {"inputs": [{column: left}, {column: right}]},
        "inputs as a list": {"inputs": [left, right]},
        "instances by record": {"instances": [{column: left}, {column: right}]},
        "instances as a list": {"instances": [left, right]},
    }


@pytest.mark.parametrize("form", forms("", "", ""))
def test_base64_is_decoded_in_every_form(form: str, point: Any) -> None:
    """All forms of a request get the answers that the bytes themselves get."""
    expected = point.predict(pd.DataFrame({"point": [LEFT.encode(), RIGHT.encode()]})).to_dict("records")
    assert expected[0] != expected[1]
    assert asked(point, forms("point", base64_of(LEFT), base64_of(RIGHT))[form]) == expected
    if "list" not in form:  # TensorFlow's own form is a record by its column
        named = forms("point", {"b64": base64_of(LEFT)}, {"b64": base64_of(RIGHT)})[form]
        assert asked(point, named) == expected


@pytest.mark.parametrize("form", forms("", "", ""))
def test_a_text_is_sent_as_text(form: str, text: Any) -> None:
    """In a column named text a string is the text; base64 there is refused, for it would be answered as it stands."""
    expected = text.predict(pd.DataFrame({"text": [LEFT.encode(), RIGHT.encode()]})).to_dict("records")
    assert asked(text, forms("text", LEFT, RIGHT)[form]) == expected
    left, right = (base64_of(record * 2) for record in (LEFT, RIGHT))
    with pytest.raises(MlflowException, match="record 0: it may be base64: send the text itself"):
        asked(text, forms("text", left, right)[form])
    if "list" not in form:
        named = forms("text", {"b64": base64_of(LEFT)}, {"b64": base64_of(RIGHT)})[form]
        assert asked(text, named) == expected


def test_words_are_no_base64(text: Any) -> None:
    """Words, numbers and sentences are taken for what they are."""
    from components.core.inference.served_model import _may_be_base64

    words = [
        "international",
        "responsibility",
        "12345678",
        "abcdefghijkl",
        "Universitaet",
        "deadbeef",
        "understatement",
    ]
    assert not any(map(_may_be_base64, [*words, "A sentence of words.", "", "word"]))
    assert all(_may_be_base64(base64_of(some)) for some in ("Never trust a computer", "größer als das Meer"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no base64!", "not base64"),
        (5, "a record is bytes or text, not"),
        (None, "a record is bytes or text, not"),
        ({"url": "x"}, "a record is bytes or text, not dict"),
        (base64_of("no point"), "could not convert string to float"),
    ],
)
def test_a_bad_record_is_named_with_its_number_and_its_reason(value: Any, reason: str, point: Any) -> None:
    """Over HTTP it is status 400, and the message tells which of many it is."""
    good = base64_of(LEFT)
    rows = [{"point": good}] * 70 + [{"point": value}, {"point": good}, {"point": "?"}]
    with pytest.raises(MlflowException) as caught:
        asked(point, {"dataframe_records": rows})
    assert caught.value.get_http_status_code() == 400
    assert f"2 of 73 records can't be answered (counted from 0): record 70: {reason}" in str(caught.value)
    assert "; record 72: not base64" in str(caught.value)


def test_a_refusal_does_not_repeat_the_request(point: Any) -> None:
    """Whatever the form of the request, and however long its records are."""
    bad = "A" * 100_000
    for request in forms("point", bad, base64_of(RIGHT)).values():
        with pytest.raises(MlflowException) as caught:
            asked(point, request)
        assert caught.value.message.startswith("1 of 2 records can't be answered (counted from 0): record 0: ")
        assert len(caught.value.serialize_as_json()) < 2000


def test_wrapped_base64_is_base64(point: Any) -> None:
    """`base64` without -w0 breaks its lines."""
    wrapped = "\n".join(base64_of(LEFT)) + "\n"
    assert asked(point, {"dataframe_records": [{"point": wrapped}]}) == asked(
        point, {"dataframe_records": [{"point": base64_of(LEFT)}]}
    )


def test_a_bad_record_keeps_no_other_from_its_answer(point: Any) -> None:
    """The answers of the others come with the reason of the bad ones; so from versions that give no reasons."""

    class Old:
        def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
            try:
                found: pd.DataFrame = point.predict(rows)
            except ValueError as error:
                raise ValueError(str(error)) from None
            return found

    contents = [LEFT.encode(), b"no point", RIGHT.encode(), b""]
    expected = point.predict(pd.DataFrame({"point": [LEFT.encode(), RIGHT.encode()]})).to_dict("records")
    found = answer_some(point, "point", contents)
    assert [found[0], found[2]] == expected
    assert [str(reason)[:17] for reason in (found[1], found[3])] == ["could not convert"] * 2
    old = answer_some(Old(), "point", contents)
    assert agree(pd.DataFrame([old[0], old[2]]), pd.DataFrame(expected))
    assert all("could not convert" in str(reason) for reason in (old[1], old[3]))
    assert answer_some(point, "point", []) == []
