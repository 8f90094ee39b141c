"""The ledger of champions, with reason, user and evidence of each move; append-only, in MLflow.

An entry is a run in the experiment of the model's name with the tag `thawline.kind = promotion`. It is opened
(RUNNING) before any alias moves and closed after: FINISHED, or FAILED with a reason where the alias did not move. The
last FINISHED entry agrees with the alias `champion`; `promotion.py` sees to it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from components.core import run_folder
from components.core.machine.times import iso
from components.core.tracking import tag_names
from components.core.tracking.service import connection

KIND = "promotion"
CHAMPION, PREVIOUS, PENDING = "champion", "previous", "pending"
OPENED = {  # fields of an entry and their tags, written when it is opened
    "action": tag_names.ACTION,
    "origin": tag_names.FROM,
    "to": tag_names.TO,
    "why": tag_names.WHY,
    "who": tag_names.WHO,
    "evidence": tag_names.EVIDENCE,
    "mark": tag_names.MARK,
}
CLOSED = {"reason": tag_names.REASON, "withdrawn": tag_names.WITHDRAWN}  # as above, when it is closed


@dataclass(frozen=True)
class Entry:
    """One entry: the champion's move from a version to another (empty: none), why, by whom, on which evidence."""

    run_id: str
    model: str
    action: str  # promote, rollback, override (without evidence) or found (moved outside of the ledger)
    origin: str
    to: str
    why: str
    who: str  # user@host, or the key of a pipeline run
    evidence: str  # id of the pipeline run whose evidence allows it; empty with override and found
    time: int  # milliseconds since the epoch; later entries have later times, whatever the clocks say
    mark: str  # the process that opened it
    status: str = "RUNNING"
    reason: str = ""  # why it FAILED
    withdrawn: str = ""  # the version that waited for approval on evidence against another champion

    @classmethod
    def from_run(cls, run: Any) -> Self:  # noqa: ANN401 - mlflow publishes no types
        """The entry that a run of the ledger is."""
        tags = run.data.tags
        return cls(
            run_id=str(run.info.run_id),
            model=tags[tag_names.MODEL],
            time=int(run.info.start_time),
            status=str(run.info.status),
            **{name: tags.get(tag, "") for name, tag in (OPENED | CLOSED).items()},
        )

    @property
    def done(self) -> bool:
        """Return whether the champion moved."""
        return self.status == "FINISHED"


def read(model: str) -> list[Entry]:
    """Every entry of a model, the oldest first: open, finished and failed ones."""
    condition = f"{tag_names.equals(tag_names.KIND, KIND)} and {tag_names.equals(tag_names.MODEL, model)}"
    where = [connection.own_experiment(model)]
    found = connection.every(connection.client().search_runs, experiment_ids=where, filter_string=condition)
    return sorted(map(Entry.from_run, found), key=age)


def finished(model: str) -> list[Entry]:
    """The entries by which the champion moved, the oldest first."""
    return [entry for entry in read(model) if entry.done]


def champion_of(entries: Sequence[Entry]) -> str:
    """Return the champion by the ledger."""
    return entries[-1].to if entries else ""


def earlier(entries: Sequence[Entry]) -> str:
    """The champion before the current one; empty where there was none."""
    versions = stack(entries)
    if versions and versions[-1] == entries[-1].to:
        versions.pop()
    return versions[-1] if versions else ""


def stack(entries: Sequence[Entry]) -> list[str]:
    """The champions that a rollback goes through, the latest last: a promotion pushes, a rollback pops.

    A version that was popped is pushed when a rollback names it; so is one that was moved to by hand.
    """
    versions: list[str] = []
    for entry in entries:
        if entry.action == "rollback" and entry.to in versions:
            del versions[len(versions) - versions[::-1].index(entry.to) :]
        elif entry.to and versions[-1:] != [entry.to]:
            versions.append(entry.to)
    return versions


def history(model: str) -> list[dict[str, Any]]:
    """Return the champions with their dates, newest first.

    Returns:
        Dicts of `version`, `from` and `until` (UTC, ISO 8601; `until` is empty for the champion), `action`, `why`,
        `who`, `evidence`, `withdrawn` (the version that no longer waited for approval) and `entry` (the id of its run).
    """
    entries = finished(model)
    ends = [*(iso(entry.time / 1000) for entry in entries[1:]), ""][: len(entries)]
    return [
        {
            "version": entry.to,
            "from": iso(entry.time / 1000),
            "until": until,
            "action": entry.action,
            "why": entry.why,
            "who": entry.who,
            "evidence": entry.evidence,
            "withdrawn": entry.withdrawn,
            "entry": entry.run_id,
        }
        for entry, until in reversed(list(zip(entries, ends, strict=True)))
        if entry.to  # nobody is champion after the alias was removed by hand
    ]


def failures(model: str) -> list[dict[str, str]]:
    """Return the moves that failed, newest first.

    Returns:
        Dicts of `version` (that should have become champion), `time` (UTC, ISO 8601), `action`, `who`, `reason` and
        `entry` (the id of its run).
    """
    return [
        {
            "version": entry.to,
            "time": iso(entry.time / 1000),
            "action": entry.action,
            "who": entry.who,
            "reason": entry.reason,
            "entry": entry.run_id,
        }
        for entry in reversed(read(model))
        if entry.status == "FAILED"
    ]


def age(entry: Entry) -> tuple[int, str]:
    """A total order: by time, and by id where times are equal."""
    return entry.time, entry.run_id


def named(version: str) -> str:
    """A version as a sentence names it; empty is none."""
    return f"version {version}" if version else "no version"


def open_entry(model: str, action: str, origin: str, to: str, why: str, who: str, evidence: str) -> Entry:
    """Write the intent of a move, in one call, before anything moves."""
    latest = max((entry.time for entry in read(model)), default=0)
    now = max(int(time.time() * 1000), latest + 1)  # clocks of machines differ: later entries come later all the same
    why, mark = " ".join(why.split())[: tag_names.TAG_LENGTH], run_folder.process_mark()
    entry = Entry("", model, action, origin, to, why, who, evidence, now, mark)
    tags = {tag_names.RUN_NAME: f"{action} {to or 'none'}", tag_names.KIND: KIND, tag_names.MODEL: model}
    tags |= {tag: str(getattr(entry, name)) for name, tag in OPENED.items()}
    run = connection.client().create_run(connection.own_experiment(model), start_time=now, tags=tags)
    return replace(entry, run_id=run.info.run_id)


def withdraw(entry: Entry, version: str) -> Entry:
    """Write into an open entry which version no longer waits for approval, before it does not."""
    connection.client().set_tag(entry.run_id, tag_names.WITHDRAWN, version)
    return replace(entry, withdrawn=version)


def complete(entry: Entry) -> Entry:
    """Close an entry by which the champion moved."""
    connection.client().set_terminated(entry.run_id, "FINISHED")
    return replace(entry, status="FINISHED")


def fail(entry: Entry, reason: str) -> Entry:
    """Close an entry by which the champion did not move."""
    connection.client().set_tag(entry.run_id, tag_names.REASON, reason)
    connection.client().set_terminated(entry.run_id, "FAILED")
    return replace(entry, status="FAILED", reason=reason)
