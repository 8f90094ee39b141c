"""How long steps will take."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.core.run_result import RunResult
from components.core.settings import Settings
from pipelines.local.expected_times import expected_seconds

SETTINGS = Settings(model="stamps", trials=8)


def write_run(home: Path, key: str, seconds: float, changed: dict[str, Any] | None = None, **facts: Any) -> None:
    """A run's folder: its settings, its decision, the events of two steps, and its result."""
    folder = home / "runs" / key
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(SETTINGS.model_copy(update=changed or {}).to_json())
    (folder / "decision.json").write_text(json.dumps({"change": facts.get("change", "train")}))
    kind = facts.get("kind", "started")
    events = [("detect_changes", "started", 0), ("detect_changes", "finished", 0.5)]
    events += [("search", kind, 1), ("search", "finished", 1 + seconds)]
    lines = [json.dumps({"step": step, "event": event, "time": at, "figure": ""}) for step, event, at in events]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    RunResult(status=facts.get("status", "succeeded")).write(key)


def test_the_newest_run_with_these_settings_tells(home: Path) -> None:
    """Steps of a second and more are told, from the newest run that trained with the same settings for the model."""
    assert expected_seconds(SETTINGS) == {}
    write_run(home, "1", 20)
    write_run(home, "2", 30, {"gate_alpha": 0.1})
    assert expected_seconds(SETTINGS) == {"search": pytest.approx(30)}


@pytest.mark.parametrize(
    "facts",
    [
        {"changed": {"trials": 200}},
        {"changed": {"model": "other"}},
        {"status": "failed"},
        {"change": "judge"},
        {"kind": "taken_over"},
    ],
)
def test_other_runs_tell_nothing(facts: dict[str, Any], home: Path) -> None:
    """One with other settings, one that failed, that judged an earlier version again, or that went on."""
    write_run(home, "1", 20, **facts)
    assert expected_seconds(SETTINGS) == {}
