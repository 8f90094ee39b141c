"""Expected seconds of a run's steps: as in the newest run of this home with the same model, network and search."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.core import run_folder
from components.core.run_result import RunResult
from components.core.settings import GATE, OPERATIONAL, Settings
from components.core.storage import home_folder
from components.detect_changes import DECISION

SHOWN_FROM = 1.0  # seconds: of a shorter step nobody wants to know beforehand


def change(folder: Path) -> str:
    """Return what the run of a folder decided to do; empty if it did not come to that."""
    return str(run_folder.read_facts(folder / DECISION).get("change", ""))


def expected_seconds(settings: Settings) -> dict[str, float]:
    """Return the seconds of each step that took at least one; empty where no such run has trained in this home."""
    wanted = _compared(json.loads(settings.to_json()))
    for path in sorted((home_folder.home() / "runs").glob("*/settings.json"), reverse=True):
        if change(path.parent) != "train" or _compared(run_folder.read_facts(path)) != wanted:
            continue
        result = RunResult.read(path.parent.name)
        if result and result.status == "succeeded" and (found := _seconds(path.parent.name)):
            return found
    return {}


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the time depends on: all that affect the model, and its name."""
    return {name: value for name, value in settings.items() if name not in GATE | OPERATIONAL}


def _seconds(run_key: str) -> dict[str, float]:
    """Wall seconds of each step of a run, the start of its process included; nothing for a run that went on."""
    started, found = dict[str, float](), dict[str, float]()
    for event, _ in run_folder.events(run_key):
        if event["event"] == "taken_over":
            return {}
        if event["event"] == "started":
            started[event["step"]] = event["time"]
        elif event["event"] == "finished" and event["step"] in started:
            found[event["step"]] = event["time"] - started[event["step"]]
    return {step: seconds for step, seconds in found.items() if seconds >= SHOWN_FROM}
