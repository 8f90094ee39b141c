"""The tests themselves, on several workers."""

import os

import pytest


@pytest.fixture(scope="module")
def shared() -> str:
    return "made once"


def test_tests_that_share_a_fixture_stay_on_one_worker(request: pytest.FixtureRequest, shared: str) -> None:
    """The scheduler sees the group that tests/conftest.py gives a test; without it, costly fixtures are made twice."""
    assert shared
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@tests/test_parallel.py")
