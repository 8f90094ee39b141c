"""Move the champion: every move is written into the ledger ahead, so that a kill leaves nothing in doubt.

`_settle`, with which every call begins, completes or closes entries that a kill left open, and records an alias that
was moved by hand.

The registry has no compare and swap. Within one home a lock orders what moves the champion. On a shared server the
entries themselves do, as tickets in Lamport's bakery algorithm (1974): everyone opens an entry and then looks for
others'; the oldest waits until the younger ones are closed, and these fail.
"""

import tempfile
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import NamedTuple

from components.core import run_folder
from components.core.errors import InputError, StepError
from components.core.machine.identity import whoami
from components.core.registry import versions as registry
from components.core.registry.ledger import (
    CHAMPION,
    PENDING,
    PREVIOUS,
    Entry,
    age,
    champion_of,
    complete,
    earlier,
    fail,
    finished,
    named,
    open_entry,
    read,
    withdraw,
)
from components.core.storage import home_folder
from components.core.tracking import tag_names
from components.core.tracking.service import connection

PATIENCE = 20.0  # seconds that an open entry of another machine may take; its writes take well under one
POLL = 0.2  # seconds between two looks


class Evidence(NamedTuple):
    """The evidence that allows a version to become champion."""

    run_id: str  # of the pipeline run that evaluated it
    champion: str | None  # the version that it was compared with; None where that is not known
    sentence: str


def promote(
    model: str,
    version: str,
    *,
    why: str,
    who: str = "",
    evidence: str = "",
    override: bool = False,
    expected: str | None = None,
    answered: str = "",
) -> Entry:
    """Make a version champion and the champion before it `previous`; nothing happens if it is champion already.

    Args:
        model: The registered model.
        version: Its number.
        why: One sentence for the history.
        who: Empty for the user of this process.
        evidence: Id of the pipeline run whose evidence allows it.
        override: Record that it is promoted without evidence.
        expected: Move only if this version is champion ("" is none); None for any.
        answered: Digest of files that the caller has just seen answering in a clean process: where the registry holds
            these, they are neither downloaded nor tried out again.

    Returns:
        The entry; one that is not `done` tells by its reason that the champion was not the expected one, or that
        another promotion came first.

    Raises:
        InputError: There is no such version.
        StepError: Its files are not what was registered, or do not answer, or another promotion does not end.
    """
    if registry.current(model, CHAMPION) != version:
        _try_out(model, version, answered)
    return _move(model, version, "override" if override else "promote", why, who, evidence, expected)


def rollback(model: str, to: str = "", *, why: str = "", who: str = "") -> Entry:
    """Make an earlier champion champion again: `to`, or else the one below the current one in `stack`.

    A rollback that was cut off after it had moved the alias is completed, and counts as this one.

    Raises:
        InputError: There is no such model, no earlier champion, or `to` never was one.
        StepError: Its files are not what was registered, or do not answer, or another promotion does not end.
    """
    closed = settle(model)
    completed = [entry for entry in closed if entry.done and entry.action == "rollback"]
    if completed and not to:
        return completed[-1]
    entries = finished(model)
    champion = champion_of(entries)
    target = to or earlier(entries)
    if not target:
        hint = f"See `thawline models {model}`; `thawline promote` makes another version champion."
        raise InputError(f"{model} has no earlier champion to go back to.", hint)
    reigns = [entry for entry in entries if entry.to == target]
    if not reigns:
        hint = f"Promote it instead: `thawline promote {target} --model {model}`."
        raise InputError(f"{model} version {target} was never champion.", hint)
    if target != champion:
        _try_out(model, target, "")
    why = why or f"Back to version {target}"
    return _move(model, target, "rollback", why, who, reigns[-1].evidence, champion)


def propose(model: str, version: str, expected: str) -> bool:
    """Let an accepted version wait for approval as `pending`.

    It replaces one that waited, which the ledger does not record.

    Returns:
        Whether it waits: not if `expected` is no longer the champion that it was compared with.
    """
    with _lock():
        _settle(model)
        if registry.current(model, CHAMPION) != expected:
            return False
        _clear_pending(model, registry.current(model, PENDING))
        registry.move_alias(model, PENDING, version)
        connection.client().set_model_version_tag(model, version, tag_names.PENDING, "true")
        if registry.current(model, CHAMPION) != expected:  # another machine moved it, maybe before it could see us wait
            _clear_pending(model, version)
            return False
        return True


def approval(model: str, version: str) -> str:
    """The command that approves a pending version."""
    return f"thawline promote {version} --model {model}"


def evidence_for(model: str, version: str) -> Evidence:
    """The evidence for a version, from its tags.

    Raises:
        InputError: There is no such version, it was not accepted, or against another champion than today's.
    """
    hint = "To do it anyway, add --override with a --reason."
    found = [facts for facts in registry.versions(model) if facts.version == version]
    if not found:
        raise InputError(f"{model} has no version {version}.", f"See `thawline models {model}`.")
    [facts] = found
    if not facts.accepted:
        raise InputError(f"There is no evidence for {model} version {version}: no evaluation accepted it.", hint)
    compared, champion = facts.compared_with, registry.current(model, CHAMPION)
    if compared is not None and compared != champion:
        against = f"against version {compared}" if compared else "as the first one"
        sentence = f"{model} version {version} was accepted {against}, but {named(champion)} is champion now."
        raise InputError(sentence, f"Run the pipeline again. {hint}")
    judged = registry.tags(model, version).get(tag_names.EVIDENCE_RUN, facts.run)
    return Evidence(judged, compared, facts.decision)


def was_rolled_back(model: str, version: str) -> bool:
    """Return whether this version was rolled back and has not been made champion again since."""
    told = [entry for entry in finished(model) if version in (entry.origin, entry.to)]
    return bool(told) and told[-1].action == "rollback" and told[-1].origin == version


def settle(model: str) -> list[Entry]:
    """Repair what a kill left, and record what was moved by hand; return the entries that this closed.

    Raises:
        InputError: There is no such model.
        StepError: A promotion is under way and does not end.
    """
    if not connection.client().search_registered_models(f"name = '{model}'"):
        raise InputError(f"The registry has no model {model!r}.", "See the models with `thawline models`.")
    with _lock():
        return _settle(model)


def _try_out(model: str, version: str, answered: str) -> None:
    """Check a version's files against the registry, and that they answer in a clean process."""
    if answered and registry.tags(model, version).get(tag_names.ARTIFACT_DIGEST) == answered:
        return
    with tempfile.TemporaryDirectory() as folder:
        path, _ = registry.fetch(model, version, Path(folder))
        registry.smoke_test(path)


def _lock() -> AbstractContextManager[None]:
    """One at a time within this home; a kill frees it."""
    return home_folder.locked(home_folder.home() / "registry.lock")


def _move(model: str, version: str, action: str, why: str, who: str, evidence: str, expected: str | None) -> Entry:
    with _lock():
        _settle(model)
        entries = finished(model)
        champion = champion_of(entries)
        if champion == version:
            return entries[-1]
        entry = open_entry(model, action, champion, version, why, who or whoami(), evidence)
        if expected not in (None, champion):
            return fail(entry, f"The champion is {named(champion)}, no longer {named(str(expected))}.")
        try:
            obstacle = _claim(entry, champion)
            if obstacle:
                return fail(entry, obstacle)
            registry.move_alias(model, CHAMPION, version)
            return _complete(entry)
        except BaseException:
            with suppress(Exception):  # the next call repairs it otherwise
                _repair(entry)
            raise


def _claim(entry: Entry, champion: str) -> str:
    """Wait until this entry is the only open one, and check that nothing has moved; else return why it must fail.

    Two that open entries at once can't both pass: each looks after it has opened its own, so at least one sees the
    other.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        others = [other for other in read(entry.model) if other.status == "RUNNING"]
        if entry.run_id not in [other.run_id for other in others]:
            return "Another process treated it as cut off."
        others = [other for other in others if other.run_id != entry.run_id]
        if not others:
            break
        first = min(others, key=age)
        if age(first) < age(entry) or time.monotonic() > deadline:
            return f"{first.who} was moving the champion to {named(first.to)} at the same time."
        time.sleep(POLL)
    now, before = registry.current(entry.model, CHAMPION), champion_of(finished(entry.model))
    return (
        "" if (now, before) == (champion, entry.origin) else f"The champion was moved to {named(now)} in the meantime."
    )


def _complete(entry: Entry) -> Entry:
    """Finish a move once the alias `champion` points where the entry says; safe to repeat.

    A version that waits for approval is withdrawn if it was judged against another champion.
    """
    before = earlier([*finished(entry.model), entry])
    there = {known.version for known in registry.versions(entry.model)}
    registry.move_alias(entry.model, PREVIOUS, before if before in there else "")
    if stale := _stale(entry):
        entry = withdraw(entry, stale)
    for version in (entry.to, stale):
        _clear_pending(entry.model, version)
    return complete(entry)


def _stale(entry: Entry) -> str:
    """Return the version that waits for approval, if it was judged against another champion than this move leaves."""
    version = registry.current(entry.model, PENDING)
    if version in ("", entry.to):
        return ""
    against = registry.tags(entry.model, version).get(tag_names.COMPARED_WITH)
    return "" if against in (None, entry.to) else version


def _clear_pending(model: str, version: str) -> None:
    """Remove the marks of a waiting version, which was promoted, replaced or withdrawn."""
    if not version:
        return
    if tag_names.PENDING in connection.client().get_model_version(model, version).tags:
        connection.client().delete_model_version_tag(model, version, tag_names.PENDING)
    if registry.current(model, PENDING) == version:
        registry.move_alias(model, PENDING, "")


def _settle(model: str) -> list[Entry]:
    closed: list[Entry] = []
    deadline = time.monotonic() + PATIENCE
    while True:
        entries, late = read(model), time.monotonic() >= deadline
        left = [entry for entry in entries if entry.status == "RUNNING"]
        busy = [entry for entry in left if not _cut_off(entry, late=late)]
        if busy and late:
            sentence = f"{busy[0].who} is moving the champion of {model} to {named(busy[0].to)}."
            raise StepError(sentence, "Wait until that move is done, and try again.")
        if not busy:
            closed += [_repair(entry) for entry in left]
            found = _record_found(model)
            closed += [found] if found else []
            if found is None or found.done:
                return closed
        time.sleep(POLL)


def _cut_off(entry: Entry, *, late: bool) -> bool:
    """Return whether an open entry was abandoned.

    Another machine's processes can't be seen, so its entries count as cut off once they had time enough. Our own
    process holds the lock and is at the beginning of a call: what it left open, an error cut off.
    """
    fate = run_folder.fate(entry.mark)
    return fate == "gone" or entry.mark == run_folder.process_mark() or (fate == "unknown" and late)


def _repair(entry: Entry) -> Entry:
    """Close an entry that was cut off: as FINISHED if it moved the champion, else as FAILED."""
    # the alias first: who repaired the entry since then, and perhaps moved on, shows by its status
    champion, entries = registry.current(entry.model, CHAMPION), read(entry.model)
    [now] = [other for other in entries if other.run_id == entry.run_id]
    if now.status != "RUNNING":
        return now
    before = champion_of([other for other in entries if other.done])
    if champion == entry.to and before == entry.origin:
        return _complete(entry)
    if champion == entry.origin:
        return fail(entry, "It was cut off before it moved anything.")
    return fail(entry, f"It was cut off, and after another move the champion is {named(champion)}.")


def _record_found(model: str) -> Entry | None:
    """Record that the alias was moved outside of the ledger, so that the history stays true; None if it was not.

    The entry fails where another machine's promotion came between: then all is to be looked at again.
    """
    before, champion = champion_of(finished(model)), registry.current(model, CHAMPION)
    if champion == before:
        return None
    why = "Moved outside Thawline's ledger, for example on the tracking page"
    entry = open_entry(model, "found", before, champion, why, "unknown", "")
    obstacle = _claim(entry, champion)
    return fail(entry, obstacle) if obstacle else _complete(entry)
