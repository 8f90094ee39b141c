"""Questions to a registered model, by the command line."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.command import call

Predict = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def predict(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Predict:
    """Gives the answers of `thawline predict ARGUMENTS --json`."""

    def ask(*arguments: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(call(capsys, monkeypatch, "predict", *arguments, "--json").out)[
            "predictions"
        ]
        return found

    return ask
