"""Changed labels of test rows: what waits, and accepting it. Until then the locked label counts."""

import getpass
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from components.core import run_folder
from components.core.data.assignments import LabelChange, read_label_changes, write_label_changes
from components.core.data.lineage import write_lineage
from components.core.errors import InputError
from components.core.tracking import runs as tracking


def waiting(model: str) -> list[LabelChange]:
    """Changes that the last dataset of a model found and nobody accepted.

    Raises:
        InputError: The model has no dataset.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = tracking.lineage_files(model, Path(folder))
        if found is None:
            raise InputError(
                f"No dataset of a model {model!r} is in MLflow.", "Give --model the name that `thawline run` used."
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
    with FileLock(run_folder.home() / f"{model}.lineage.lock"), tempfile.TemporaryDirectory() as folder:
        changes = waiting(model)
        unknown = [text for text in ids if not any(change.id.startswith(text) for change in changes)]
        if unknown or not changes:
            what = f"No changed label of {unknown[0]!r} waits" if unknown else "No changed label waits"
            raise InputError(f"{what} for {model!r}.", f"See what waits: thawline labels list --model {model}.")
        taken = [change for change in changes if not ids or change.id.startswith(tuple(ids))]
        lineage = tracking.previous_lineage(model)
        members = dict(lineage.members)
        for change in taken:
            members[change.id] = replace(members[change.id], label=change.proposed)
        write_lineage(Path(folder) / "assignments.parquet", replace(lineage, members=members))
        kept = [change for change in changes if change not in taken]
        write_label_changes(Path(folder) / "label_changes.parquet", kept)
        write_label_changes(Path(folder) / "accepted_labels.parquet", taken)
        who = f"{getpass.getuser()}@{socket.gethostname()}"
        tracking.log_lineage(
            model, lineage.salt, Path(folder), {"thawline.accepted_labels": str(len(taken)), "thawline.who": who}
        )
    return taken
