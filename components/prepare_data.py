"""Step: raw records become checked, split, content-addressed examples."""

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.core.activations import store
from components.core.contract.task import load_task
from components.core.contract.task_options import parse_options
from components.core.contract.task_sources import default_hyperparameters
from components.core.data import dataset_info
from components.core.data.dataset_info import DatasetInfo
from components.core.data.examples import START, Examples
from components.core.data.lineage import Lineage, read_lineage, refuse_other_salt
from components.core.data.preparation import prepare
from components.core.errors import InputError
from components.core.evidence import small_data
from components.core.settings import Settings
from components.core.sources import source_index
from components.core.storage import home_folder
from components.core.tracking import step_records, tag_names
from components.core.tracking.service import retries

if TYPE_CHECKING:
    from components.core.tracking import runs


def _is_current(arguments: step_records.Arguments, info: DatasetInfo) -> bool:
    """Return whether source, accepted labels and the champion of a warm start are those that the data was made of."""
    from components.core.data import lineage_store
    from components.core.registry import versions
    from components.core.tracking import provenance, queries

    settings, source = Settings.from_json(arguments["settings"]), arguments["source"]
    [run, *_] = queries.find_runs(settings.model, arguments["run_key"], "pipeline")
    parts = provenance.read(run.data.tags)
    if parts.get("labels") != lineage_store.accepted(settings.model):
        return False
    champion = versions.current(settings.model, "champion")
    if settings.warm_start and parts.get(provenance.START) != versions.mark(settings.model, champion):
        return False
    known = source_index.read_index(arguments["dataset"] / source_index.INDEX)
    records = load_task(settings.task).records(settings, source)
    rows = source_index.take(source, known, verify=settings.verify, records=records)
    return source_index.data_digest(rows) == info.data_digest


@step_records.taken_over("dataset", valid=_is_current)
@retries.patient
def prepare_data(source: str, settings: str, run_key: str, dataset: Path, input_digest: str = "") -> DatasetInfo:
    """Write the examples of `source` into the folder `dataset`; return its facts.

    Args:
        source: A folder, an S3 prefix or a manifest.
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.
        dataset: Folder to write; see `components.core.data.examples`.
        input_digest: Of what `detect_changes` saw, to tell when the source changed in between.

    Raises:
        InputError: The source, its share of bad records, its classes or the weights are at fault.
    """
    from components.core.data import lineage_store
    from components.core.fitting import training_state  # torch costs seconds
    from components.core.registry import versions
    from components.core.tracking import (
        metric_groups,
        provenance,  # mlflow costs seconds, and `prepare` needs none of it
        runs,
    )

    # two runs of one lineage that split at the same time would not know of each other's newcomers
    lock = home_folder.locked(home_folder.home() / f"{Settings.from_json(settings).model}.lineage.lock")
    with lock, runs.step("prepare_data", run_key, settings) as run:
        start = _bring_start(run, dataset)
        weights_digest = _check_network(run.settings, dataset / START)
        lineage = _with_assignments(lineage_store.previous_lineage(run.settings.model, run_key), run.settings)
        if not lineage.datasets and versions.current(run.settings.model, "champion"):
            raise InputError(
                f"{run.settings.model!r} has a champion, but the splits it was trained with are gone from MLflow.",
                "Restore the deleted runs, or use --assignments with their last assignments.parquet: new "
                "splits could test it on its training data.",
            )
        states = training_state.folder(run)
        facts = states / "facts.jsonl" if states else None
        try:
            salted = with_salt(lineage, run.settings)
            info = prepare(source, run.settings, dataset, salted, run.progress, weights_digest, facts)
        finally:
            if (dataset / "rejected.parquet").exists():
                run.artifact(dataset / "rejected.parquet", "dataset")
        run.artifact(dataset / dataset_info.FILE, "dataset")
        run.artifact(dataset / "assignments.parquet", "dataset")
        run.artifact(dataset / "label_changes.parquet", "dataset")
        run.artifact(dataset / source_index.INDEX, "dataset", pipeline=True)
        run.tags(provenance.tags_of_data(run.pipeline_tags(), info.data_digest, start), pipeline=True)
        run.tags(info.tags(), pipeline=True)
        # the next run of the lineage finds the assignments by the salt
        run.tags({tag_names.SALT: info.salt, **info.tags(), tag_names.DETECTED_INPUTS: input_digest})
        run.dataset(run.settings.model, info.digest, source)
        bad = sum(info.rejected.values())
        figures = info.model_dump(include={"duplicates", "near_duplicates", "set_aside", "label_changes"})
        run.metrics(metric_groups.group(metric_groups.DATA, info.sizes() | figures))
        _note(run, info)
        _note_few(run, dataset, info)
        sorted_by = f" in {len(info.classes)} classes" if any(info.counts["train"]) else ""
        run.figure(f"{info.examples} examples{sorted_by}, {bad} rejected")
    return info


def _bring_start(run: "runs.StepRun", dataset: Path) -> str:
    """Lay the champion's checkpoint beside the data for a warm start; return its mark, empty without a warm start."""
    from components.core.registry import versions

    model, folder = run.settings.model, dataset / START
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was cut off
    if not run.settings.warm_start or run.pipeline_tags().get(tag_names.CHANGE) == "judge":
        return ""
    version = versions.current(model, "champion")
    if version:
        with tempfile.TemporaryDirectory() as temporary:
            path, _ = versions.fetch(model, version, Path(temporary))
            shutil.copytree(path / "checkpoint", folder)
        run.note(f"Training starts from the weights of the champion, version {version}")
        run.tags({tag_names.WARM_START: version}, pipeline=True)
    else:
        run.note("There is no champion to start from: training starts from the pretrained weights")
    return versions.mark(model, version)


def _check_network(settings: Settings, start: Path) -> str:
    """Build the network once: what does not fit shall stop the run before an hour of downloads."""
    from components.core.compute.determinism import seed_everything
    from components.core.compute.device import pick_device
    from components.core.fitting import shared_states
    from components.core.training.warm_start import start_from

    pick_device(settings.device)
    store.shared_prefix()  # a wrong address is found here too
    shared_states.prefix()  # as above
    seed_everything(settings)  # with --weights none the random weights are the seed's, and so is their digest
    task = load_task(settings.task)
    parse_options(settings, task.Options)
    target = task.target(settings)
    if settings.max_calibration_error and not target.metrics[0].right_or_wrong:  # no challenger would ever pass
        raise InputError(
            f"--max-calibration-error is for answers that are right or wrong, and those of {settings.task} are not.",
            "Leave it out.",
        )
    if settings.head_solver == "lbfgs" and not target.convex:
        raise InputError(
            f"--head-solver lbfgs can't solve for the head: the loss of {settings.task} is not convex.",
            "Use --head-solver sgd.",
        )
    gate_metrics = [metric.name for metric in target.metrics if metric.may_decide]
    if settings.gate_metric and settings.gate_metric not in gate_metrics:
        raise InputError(
            f"{settings.task} can't be judged by --gate-metric {settings.gate_metric!r}.",
            f"Use one of: {', '.join(gate_metrics)}.",
        )
    task.augments(settings)  # refuses augmentation that the task can't do
    nameless = ["", ""]  # the classes don't matter to the weights
    network = task.build(settings, nameless, 0.0)
    if (thaw := default_hyperparameters(settings, sys.maxsize).thaw) > len(network.stages):  # rows are not counted yet
        raise InputError(
            f"--thaw {thaw} is more than the {len(network.stages)} stages of {settings.backbone or task.backbone}.",
            f"Thaw at most {len(network.stages)}.",
        )
    if start.exists():
        start_from(network, start, nameless, adapt=task.adapt)
    return network.weights_digest


def _note(run: "runs.StepRun", info: DatasetInfo) -> None:
    """Say what a reader should not miss."""
    if info.number and info.changes.get("new") == info.examples and (gone := info.changes.get("gone", 0)):
        run.note(
            f"None of these {info.examples} examples was in the last dataset of {run.settings.model}, and all {gone} "
            "examples of that one are gone: if this is another problem, stop the run and use another --model"
        )
    if info.note:
        run.note(info.note)
    if info.chained:
        run.note(
            f"{info.chained} examples form chains of near-duplicates, like pictures of a fixed camera, and were "
            "divided into groups; use the column group to say what belongs together"
        )
    if info.set_aside:
        run.note(f"{info.set_aside} examples set aside: they belong with examples in two splits")
    if info.label_changes:
        run.note(
            f"{info.label_changes} test rows have a changed label; the locked one counts until `thawline "
            f"labels accept --model {run.settings.model}`"
        )


def _note_few(run: "runs.StepRun", dataset: Path, info: DatasetInfo) -> None:
    """Say what so few test rows can show, before an hour of training."""
    from components.core.registry import versions

    settings, examples = run.settings, Examples(dataset, info)
    rows = examples.rows("test")
    headline = load_task(settings.task).target(settings).metrics[0]
    trivial = None
    if rows and not versions.current(settings.model, "champion"):
        train, test = info.counts.get("train", {}), info.counts.get("test", {})
        trivial = test.get(max(train, key=train.__getitem__, default=""), 0) / len(rows)
    judged = small_data.Rows(
        validation=len(examples.rows("validation")),
        test=len(rows),
        units=len({group or row for row, group in zip(rows, examples.column("group", rows), strict=True)}),
        trivial=trivial,
        exact=headline.right_or_wrong and settings.gate_metric in ("", headline.name),
    )
    if text := small_data.sentence(judged, settings):
        run.note(text)


def _with_assignments(lineage: Lineage, settings: Settings) -> Lineage:
    """The lineage that MLflow has; where it has none, that of `--assignments`.

    Raises:
        InputError: The file can't be read, or says otherwise than MLflow.
    """
    if not settings.assignments:
        return lineage
    given = _read_assignments(settings.assignments)
    if not lineage.datasets:
        return given
    known = lineage.members
    moved = sum(id_ in known and known[id_].split != member.split for id_, member in given.members.items())
    if moved:
        raise InputError(
            f"{settings.assignments} assigns {moved} of its examples to other splits than "
            f"{settings.model!r} already has.",
            "Leave out --assignments, or start a new lineage with another --model.",
        )
    return lineage


def _read_assignments(place: str) -> Lineage:
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(place)
            if place.startswith("s3://"):
                from components.core.storage.s3 import download

                path = Path(folder) / "assignments.parquet"
                download(place, path)
            return read_lineage(path, name=place)
    except FileNotFoundError as error:
        raise InputError(
            f"The assignments {place} can't be read: there is no such file.",
            "Use the assignments.parquet that prepare_data of an earlier run stored in MLflow.",
        ) from error


def with_salt(lineage: Lineage, settings: Settings) -> Lineage:
    """The lineage with its salt; with that of the settings if it is new.

    Raises:
        InputError: Both are given and differ.
    """
    asked = settings.split_salt
    if not lineage.datasets:
        return replace(lineage, salt=asked)
    refuse_other_salt(settings.model, lineage.salt, asked)
    return lineage
