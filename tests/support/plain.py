"""The DAG's steps called as plain functions, one after another, in this process."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from components.core import run_folder
from components.core.settings import Settings
from components.core.storage import home_folder
from components.detect_changes import detect_changes
from components.evaluate import evaluate
from components.fine_tune import fine_tune
from components.finish import finish
from components.prepare_data import prepare_data
from components.register import register
from components.search import search
from components.select_trial import select_trial
from components.train_head import train_head


@dataclass
class PlainRun:
    """What one run of the steps left."""

    settings: Settings
    run_key: str
    folder: Path
    result: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float | str] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)
    hyperparameters: dict[str, float] = field(default_factory=dict)
    dataset_digest: str = ""
    weights_digest: str = ""
    accepted: bool = False
    champion: str = ""
    version: str = ""

    def to_json(self) -> str:
        """Write the run as text, for another process."""
        return json.dumps({**vars(self), "settings": self.settings.to_json(), "folder": str(self.folder)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        run = json.loads(text)
        given = {"settings": Settings.from_json(run["settings"]), "folder": Path(run["folder"])}
        return cls(**{**run, **given})


def run_steps(source: Path, settings: Settings, folder: Path, run_key: str = "") -> PlainRun:
    """Run all steps into THAWLINE_HOME, artifacts into `folder`; with a key, go on with a run that was decided."""
    run = PlainRun(settings, run_key or run_folder.new_run_key(), folder)
    text, key = settings.to_json(), run.run_key
    dataset, head, tuned, trials = (folder / name for name in ("dataset", "head", "tuned", "trials.json"))
    folder.mkdir(parents=True, exist_ok=True)
    home_folder.write_text(run_folder.run_folder(key) / "settings.json", text)
    *_, inputs = detect_changes(str(source), text, key)
    info = prepare_data(str(source), text, key, dataset, inputs)
    run.dataset_digest, run.weights_digest = info.digest, info.weights_digest
    study = search(text, key, dataset, 0)
    chosen = select_trial(text, key, [study], dataset, trials)
    run.hyperparameters = json.loads(chosen)
    train_head(text, key, dataset, chosen, head)
    fine_tune(text, key, dataset, chosen, head, tuned)

    served, report = folder / "served", folder / "report.html"
    found = evaluate(text, key, dataset, tuned, trials, served, report)
    run.accepted, run.champion, run.metrics = found.accepted, found.champion, found.metrics
    run.confusion = found.confusion[1] if found.confusion else []
    run.version = register(text, key, folder / "served", tuned, run.champion, accepted=run.accepted)
    run.result = finish(text, key, "SUCCEEDED").model_dump()
    return run
