"""Step: bring an earlier version out of the registry, so that it is judged again instead of trained again."""

import json
import shutil
import tempfile
from pathlib import Path

from components.core import registry, tracking


def recall(settings: str, run_key: str, version: str, checkpoint: Path, served: Path, trials: Path) -> None:
    """Write a version's checkpoint, its served model, and the search that led to it.

    Args:
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.
        version: A version of the run's model.
        checkpoint: Folder to write, as `fine_tune` does.
        served: Folder for the served model as it was registered.
        trials: Where the search's trials go, as `select_trial` writes them; none where their run is gone.

    Raises:
        InputError: The registry has no such version.
        StepError: Its files are not what was registered.
    """
    with tracking.step("recall", run_key, settings) as run, tempfile.TemporaryDirectory() as temporary:
        model, folder = run.settings.model, Path(temporary)
        path, _ = registry.fetch(model, version, folder / "model")
        shutil.copytree(path / "checkpoint", checkpoint, dirs_exist_ok=True)
        shutil.copytree(path, served, ignore=shutil.ignore_patterns("checkpoint"), dirs_exist_ok=True)
        made_by = registry.tags(model, version).get("thawline.run_key", "")
        trials.write_text(_trials(model, made_by, folder))
        run.tags({"thawline.version": version})
        run.figure(f"version {version}")


def _trials(model: str, run_key: str, folder: Path) -> str:
    for run in tracking.find_runs(model, run_key, "step") if run_key else []:
        if run.info.run_name.replace("-", "_") == "select_trial":
            found = tracking.download(run.info.run_id, "search", folder)
            for path in sorted(found.iterdir()) if found else []:
                return path.read_text()
    return json.dumps({"trials": [], "importances": {}})
