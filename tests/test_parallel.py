"""The tests themselves, on several workers."""

import pytest


@pytest.fixture(scope="module")
def shared() -> str:
    return "made once"


def test_tests_that_share_a_fixture_stay_on_one_worker(request: pytest.FixtureRequest, shared: str) -> None:
    """The scheduler sees the group that tests/conftest.py gives a test; without it, costly fixtures are made twice."""
    assert shared
    if getattr(request.config.option, "loadgroup", False):  # of pytest-xdist, on a worker
        assert request.node.nodeid.endswith("@tests/test_parallel.py")
