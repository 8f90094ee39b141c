"""A lineage in MLflow: its files, and changed labels of test rows, which wait until somebody accepts them."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from components.core import run_folder
from components.core.data.assignments import LabelChange, read_label_changes, write_label_changes
from components.core.data.lineage import DEFAULT_SALT, Lineage, read_lineage, refuse_other_salt, write_lineage
from components.core.errors import InputError
from components.core.machine import identity
from components.core.storage import home_folder
from components.core.tracking import queries, runs, tag_names
from components.core.tracking.service import connection

RESTORE = "Restore it from a backup, or start a new lineage with another --model."


def waiting(model: str) -> list[LabelChange]:
    """Changes that the last dataset of a model found and nobody accepted.

    Raises:
        InputError: The model has no dataset.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = lineage_files(model, Path(folder))
        if found is None:
            raise InputError(
                f"MLflow has no dataset of a model {model!r}.", "Use the --model that `thawline run` used."
            )
        path = found[0] / "label_changes.parquet"
        return read_label_changes(path) if path.exists() else []


def accept(model: str, ids: Sequence[str]) -> list[LabelChange]:
    """Lock these test rows with the labels that the source proposes, from the next run on; kept as a run in MLflow.

    Args:
        model: Of the lineage.
        ids: Of examples, or their beginnings; empty: all that wait.

    Raises:
        InputError: An id is none that waits, or nothing waits.
    """
    with home_folder.locked(home_folder.home() / f"{model}.lineage.lock"), tempfile.TemporaryDirectory() as folder:
        changes = waiting(model)
        unknown = [text for text in ids if not any(change.id.startswith(text) for change in changes)]
        if unknown or not changes:
            what = f"No changed label of {unknown[0]!r} is waiting" if unknown else "No changed label is waiting"
            raise InputError(f"{what} for {model!r}.", f"List the waiting ones: thawline labels list --model {model}.")
        taken = [change for change in changes if not ids or change.id.startswith(tuple(ids))]
        lineage = previous_lineage(model)
        members = dict(lineage.members)
        for change in taken:
            members[change.id] = replace(members[change.id], label=change.proposed)
        write_lineage(Path(folder) / "assignments.parquet", replace(lineage, members=members))
        kept = [change for change in changes if change not in taken]
        write_label_changes(Path(folder) / "label_changes.parquet", kept)
        write_label_changes(Path(folder) / "accepted_labels.parquet", taken)
        log_lineage(
            model,
            lineage.salt,
            Path(folder),
            {tag_names.ACCEPTED_LABELS: str(len(taken)), tag_names.WHO: identity.whoami()},
        )
    return taken


def accepted(model: str) -> str:
    """Count the accepted label changes of the model's test rows: they change the dataset, not the source."""
    return f"{len(queries.recorded(model, tag_names.ACCEPTED_LABELS))} times accepted"


def lineage_files(model: str, folder: Path, before: str = "") -> tuple[Path, str] | None:
    """Download what the last prepared dataset of the model left, or what was accepted since, with its salt.

    The dataset of the pipeline run `before` does not count: its step may be at it again.

    Raises:
        InputError: MLflow has lost it.
    """
    found = _newest_dataset(model, before)
    if found is None:
        return None
    path = queries.download(found[0], "dataset", folder)
    if path is None or not (path / "assignments.parquet").exists():
        connection.open_store()  # a server that is away has lost nothing
        raise InputError(f"The last dataset of {model!r}, in the run {found[0]}, is gone from MLflow.", RESTORE)
    return path, found[1]


def check_salt(model: str, salt: str) -> None:
    """Check a salt against the one that a model's lineage was split with, without downloading the lineage.

    Raises:
        InputError: The lineage has another one, and this is not the default.
    """
    if salt != DEFAULT_SALT and (found := _newest_dataset(model)):
        refuse_other_salt(model, found[1], salt)


def previous_lineage(model: str, before: str = "") -> Lineage:
    """Return the model's lineage so far, before a pipeline run if it is named; empty for a new model."""
    with tempfile.TemporaryDirectory() as folder:
        found = lineage_files(model, Path(folder), before)
        name = f"file of {model!r} in MLflow"
        return read_lineage(found[0] / "assignments.parquet", found[1], name, RESTORE) if found else Lineage()


def log_lineage(model: str, salt: str, folder: Path, tags: Mapping[str, str]) -> None:
    """Record a change of the lineage outside of a pipeline run: the next dataset goes on from these files."""
    run_id = runs.create("labels", run_folder.new_run_key(), model, "labels", None)
    connection.client().log_artifacts(run_id, str(folder), "dataset")
    runs.record(run_id, {}, {tag_names.SALT: salt, **tags})
    connection.client().set_terminated(run_id, "FINISHED")


def _newest_dataset(model: str, before: str = "") -> tuple[str, str] | None:
    """The id of the run that prepared the last dataset of a model, or accepted labels since, and the salt."""
    found = queries.find_runs(model, "", "", f"{tag_names.is_set(tag_names.SALT)} and {queries.FINISHED}")
    others = (run for run in found if not before or run.data.tags[tag_names.RUN_KEY] != before)
    return next(((str(run.info.run_id), run.data.tags[tag_names.SALT]) for run in others), None)
