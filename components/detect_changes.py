"""Step: is there anything to do? Compare the inputs with those of earlier runs; train, judge again, or skip.

It reads only what it does not know by size and time, and imports neither torch nor kfp, but for `--drift-trigger`
where a run would wait for more data. The rule:

- `skip`: the inputs are those of the last successful run, and so is the gate; the champion is the version that this run
  compared with, or its own.
- `judge`: the inputs are those of an earlier successful run, whose version is in the registry, but the gate or the
  champion is another one, or there is none any more, or other inputs came between. Its version is evaluated and
  registered anew, not trained.
- `train`: everything else, and `--force`. A run that a deadline cut short never counts as equal to a later one.

Before all that it takes the model's lease: while another run of the model is in progress, this one is `busy` and ends.
"""

import json
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from components.core import run_folder
from components.core.contract import task_sources
from components.core.contract.listener import SILENT, Callbacks, Progress
from components.core.contract.task import load_task
from components.core.errors import StepError
from components.core.settings import Settings
from components.core.sources import raw_records, source_index
from components.core.sources.record_kinds import check_task
from components.core.sources.source_index import IndexRow
from components.core.storage import home_folder
from components.core.tracking import metric_groups, provenance, step_records, tag_names
from components.core.tracking.service import retries
from components.core.training import deadlines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from components.core.sources.raw_records import RawRecord
    from components.core.tracking.queries import Ended
    from components.core.tracking.runs import StepRun

DECISION = "decision.json"  # in the run's folder: what the command line decided before it started the DAG


@dataclass(frozen=True)
class Decision:
    """The decision what to run, and its reason."""

    change: Literal["train", "judge", "skip", "busy"]
    reason: str
    version: str = ""  # of an earlier run: to be judged again, or what a skipped run stands for
    same_as: str = ""  # that run's id in MLflow
    input_digest: str = ""  # empty where the data was not looked at


def detect_changes(source: str, settings: str, run_key: str) -> tuple[bool, str, str]:
    """Decide once for each run, tag the pipeline's run with it, and tell what the DAG has to do.

    Args:
        source: A folder, an S3 prefix or a manifest.
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.

    Returns:
        Whether there is anything to do, the version to judge (empty: train), and the digest of the inputs.

    Raises:
        InputError: The source can't be listed, or holds nothing that a run could start with.
    """
    decision = _decided(run_key) or look(source, Settings.from_json(settings), run_key)
    judged = decision.version if decision.change == "judge" else ""
    # what was not looked at must not be served from a cache either
    return decision.change in ("train", "judge"), judged, decision.input_digest or run_key


def _decided(run_key: str) -> Decision | None:
    """The decision in the run's folder; None without one, and for a damaged one."""
    facts = run_folder.read_facts(run_folder.run_folder(run_key) / DECISION)
    try:
        return Decision(**facts)
    except TypeError:
        return None


@retries.patient
def look(source: str, settings: Settings, run_key: str, progress: Progress = SILENT.progress) -> Decision:
    """Decide and tag the pipeline's run, without asking whether that was done before; see `detect_changes`."""
    run_folder.start("detect_changes", run_key)
    from components.core.tracking import leases, runs  # mlflow costs seconds

    with runs.step("detect_changes", run_key, settings.to_json()) as run, tempfile.TemporaryDirectory() as folder:
        runs.close_killed(run)
        leases.hold(run)
        before = run.pipeline_tags()
        # a run that has given way stays so, when its pod is started again
        other = before[tag_names.DECISION] if before.get(tag_names.CHANGE) == provenance.BUSY else leases.take(run)
        if other:
            return _give_way(run, other)

        def report(done: int, total: int, text: str) -> None:
            run.progress(done, total, text)
            progress(done, total, text)

        decision, found, rows, history = _weighed(source, run, Path(folder), report)
        _keep(run, decision, found, settings)
        if decision.change == "skip" and source_index.knows_more(rows, history.index(history.newest)):
            source_index.write_index(Path(folder) / source_index.INDEX, rows)
            run.artifact(Path(folder) / source_index.INDEX, "dataset", pipeline=True)
            run.tags({tag_names.INDEXED: "true"}, pipeline=True)
        run.figure(f"{decision.change}: {decision.reason}")
    return _kept(run_key, decision)


def foresee(source: str, settings: Settings, run_key: str, progress: Progress = SILENT.progress) -> Decision:
    """Return what a run would do now, and why; nothing is written to MLflow.

    Raises:
        InputError: The source can't be listed, or holds nothing that a run could start with.
    """
    from components.core.tracking import leases, runs

    run = runs.StepRun("detect_changes", run_key, settings, "", "", silent=True)
    if other := leases.in_progress(run):
        return Decision(provenance.BUSY, other)
    with tempfile.TemporaryDirectory() as folder:
        return _weighed(source, run, Path(folder), progress)[0]


def _weighed(
    source: str, run: "StepRun", folder: Path, report: Progress
) -> tuple[Decision, provenance.Parts, list[IndexRow], "_History"]:
    """The decision, what the inputs are made of, the index of the source, and earlier runs."""
    from components.core.data import lineage_store
    from components.core.registry import versions as registry

    settings = run.settings
    lineage_store.check_salt(settings.model, settings.split_salt)
    history = _History(settings.model, folder)
    # accepted labels of test rows change the dataset, not the source
    found = {**provenance.parts(settings), "labels": lineage_store.accepted(settings.model)}
    champion = registry.current(settings.model, "champion")
    if settings.warm_start:
        found[provenance.START] = registry.mark(settings.model, champion)
    decision, rows = _decide(source, run, found, history, champion, report)
    return decision, found, rows, history


@retries.patient
def go_on(settings: Settings, run_key: str) -> None:
    """Take up a run that was killed, interrupted or failed, and decided to train: its pipeline's run in MLflow is open.

    Raises:
        StepError: Another run of the model is in progress.
    """
    # negative: a clock was put back; 0 if the events are lost
    *_, idle = [0.0, *(time.time() - event["time"] for event, _ in run_folder.events(run_key))]
    run_folder.start("detect_changes", run_key)
    from components.core.tracking import leases, runs  # mlflow costs seconds

    with runs.step("detect_changes", run_key, settings.to_json()) as run:
        runs.close_killed(run)
        leases.hold(run)
        if other := leases.take(run):
            runs.fail(run.pipeline_id)
            raise StepError(other, "Run again when that run has ended.")
        idle = max(0.0, idle)  # a clock may have been put back
        idle += float(run.pipeline_tags().get(tag_names.IDLE, "0"))
        run.tags({tag_names.IDLE: f"{idle:.1f}"}, pipeline=True)
        run.figure("resumes: its settings, code and source are the same")


def holds_same_data(source: str, settings: Settings, run_key: str) -> bool:
    """Return whether a source is as a run has prepared it; True if it has not come to that.

    Raises:
        InputError: The source can't be listed.
    """
    prepared = step_records.output(run_key, "prepare_data", "dataset")
    if prepared is None:
        return True
    dataset, info = prepared
    known, own = source_index.read_index(dataset / source_index.INDEX), _own_records(settings, source)
    rows = source_index.take(source, known, verify=settings.verify, records=own)
    return isinstance(info, dict) and source_index.data_digest(rows) == info.get("data_digest")


def _give_way(run: "StepRun", other: str) -> Decision:
    """End as skipped: another run of the model is in progress, and this one stands for none."""
    run.tags({tag_names.CHANGE: provenance.BUSY, tag_names.SKIPPED: "true", tag_names.DECISION: other}, pipeline=True)
    run.figure(f"busy: {other}")
    return _kept(run.run_key, Decision(provenance.BUSY, other))


def _kept(run_key: str, decision: Decision) -> Decision:
    home_folder.write_text(run_folder.run_folder(run_key) / DECISION, json.dumps(asdict(decision)))
    return decision


def _decide(
    source: str, run: "StepRun", parts: provenance.Parts, history: "_History", champion: str, report: Progress
) -> tuple[Decision, list[IndexRow]]:
    """The decision, and the index of the source as it is now; `parts` get the data's digest if it is looked at."""
    from components.core.registry import versions as registry

    settings = run.settings
    last, trained, own = history.last, history.trained, _own_records(settings, source)
    if settings.force or last is None or trained is None:
        if own is None:  # nothing else looks at it before prepare_data
            raw_records.check_source(source)
            check_task(source, settings.task)
        return Decision("train", "Training was forced." if settings.force else history.lack(settings.model)), []
    rows = source_index.take(source, history.index(history.newest), report, verify=settings.verify, records=own)
    if not rows and own is None:
        raw_records.check_source(source)
    parts["data"] = source_index.data_digest(rows)
    digest = provenance.input_digest(parts)
    versions = {known.version for known in registry.versions(settings.model)}
    gone = cut = None
    for same in _same_inputs(settings.model, parts, champion):
        if deadlines.cuts(same.tags):  # its version is not the one that these inputs would have given
            cut = cut or same
            continue
        if same.tags.get(tag_names.VERSION) in versions:
            return replace(_again(same, last, settings, parts, champion), input_digest=digest), rows
        gone = gone or same
    if gone:
        reason = f"Version {gone.tags.get(tag_names.VERSION)} of {_name(gone)} is gone from the registry."
        return Decision("train", reason, input_digest=digest), rows
    if cut:
        return Decision("train", f"A deadline cut {_name(cut)} short.", input_digest=digest), rows
    small = trained.tags[tag_names.VERSION] in versions and not deadlines.cuts(trained.tags)
    before, parts_now = history.index(trained), _counted_from(trained, parts, champion)
    decision = _changed(trained, before, rows, parts_now, settings.min_new if small else 0)
    if decision.change == "skip" and settings.drift_trigger and source_index.compare(before, rows).new:
        decision = _despite_few(decision, run, champion, before, rows, report)
    return replace(decision, input_digest=digest), rows


def _own_records(settings: Settings, source: str) -> "Iterable[RawRecord] | None":
    """The records of a source whose task lists them itself; no other task is loaded, for torch costs seconds."""
    if not task_sources.lists_records(settings.task, task_sources.tasks_folder()):
        return None
    return list(load_task(settings.task).records(settings, source))


def _same_inputs(model: str, parts: provenance.Parts, champion: str) -> "Iterator[Ended]":
    """Earlier runs with these inputs, newest first; of a warm start then the one that made the champion."""
    from components.core.tracking import queries

    same = tag_names.equals(tag_names.INPUT_DIGEST, provenance.input_digest(parts))
    extra = f"{same} and tags.`{tag_names.CHANGE}` != 'skip'"
    yield from queries.successful(model, extra)
    if provenance.START in parts and champion:
        extra = f"{tag_names.equals(tag_names.VERSION, champion)} and {tag_names.equals(tag_names.CHANGE, 'train')}"
        for run in queries.successful(model, extra):
            if run.tags.get(tag_names.INPUT_DIGEST) == provenance.input_digest(_counted_from(run, parts, champion)):
                yield run


def _counted_from(run: "Ended", parts: provenance.Parts, champion: str) -> provenance.Parts:
    """The parts, with the start of that run where its own version is champion now: that makes no new inputs."""
    if provenance.START not in parts or run.tags.get(tag_names.VERSION) != champion:
        return parts
    return {**parts, provenance.START: provenance.read(run.tags).get(provenance.START)}


def _despite_few(
    held: Decision,
    run: "StepRun",
    champion: str,
    before: list[IndexRow],
    now: list[IndexRow],
    report: Progress,
) -> Decision:
    """Train in spite of few changes if the new data differ by more than the user allows."""
    if not champion:
        return replace(held, reason=f"{held.reason} --drift-trigger needs a champion.")
    from components.core.evaluation.drift_trigger import drift_of_new  # torch costs seconds

    found = drift_of_new(run.settings, champion, before, now, Callbacks(note=run.note, progress=report))
    if found is None:
        return replace(
            held, reason=f"{held.reason} They are too few for --drift-trigger, which takes 20, in five groups."
        )
    drift = {"drift": found.share, "drift_low": found.low, "drift_high": found.high}
    run.metrics(metric_groups.group(metric_groups.DATA, drift), pipeline=True)
    told = (
        f"{found.share:.0%} [{found.low:.0%}, {found.high:.0%}] of {found.new} new ones can be told apart "
        f"from the training data of the champion, version {champion}"
    )
    if found.low > (limit := run.settings.drift_trigger):
        return Decision("train", f"{held.reason} But {told}: above --drift-trigger {limit:g}.")
    return replace(held, reason=f"{held.reason} {told}: not above --drift-trigger {limit:g}.")


def _again(run: "Ended", last: "Ended", settings: Settings, parts: provenance.Parts, champion: str) -> Decision:
    """Decide what to do with the inputs of an earlier run whose version is in the registry."""
    tags = run.tags
    version, reasons = tags[tag_names.VERSION], []
    if run.id != last.id:
        reasons.append(f"{_name(last)} came in between")
    if tags.get(tag_names.GATE_DIGEST) != settings.gate_digest():
        reasons += provenance.differences(provenance.read(tags), parts, "gate") or ["gate"]
    if champion not in (version, tags.get(tag_names.COMPARED_WITH, "")) or _champion_removed(
        run, settings.model, champion
    ):
        reasons.append(f"version {champion} is champion now" if champion else "there is no champion any more")
    if not reasons:
        return Decision("skip", f"Nothing has changed since {_name(run)}.", version, run.id)
    reason = f"Version {version} of {_name(run)} has the same inputs and is judged again: {'; '.join(reasons)}."
    return Decision("judge", reason, version, run.id)


def _champion_removed(run: "Ended", model: str, champion: str) -> bool:
    """Return whether a run made a champion, at once or by approval, and somebody has removed the alias since."""
    from components.core.registry import ledger
    from components.core.registry import versions as registry

    if champion or run.tags.get(tag_names.PROMOTED) == "true":
        return not champion
    version = run.tags[tag_names.VERSION]
    approved = tag_names.PENDING in run.tags and version != registry.current(model, ledger.PENDING)
    return approved and any(row["version"] == version for row in ledger.history(model))


def _changed(
    trained: "Ended", before: list[IndexRow], now: list[IndexRow], parts: provenance.Parts, min_new: int
) -> Decision:
    """Decide what to do with new inputs; `before` is the index of the last run that trained."""
    old, changes = provenance.read(trained.tags), source_index.compare(before, now)
    others = provenance.differences(old, parts, "settings", "weights", "code", "libraries", "labels", provenance.START)
    if before and not others and sum(changes) < min_new:
        told = f": {changes}" if str(changes) else ""
        reason = f"{sum(changes)} of at least {min_new} changes since {_name(trained)}{told}."
        return Decision("skip", reason, trained.tags[tag_names.VERSION], trained.id)
    data = str(changes) if before else ""
    differing = [data or "copies or unreadable records"] if old.get("data") != parts["data"] else []
    return Decision("train", f"Changed since {_name(trained)}: {'; '.join([*differing, *others]) or 'inputs'}.")


def _keep(run: "StepRun", decision: Decision, parts: provenance.Parts, settings: Settings) -> None:
    tags = {tag_names.CHANGE: decision.change, tag_names.CHANGE_REASON: decision.reason}
    if decision.change != "train":
        tags[tag_names.SAME_AS] = decision.same_as
    if decision.change == "skip":
        tags |= {tag_names.SKIPPED: "true", tag_names.DECISION: decision.reason}
    run.tags(tags | provenance.tags(parts, settings), pipeline=True)


def _name(run: "Ended") -> str:
    return f"the run {run.name}"


class _History:
    """Earlier successful runs of a model, as far as they matter."""

    def __init__(self, model: str, folder: Path) -> None:
        from components.core.tracking import queries

        self._folder = folder
        self._indexes: dict[str, list[IndexRow]] = {}
        self.newest: Ended | None = None  # with an index; may have been skipped
        self.last: Ended | None = None  # that was not skipped
        self.trained: Ended | None = None  # the last that trained
        for run in queries.successful(model, tag_names.equals(tag_names.INDEXED, "true")):
            change = run.tags.get(tag_names.CHANGE, "")
            self.newest = self.newest or run
            if change in ("train", "judge") and tag_names.VERSION in run.tags:
                self.last = self.last or run
                self.trained = run
            if change == "train":
                break

    def lack(self, model: str) -> str:
        """Say why there is nothing to compare with: a pretraining registers no version."""
        if self.newest:
            return f"No earlier run of {model!r} registered a version."
        return f"There is no earlier successful run of {model!r}."

    def index(self, run: "Ended | None") -> list[IndexRow]:
        """The index of a run's source; empty where it is gone."""
        from components.core.tracking import queries

        if run is None:
            return []
        if run.id not in self._indexes:
            folder = self._folder / run.id
            folder.mkdir()
            path = queries.download(run.id, f"dataset/{source_index.INDEX}", folder)
            self._indexes[run.id] = source_index.read_index(path) if path else []
        return self._indexes[run.id]
