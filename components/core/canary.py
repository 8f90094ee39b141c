"""What a canary run looks at from within the pods; its findings leave by MLflow, as those of every run do."""

import os
import tempfile

from components.core import runs, storage, tracking
from components.core.errors import ExpectedError, StepError
from components.core.settings import Settings

MODEL = "thawline-canary"  # its experiment in MLflow
FOUND = "canary."  # begins the tags that hold the findings


def _settings() -> str:
    return Settings.model_validate({"model": MODEL}).to_json()


def look(run_key: str, secrets: str, source: str) -> bool:
    """The first step: is what the pod was promised there?

    Args:
        run_key: Finds the canary's run.
        secrets: Names that have to be in the environment, with commas between.
        source: An S3 address that has to hold something; empty: S3 is not looked at.

    Returns:
        True: the next step waits for it.
    """
    problem = _settle()
    with tracking.step("look", run_key, _settings()) as run:
        own = "ok" if os.environ.get("THAWLINE_RUN_KEY") else "the pods have no label pipeline/runid"
        _found(run, "key", own)
        missing = [name for name in secrets.split(",") if name and not os.environ.get(name)]
        _found(run, "secrets", f"missing: {', '.join(missing)}" if missing else "ok")
        (runs.home() / "canary" / run_key).write_text(run_key)
        _found(run, "written", problem or "ok")
        if source:
            _found(run, "s3", _listed(source))
    return True


def look_again(run_key: str, *, fail_once: bool) -> None:
    """The second step, in a pod of its own: fails at first, and then sees whether it finds what the first one wrote.

    Raises:
        StepError: It is the first attempt, which is meant to fail.
    """
    _settle()
    with tracking.step("look_again", run_key, _settings()) as run:
        _found(run, "condition", "ok")
        before = tracking.client().get_run(run.pipeline_id).data.tags.get(f"{FOUND}attempts", "0")
        attempt = int(before) + 1
        _found(run, "attempts", str(attempt))
        if fail_once and attempt == 1:
            raise StepError("The canary fails once on purpose.", "Kubeflow starts it again.")
        marker = runs.home() / "canary" / run_key
        _found(run, "shared", "ok" if marker.exists() else "the file of the first step is not there")
        marker.unlink(missing_ok=True)


def tell(run_key: str, state: str) -> None:
    """The exit handler: closes the canary's runs, and says how Kubeflow told it that the steps ended."""
    tracking.close_running(MODEL, run_key, failed=state != "SUCCEEDED")
    for pipeline in tracking.find_runs(MODEL, run_key, "pipeline"):
        tracking.client().set_tag(pipeline.info.run_id, f"{FOUND}exit", state)


def findings(run_key: str) -> dict[str, str]:
    """What a canary found, by promise; empty where it left nothing."""
    found = tracking.find_runs(MODEL, run_key, "pipeline")
    tags = found[0].data.tags if found else {}
    return {name.removeprefix(FOUND): text for name, text in tags.items() if name.startswith(FOUND)}


def _settle() -> str:
    """Why the home can't be written to, which then is a folder of this pod's own; empty where it can.

    A step writes there before anything else, so all other findings would be lost.
    """
    folder = runs.home() / "canary"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        os.environ["THAWLINE_HOME"] = tempfile.mkdtemp()
        (runs.home() / "canary").mkdir()
        return f"{folder}: {error.strerror}"


def _found(run: tracking.StepRun, promise: str, text: str) -> None:
    run.tags({f"{FOUND}{promise}": text[: tracking.TAG_LENGTH]}, pipeline=True)


def _listed(source: str) -> str:
    try:
        first = next(iter(storage.list_objects(source)), None)
    except ExpectedError as error:
        return str(error)
    return "ok" if first else f"nothing lies at {source}"
