"""The version that answers after its alias has moved."""

import asyncio

import pytest

from components.core.registry import versions
from pipelines.serving.following import RETRY, Following
from pipelines.serving.loading import Loaded


def loaded(version: str) -> Loaded:
    return Loaded("toy", version, "point", [], "none", lambda _records: [])


def followed(
    polls: list[str | Exception], monkeypatch: pytest.MonkeyPatch, broken: str = ""
) -> tuple[str, list[str], list[str]]:
    """The version after so many polls of a registry that says these; the outcomes, and what was tried."""
    said, outcomes, tried = iter(polls), list[str](), list[str]()

    def current(_model: str, _alias: str) -> str:
        one = next(said, None)
        if one is None:
            raise SystemExit
        if isinstance(one, Exception):
            raise one
        return one

    def load(version: str) -> Loaded:
        tried.append(version)
        if version == broken:
            raise ValueError("damaged")
        return loaded(version)

    monkeypatch.setattr(versions, "current", current)
    following = Following(loaded("1"), "champion", load, outcomes.append)
    with pytest.raises(SystemExit):
        asyncio.run(following.follow(0))
    return following.current.version, outcomes, tried


def test_the_alias_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new version is loaded once; an alias that is gone changes nothing."""
    assert followed(["1", "2", "2", ""], monkeypatch) == ("2", ["loaded"], ["2"])


def test_a_registry_that_is_away_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again."""
    assert followed([OSError("away"), "2"], monkeypatch) == ("2", ["unreachable", "loaded"], ["2"])


def test_a_version_that_can_not_be_loaded_leaves_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again after some polls, and another version at once."""
    version, outcomes, tried = followed(["2"] * (RETRY + 1) + ["3"], monkeypatch, broken="2")
    assert (version, outcomes, tried) == ("3", ["failed", "failed", "loaded"], ["2", "2", "3"])


def test_a_version_by_number_is_not_followed() -> None:
    """It stays, and the registry is not asked."""
    asyncio.run(Following(loaded("1"), "1", loaded).follow(0))
