"""Versions in the MLflow registry: add one, fetch one that is what the registry says, move an alias."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from components.core import archives, runs, smoke, tracking
from components.core.errors import InputError, StepError

DIGEST = "thawline.artifact_sha256"


def current(model: str, alias: str) -> str:
    """The version an alias points to; empty where there is none."""
    client = tracking.client()
    found = client.search_registered_models(f"name = '{model}'")
    return str(found[0].aliases.get(alias, "")) if found else ""


def versions(model: str) -> dict[str, str]:
    """The digest of every version of a model that is in the registry."""
    found = tracking.client().search_model_versions(f"name = '{model}'")
    return {str(version.version): version.tags.get(DIGEST, "") for version in found}


def tags(model: str, version: str) -> dict[str, str]:
    """What a version says of itself."""
    return dict(tracking.client().get_model_version(model, version).tags)


def fetch(model: str, wanted: str, folder: Path) -> tuple[Path, str]:
    """Download a version by alias or number and check it before anything is loaded.

    Returns:
        The folder of the served model, and the version.

    Raises:
        InputError: There is no such model or version.
        StepError: Its files are not what was registered.
    """
    version = wanted if wanted.isdecimal() else current(model, wanted)
    client = tracking.client()
    found = client.search_model_versions(f"name = '{model}' and version_number = {version}") if version else []
    if not found:
        raise InputError(
            f"The registry has no model {model!r} with the alias or version {wanted!r}.",
            "See the models with `thawline ui`, or train one with `thawline run SOURCE --model NAME`.",
        )
    name = f"{model} version {version}"
    try:
        path = tracking.download_version(model, version, folder)
        drop_traces(path)
        archives.check_folder(path, found[0].tags.get(DIGEST, ""))
    except (ValueError, OSError) as error:
        raise StepError(f"{name} is refused: {error}.", "Restore its files, or promote another version.") from error
    return path, version


def drop_traces(folder: Path) -> None:
    """Remove from our copy of a model what loading it leaves beside it, so that it is neither run nor refused.

    Python writes compiled code, which it would run in place of the source that was checked; MLflow notes under
    which name a model was loaded.
    """
    for compiled in list(folder.rglob("__pycache__")):
        shutil.rmtree(compiled)
    (folder / "registered_model_meta").unlink(missing_ok=True)


def smoke_test(folder: Path) -> str:
    """Answers of a served model to its own example, from a fresh process that can't import Thawline.

    Raises:
        StepError: It does not load, or does not answer.
    """
    command = [sys.executable, "-I", "-B", smoke.__file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StepError(
            f"The served model does not answer where Thawline is not installed: {reason}.",
            "No alias was moved; mend the task's serving code and run again.",
        )
    return done.stdout.strip()


def add_version(model: str, folder: Path, run: tracking.StepRun, tags: Mapping[str, str]) -> str:
    """Upload a checked model folder, register it as a new version with its digest; return the version."""
    client = tracking.client()
    if not client.search_registered_models(f"name = '{model}'"):
        client.create_registered_model(model)
    logged = client.create_logged_model(tracking.experiment(model), model, run.run_id)
    client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    version = client.create_model_version(
        model,
        f"models:/{logged.model_id}",
        run_id=run.pipeline_id,
        tags={DIGEST: archives.folder_digest(folder), **tags},
        model_id=logged.model_id,
    )
    return str(version.version)


def registered(model: str, folder: Path, *, accepted: bool) -> str:
    """The version that holds these very files, told if it is accepted this time; empty where there is none."""
    digest = archives.folder_digest(folder)
    version = next((version for version, known in versions(model).items() if known == digest), "")
    if version and accepted:
        tracking.client().set_model_version_tag(model, version, "thawline.accepted", "true")
    return version


def move_alias(model: str, alias: str, version: str, expected: str | None = None) -> bool:
    """Point an alias to a version; with `expected`, only if it still points there ("" is nowhere).

    The registry has no compare and swap of its own: a lock keeps the runs of one home apart. On a shared server
    another machine could still come between the two calls; it is told apart by reading again.
    """
    runs.home().mkdir(parents=True, exist_ok=True)
    with FileLock(runs.home() / "registry.lock"):
        if expected is not None and current(model, alias) != expected:
            return False
        tracking.client().set_registered_model_alias(model, alias, version)
        return current(model, alias) == version
