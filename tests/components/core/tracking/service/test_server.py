"""An MLflow server's address and its refusals; a real server stands in tests/pipelines/test_services.py."""

import pytest

from components.core.errors import InputError
from components.core.tracking.service.server import check_address, is_server, refusal


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:5000", "https://mlflow.example.com", "http://mlflow:5000/prefix", "http://[::1]:5000"]
)
def test_addresses_of_servers_pass(address: str) -> None:
    check_address(address)
    assert is_server(address)


@pytest.mark.parametrize(
    "address",
    ["http://me:private@host:5000", "https://private@host", "http://host/?token=private", "http://host/#private"],
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(address: str) -> None:
    """A login, a query or a fragment in the address is no address; the sentence says where the login belongs."""
    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD") as error:
        check_address(address)
    assert "private" not in str(error.value)


@pytest.mark.parametrize("address", ["", "mlflow:5000", "ftp://host", "http://", "sqlite:///mlflow.db"])
def test_what_is_no_address_is_one_sentence(address: str) -> None:
    with pytest.raises(InputError, match="http://HOST:PORT"):
        check_address(address)


@pytest.mark.parametrize(
    ("status", "text", "hint"),
    [
        (401, "You are not authenticated.", "MLFLOW_TRACKING_USERNAME"),
        (403, "Permission denied", "EDIT"),
        (403, "Invalid Host header - possible DNS rebinding attack detected", "--allowed-hosts"),
    ],
)
def test_each_refusal_has_its_mend(status: int, text: str, hint: str) -> None:
    told = refusal("http://host:5000", status, text)
    assert told is not None
    assert hint in told.hint
    assert "http://host:5000" in told.sentence


@pytest.mark.parametrize(("status", "text"), [(404, "no such run"), (400, "bad name"), (500, "broken")])
def test_other_answers_are_no_refusal(status: int, text: str) -> None:
    assert refusal("http://host:5000", status, text) is None
