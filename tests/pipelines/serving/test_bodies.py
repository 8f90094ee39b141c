"""Bodies of requests: what becomes records, and what is refused with which status."""

import json
from typing import Any

import pytest

from pipelines.serving.bodies import RefusedError, records

JSON = "application/json"


@pytest.mark.parametrize(
    "request_",
    [
        {"dataframe_records": [{"image": "a", "more": 1}, {"image": {"b64": "b"}}]},
        {"dataframe_split": {"index": [0, 1], "columns": ["more", "image"], "data": [[1, "a"], [2, {"b64": "b"}]]}},
        {"inputs": {"image": ["a", {"b64": "b"}]}},
        {"inputs": [{"image": "a"}, {"image": {"b64": "b"}}]},
        {"inputs": ["a", {"b64": "b"}]},
        {"instances": [{"image": "a"}, {"image": {"b64": "b"}}]},
        {"instances": ["a", {"b64": "b"}]},
    ],
)
def test_every_form_of_mlflows_server_is_read(request_: Any) -> None:
    """The records are the cells of the model's column, or the rows themselves."""
    assert records(json.dumps(request_).encode(), JSON, "image") == ["a", {"b64": "b"}]


@pytest.mark.parametrize("kind", ["image/png", "audio/x-wav", "text/plain", "application/octet-stream"])
def test_a_body_with_its_own_type_is_one_record(kind: str) -> None:
    """Whatever it holds, JSON included."""
    assert records(b'{"items": []}', kind, "image") == [b'{"items": []}']


@pytest.mark.parametrize("kind", ["", "application/x-www-form-urlencoded", "multipart/form-data", "text/csv", "\x01"])
def test_other_types_are_refused(kind: str) -> None:
    """What curl sends by default is not answered as if it were a record."""
    with pytest.raises(RefusedError, match="is not supported") as caught:
        records(b"x", kind, "image")
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "not JSON at byte 0"),
        (b'{"inputs": [secret]}', "not JSON at byte 12"),
        (b"\xff\xfe", "not JSON"),
        pytest.param(b"[" * 100_000, "not JSON", id="deep"),
        pytest.param(b'{"inputs": ' + b"9" * 5000 + b"}", "not JSON", id="a long number"),
        (b"[]", "none of these forms"),
        (b'"secret"', "none of these forms"),
        (b'{"data": ["secret"]}', "none of these forms"),
        (b'{"inputs": "secret"}', "none of these forms"),
        (b'{"dataframe_split": {"columns": ["secret"], "data": []}}', "no column 'image'"),
        (b'{"inputs": []}', "no record"),
        (b'{"dataframe_records": []}', "no record"),
    ],
)
def test_what_is_no_request_is_one_sentence(body: bytes, sentence: str) -> None:
    """Nothing of the body comes back."""
    with pytest.raises(RefusedError, match=sentence) as caught:
        records(body, JSON, "image")
    assert caught.value.status == 400
    assert "secret" not in caught.value.sentence


@pytest.mark.parametrize(
    ("request_", "bad"),
    [
        ({"dataframe_records": [{"image": "a"}, {"picture": "secret"}, "secret"]}, {1, 2}),
        ({"dataframe_split": {"columns": ["x", "image"], "data": [[1, "a"], [2], "secret"]}}, {1, 2}),
        ({"instances": [{"image": "a"}, {"picture": "secret"}]}, {1}),
        ({"inputs": ["a", ["secret"]]}, {1}),
    ],
)
def test_a_bad_row_is_named_by_its_number(request_: Any, bad: set[int]) -> None:
    """Each bad row of the request, counted from 0, with a reason."""
    with pytest.raises(RefusedError) as caught:
        records(json.dumps(request_).encode(), JSON, "image")
    assert (caught.value.status, {*caught.value.records}) == (400, bad)
    assert "secret" not in str(caught.value.records)
