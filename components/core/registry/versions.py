"""Versions in the MLflow registry: list them, add one, fetch one that is what the registry says, point an alias."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from components.core.errors import InputError, StepError
from components.core.inference import archives
from components.core.registry import smoke_test as smoke
from components.core.tracking import pyfunc, runs, tag_names
from components.core.tracking.service import connection

TRY_OUT_SECONDS = 600
ALIASES = ("champion", "previous", "challenger", "pending")


@dataclass(frozen=True)
class Version:
    """A version's facts in the registry; None or empty if its tags have none."""

    version: str
    created: float  # seconds since the epoch
    aliases: list[str]
    accepted: bool | None
    compared_with: str | None  # the champion that the evidence is against
    decision: str
    accuracy: float | None
    metric: str  # the headline metric
    value: float | None  # of the metric on the test rows
    run: str  # the pipeline's, in MLflow

    @classmethod
    def read(cls, found: Any, pointing: Mapping[str, str]) -> Self:  # noqa: ANN401 - mlflow publishes no types
        """The version by its tags; `pointing` are the model's aliases, which a search for versions does not tell."""
        metric, value = figure(found.tags)
        return cls(
            version=str(found.version),
            created=found.creation_timestamp / 1000,
            aliases=sorted(alias for alias, target in pointing.items() if target == str(found.version)),
            accepted={"true": True, "false": False}.get(found.tags.get(tag_names.ACCEPTED, "")),
            compared_with=found.tags.get(tag_names.COMPARED_WITH),
            decision=found.tags.get(tag_names.DECISION, ""),
            accuracy=_value(found.tags, "accuracy"),
            metric=metric,
            value=value,
            run=found.run_id or "",
        )


def current(model: str, alias: str) -> str:
    """The version an alias points to; empty where there is none."""
    return aliases(model).get(alias, "")


def aliases(model: str) -> dict[str, str]:
    """Every alias of a model and the version it points to; empty where there is no such model."""
    found = connection.client().search_registered_models(f"name = '{model}'")
    return {str(alias): str(version) for alias, version in found[0].aliases.items()} if found else {}


def tags(model: str, version: str) -> dict[str, str]:
    """Return the tags of a version."""
    return dict(connection.client().get_model_version(model, version).tags)


def mark(model: str, version: str) -> str:
    """The version with the beginning of its files' digest, which tells it from another registry's."""
    return f"{version} {tags(model, version).get(tag_names.ARTIFACT_DIGEST, '')[:12]}" if version else "none"


def fetch(model: str, wanted: str, folder: Path) -> tuple[Path, str]:
    """Download a version by alias or number and check it before anything is loaded.

    Returns:
        The folder of the served model, and the version.

    Raises:
        InputError: There is no such model or version.
        StepError: Its files are not what was registered.
    """
    version = wanted if wanted.isdecimal() else current(model, wanted)
    client = connection.client()
    found = client.search_model_versions(f"name = '{model}' and version_number = {version}") if version else []
    if not found:
        connection.check_known(model)
        raise InputError(
            f"{model} has no version {wanted}."
            if wanted.isdecimal()
            else f"No version of {model} has the alias {wanted}.",
            f"List its versions with `thawline models {model}`, and name one as {model}/1 or {model}@challenger.",
        )
    name = f"{model} version {version}"
    try:
        path = pyfunc.download_version(model, version, folder)
        drop_traces(path)
        archives.check_folder(path, found[0].tags.get(tag_names.ARTIFACT_DIGEST, ""))
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
    with trying_out(folder) as begin:
        answer = begin()
        return answer()


@contextmanager
def trying_out(folder: Path) -> Iterator[Callable[[], Callable[[], str]]]:
    """Start the clean process of `smoke_test` beside other work: it loads the libraries, which takes seconds.

    Args:
        folder: Of the served model, which may not be there yet.

    Yields:
        What says that the model is there, and returns what waits for its answer.
    """
    command = [sys.executable, "-I", "-B", smoke.__file__, str(folder), "--wait"]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryDirectory() as temporary,  # torch leaves folders among the temporary files
        subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "TMPDIR": temporary}
        ) as process,
    ):

        def begin() -> Callable[[], str]:
            assert process.stdin  # noqa: S101 - a pipe was asked for
            with suppress(BrokenPipeError):  # it has ended, and its complaint says why
                process.stdin.write("\n")
                process.stdin.flush()
            return lambda: _answer(process)

        try:
            yield begin
        finally:
            process.kill()


def _answer(process: "subprocess.Popen[str]") -> str:
    said, complaint = process.communicate(timeout=TRY_OUT_SECONDS)
    if process.returncode:
        reason = (complaint.strip().splitlines() or ["no message"])[-1]
        raise StepError(
            f"The served model does not answer where Thawline is not installed: {reason}.",
            "No alias was moved; fix the task's serving code and run again.",
        )
    return said.strip()


def add_version(model: str, folder: Path, run: runs.StepRun, tags: Mapping[str, str]) -> str:
    """Upload a checked model folder, register it as a new version with its digest; return the version."""
    client, digest = connection.client(), archives.folder_digest(folder)
    uploaded = _uploaded(model, folder, run, digest)
    if not client.search_registered_models(f"name = '{model}'"):  # only now: a full disk leaves no model without one
        client.create_registered_model(model)
    version = client.create_model_version(
        model,
        f"models:/{uploaded}",
        run_id=run.pipeline_id,
        tags={tag_names.ARTIFACT_DIGEST: digest, **tags},
        model_id=uploaded,
    )
    return str(version.version)


def _uploaded(model: str, folder: Path, run: runs.StepRun, digest: str) -> str:
    """Upload a model folder as a logged model, or complete the one that a kill of this run left; return its id."""
    client, experiment = connection.client(), connection.experiment(model)
    known = {tag_names.RUN_KEY: run.run_key, tag_names.ARTIFACT_DIGEST: digest}
    left = client.search_logged_models([experiment], " AND ".join(tag_names.equals(*tag) for tag in known.items()))
    logged = left[0] if left else client.create_logged_model(experiment, model, run.run_id, tags=known)
    if logged.status != "READY":
        client.log_model_artifacts(logged.model_id, str(folder))
        client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


def registered(model: str, folder: Path, tags: Mapping[str, str]) -> str:
    """Return the version with these files, empty if there is none, and update the tags of its verdict.

    It gets the tags of this verdict if it is accepted, or if it was judged against the same champion before: what lost
    the second time is not promoted by the first. Else it keeps what it was accepted by against an earlier champion.
    """
    digest = archives.folder_digest(folder)
    found = _all_versions(f"name = '{model}'")
    same = next((version for version in found if version.tags.get(tag_names.ARTIFACT_DIGEST) == digest), None)
    if same is None:
        return ""
    version, against = str(same.version), tag_names.COMPARED_WITH
    if tags[tag_names.ACCEPTED] == "true" or same.tags.get(against) == tags[against]:
        for name in (tag_names.ACCEPTED, against, tag_names.DECISION, tag_names.EVIDENCE_RUN):
            connection.client().set_model_version_tag(model, version, name, tags[name])
    return version


def move_alias(model: str, alias: str, version: str) -> None:
    """Point an alias to a version; an empty version takes the alias away. The champion is the ledger's to move."""
    if current(model, alias) == version:
        return
    if version:
        connection.client().set_registered_model_alias(model, alias, version)
    else:
        connection.client().delete_registered_model_alias(model, alias)


def models() -> list[dict[str, Any]]:
    """Every model that Thawline registered, by name: the versions that aliases point to, and how many there are."""
    counts = Counter(str(version.name) for version in _all_versions("") if tag_names.ARTIFACT_DIGEST in version.tags)
    found = {str(model.name): model.aliases for model in connection.every(connection.client().search_registered_models)}
    return [
        {"name": name, **{alias: str(found[name].get(alias, "")) for alias in ALIASES}, "versions": counts[name]}
        for name in sorted(counts)
    ]


def versions(model: str) -> list[Version]:
    """The versions of a model, newest first."""
    pointing = aliases(model)
    found = sorted(_all_versions(f"name = '{model}'"), key=lambda version: -int(version.version))
    return [Version.read(version, pointing) for version in found]


def figure(tags: Mapping[str, str]) -> tuple[str, float | None]:
    """The metric of a version and its value on the test rows, from its tags; earlier versions knew accuracy only."""
    metric = tags.get(tag_names.METRIC, "accuracy")
    return metric, _value(tags, metric)


def _value(tags: Mapping[str, str], metric: str) -> float | None:
    value = tags.get(tag_names.figure(metric))
    return None if value is None else float(value)


def _all_versions(condition: str) -> list[Any]:
    return list(connection.every(connection.client().search_model_versions, filter_string=condition))
