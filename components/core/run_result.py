"""The result of a run: what `thawline run --json` prints, and what `result.json` in the run's folder holds."""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from components.core import run_folder
from components.core.storage import home_folder

Status = Literal["succeeded", "skipped", "failed", "terminated", "submitted", "running"]


class RunResult(BaseModel):
    """The outcome of a run, read from MLflow; for a run that did not start, only the reason.

    A run that was skipped has the version, metrics, digest and report of the run `same_as`.
    """

    model_config = ConfigDict(frozen=True)

    status: Status = "failed"
    reason: str = ""
    model: str = ""
    version: str = ""
    promoted: bool = False
    pending: str = ""  # the command that approves the version
    compared_with: str = ""  # the champion before this run
    metric: str = ""  # what the target names first
    metrics: Mapping[str, float] = {}
    dataset_digest: str = ""
    mlflow_run_id: str = ""
    steps: Mapping[str, float] = {}  # seconds of each step, from its begin to its end in MLflow
    cost: str = ""  # in words
    cut: str = ""  # what a deadline stopped early
    reference: str = ""  # which simple model this one does not beat, and what to try
    report: str = ""
    same_as: str = ""  # the earlier run, in MLflow, that a skipped run stands for

    @property
    def stays(self) -> bool:
        """Return whether the version was champion before this run, and still is."""
        return bool(self.version) and self.version == self.compared_with

    def _repr_html_(self) -> str:
        """Show a result in a notebook: the report of its run in a frame, or the reason without one."""
        path = Path(self.report)
        if not self.report or not path.is_file():
            return f"<p>{escape(f'{self.model} {self.status}: {self.reason}')}</p>"
        return f'<iframe srcdoc="{escape(path.read_text())}" width="100%" height="600" style="border: 0"></iframe>'

    @classmethod
    def read(cls, run_key: str) -> Self | None:
        """The result in a run's folder; None where it has none yet, or a damaged one."""
        found = run_folder.read_facts(run_folder.run_folder(run_key) / run_folder.RESULT)
        try:
            return cls.model_validate(found) if found else None
        except ValidationError:
            return None

    def write(self, run_key: str) -> None:
        """Write the result into the run's folder, whole or not at all."""
        path = run_folder.run_folder(run_key) / run_folder.RESULT
        home_folder.write_text(path, json.dumps(self.model_dump(), indent=1))

    def but(self, **facts: object) -> Self:
        """The same result with other facts."""
        return self.model_copy(update=facts)
