"""Step: is there anything to do? Compare the inputs with those of earlier runs; train, judge again, or skip.

It imports neither torch nor kfp, and reads only what it does not know by size and time. The rule:

- `skip`: the inputs are those of the last successful run, and so is the gate; the champion is the version that this run
  compared with, or its own.
- `judge`: the inputs are those of an earlier successful run, whose version is in the registry, but the gate or the
  champion is another one, or other inputs came between. Its version is evaluated and registered anew, not trained.
- `train`: everything else, and `--force`. A run that a deadline cut short is none to stand for another.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from components.core import deadlines, fingerprints, inputs, runs
from components.core.fingerprints import Fingerprint
from components.core.settings import Settings

if TYPE_CHECKING:
    from components.core.tracking import Ended, StepRun

DECISION = "decision.json"  # in the run's folder: what the command line decided before it started the DAG
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Decision:
    """What is to be done, and why."""

    change: Literal["train", "judge", "skip"]
    reason: str
    version: str = ""  # of an earlier run: to be judged again, or what a skipped run stands for
    same_as: str = ""  # that run's id in MLflow
    input_digest: str = ""  # empty where the data was not looked at


def detect_changes(source: str, settings: str, run_key: str) -> tuple[bool, bool, str, str]:
    """Decide once for each run, tag the pipeline's run with it, and tell what the DAG has to do.

    Args:
        source: A folder, an S3 prefix or a manifest.
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.

    Returns:
        Whether to train, whether to judge, the version to judge, and the digest of the inputs.

    Raises:
        InputError: The source can't be listed.
    """
    kept = runs.run_folder(run_key) / DECISION
    if kept.exists():
        decision = Decision(**json.loads(kept.read_text()))
    else:
        decision = look(source, Settings.from_json(settings), run_key)
    # what was not looked at must not be served from a cache either
    return decision.change == "train", decision.change == "judge", decision.version, decision.input_digest or run_key


def look(source: str, settings: Settings, run_key: str, progress: Progress = lambda *_: None) -> Decision:
    """Decide and tag the pipeline's run, without asking whether that was done before; see `detect_changes`."""
    runs.start("detect_changes", run_key)
    from components.core import tracking  # mlflow costs seconds

    with tracking.step("detect_changes", run_key, settings.to_json()) as run, tempfile.TemporaryDirectory() as folder:

        def report(done: int, total: int, text: str) -> None:
            run.progress(done, total, text)
            progress(done, total, text)

        history = _History(settings.model, Path(folder))
        # accepted labels of test rows change the dataset, not the source
        accepted = tracking.recorded(settings.model, "thawline.accepted_labels")
        found = {**inputs.parts(settings), "labels": f"{len(accepted)} times accepted"}
        decision, rows = _decide(source, settings, found, history, report)
        _keep(run, decision, found, settings)
        if decision.change == "skip" and fingerprints.knows_more(rows, history.index(history.newest)):
            fingerprints.write_index(Path(folder) / fingerprints.INDEX, rows)
            run.artifact(Path(folder) / fingerprints.INDEX, "dataset", pipeline=True)
            run.tags({inputs.INDEXED: "true"}, pipeline=True)
        run.figure(f"{decision.change}: {decision.reason}")
    runs.write_text(runs.run_folder(run_key) / DECISION, json.dumps(asdict(decision)))
    return decision


def _decide(
    source: str, settings: Settings, parts: inputs.Parts, history: "_History", report: Progress
) -> tuple[Decision, list[Fingerprint]]:
    """The decision, and the index of the source as it is now; `parts` get the data's digest if it is looked at."""
    from components.core import registry, tracking

    if settings.force:
        return Decision("train", "Training was forced."), []
    last, trained = history.last, history.trained
    if last is None or trained is None:
        return Decision("train", f"There is no earlier successful run of {settings.model!r}."), []
    rows = fingerprints.take(source, history.index(history.newest), report, verify=settings.verify)
    parts["data"] = fingerprints.data_digest(rows)
    digest = inputs.input_digest(parts)
    versions = {facts["version"] for facts in registry.versions(settings.model)}
    extra = f"tags.`{inputs.INPUT_DIGEST}` = '{digest}' and tags.`{inputs.CHANGE}` != 'skip'"
    gone = cut = None
    for run in tracking.successful(settings.model, extra):
        if deadlines.cuts(run.tags):  # its version is not the one that these inputs would have given
            cut = cut or run
            continue
        if run.tags.get(inputs.VERSION) in versions:
            champion = registry.current(settings.model, "champion")
            return replace(_again(run, last, settings, parts, champion), input_digest=digest), rows
        gone = gone or run
    if gone:
        reason = f"Version {gone.tags.get(inputs.VERSION)} of {_name(gone)} is gone from the registry."
        return Decision("train", reason, input_digest=digest), rows
    if cut:
        return Decision("train", f"A deadline cut {_name(cut)} short.", input_digest=digest), rows
    small = trained.tags[inputs.VERSION] in versions and not deadlines.cuts(trained.tags)
    decision = _changed(trained, history.index(trained), rows, parts, settings.min_new if small else 0)
    return replace(decision, input_digest=digest), rows


def _again(run: "Ended", last: "Ended", settings: Settings, parts: inputs.Parts, champion: str) -> Decision:
    """What to do with the inputs of an earlier run, whose version is in the registry."""
    tags = run.tags
    version, reasons = tags[inputs.VERSION], []
    if run.id != last.id:
        reasons.append(f"{_name(last)} came in between")
    if tags.get(inputs.GATE_DIGEST) != settings.gate_digest():
        reasons += inputs.differences(inputs.read(tags), parts, "gate") or ["gate"]
    if champion not in (version, tags.get(inputs.COMPARED_WITH, "")):
        reasons.append(f"version {champion} is champion now" if champion else "there is no champion any more")
    if not reasons:
        return Decision("skip", f"Nothing has changed since {_name(run)}.", version, run.id)
    reason = f"Version {version} of {_name(run)} has the same inputs and is judged again: {'; '.join(reasons)}."
    return Decision("judge", reason, version, run.id)


def _changed(
    trained: "Ended", before: list[Fingerprint], now: list[Fingerprint], parts: inputs.Parts, min_new: int
) -> Decision:
    """What to do with inputs that no earlier run had; `before` is the index of the last one that trained."""
    old, changes = inputs.read(trained.tags), fingerprints.compare(before, now)
    others = inputs.differences(old, parts, "settings", "weights", "code", "libraries", "labels")
    if before and not others and sum(changes) < min_new:
        told = f": {changes}" if str(changes) else ""
        reason = f"{sum(changes)} of at least {min_new} changes since {_name(trained)}{told}."
        return Decision("skip", reason, trained.tags[inputs.VERSION], trained.id)
    data = str(changes) if before else ""
    differing = [data or "copies or unreadable records"] if old.get("data") != parts["data"] else []
    return Decision("train", f"Changed since {_name(trained)}: {'; '.join([*differing, *others]) or 'inputs'}.")


def _keep(run: "StepRun", decision: Decision, parts: inputs.Parts, settings: Settings) -> None:
    tags = {inputs.CHANGE: decision.change, "thawline.change_reason": decision.reason}
    if decision.change != "train":
        tags[inputs.SAME_AS] = decision.same_as
    if decision.change == "skip":
        tags |= {inputs.SKIPPED: "true", "thawline.decision": decision.reason}
    run.tags(tags | inputs.tags(parts, settings), pipeline=True)


def _name(run: "Ended") -> str:
    return f"the run {run.name}"


class _History:
    """Earlier successful runs of a model, as far as they matter."""

    def __init__(self, model: str, folder: Path) -> None:
        from components.core import tracking

        self._folder = folder
        self._indexes: dict[str, list[Fingerprint]] = {}
        self.newest: Ended | None = None  # with an index; may have been skipped
        self.last: Ended | None = None  # that was not skipped
        self.trained: Ended | None = None  # the last that trained
        for run in tracking.successful(model, f"tags.`{inputs.INDEXED}` = 'true'"):
            change = run.tags.get(inputs.CHANGE, "")
            self.newest = self.newest or run
            if change in ("train", "judge") and inputs.VERSION in run.tags:
                self.last = self.last or run
                self.trained = run
            if change == "train":
                break

    def index(self, run: "Ended | None") -> list[Fingerprint]:
        """The index of a run's source; empty where it is gone."""
        from components.core import tracking

        if run is None:
            return []
        if run.id not in self._indexes:
            folder = self._folder / run.id
            folder.mkdir()
            path = tracking.download(run.id, f"dataset/{fingerprints.INDEX}", folder)
            self._indexes[run.id] = fingerprints.read_index(path) if path else []
        return self._indexes[run.id]
