"""Artifacts of a registered version, which steps return instead of recomputing when it is judged again."""

import json
import shutil
import tempfile
from pathlib import Path

from components.core import run_folder
from components.core.registry import versions
from components.core.tracking import queries, tag_names

NO_TRIALS = json.dumps({"trials": [], "importances": {}})


def checkpoint(model: str, version: str, folder: Path) -> None:
    """Write a version's checkpoint, as `fine_tune` writes one.

    Raises:
        InputError: The registry has no such version.
        StepError: Its files are not what was registered.
    """
    with tempfile.TemporaryDirectory() as temporary:
        path, _ = versions.fetch(model, version, Path(temporary) / "model")
        shutil.copytree(path / "checkpoint", folder, dirs_exist_ok=True)


def served(model: str, version: str, folder: Path) -> None:
    """Write a version's served model as it was registered; raises what `checkpoint` does."""
    with tempfile.TemporaryDirectory() as temporary:
        path, _ = versions.fetch(model, version, Path(temporary) / "model")
        shutil.copytree(path, folder, ignore=shutil.ignore_patterns("checkpoint"), dirs_exist_ok=True)


def trials(model: str, version: str) -> str:
    """The trials of the search that led to a version, as `select_trial` writes them; none where they are gone."""
    made_by = versions.tags(model, version).get(tag_names.RUN_KEY, "")
    for run in queries.find_runs(model, made_by, "step") if made_by else []:
        if queries.step_name(run) == "select_trial":
            with tempfile.TemporaryDirectory() as temporary:
                found = queries.download(run.info.run_id, "search", Path(temporary))
                for path in sorted(found.iterdir()) if found else []:
                    kept = run_folder.read_facts(path)
                    return json.dumps(kept) if kept.keys() >= {"trials", "importances"} else NO_TRIALS
    return NO_TRIALS
