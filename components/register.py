"""Register the challenger in MLflow; carry out the decision of `evaluate` by compare and swap."""

import shutil
import tempfile
from pathlib import Path

from components.core.contract.task import load_task
from components.core.inference import archives
from components.core.machine import revision
from components.core.registry import promotion, versions
from components.core.settings import Settings
from components.core.storage import disk_space, home_folder
from components.core.tracking import runs, step_records, tag_names
from components.core.tracking.metric_groups import plain
from components.core.tracking.service import connection, retries
from components.core.tracking.service.server import is_server
from components.core.training import deadlines
from components.core.training.checkpoints import read_facts


def _is_registered(arguments: step_records.Arguments, version: str) -> bool:
    """Return whether the registry has the version."""
    known = versions.versions(Settings.from_json(arguments["settings"]).model)
    return version in {one.version for one in known}


@step_records.taken_over(valid=_is_registered)
@retries.patient
def register(
    settings: str,
    run_key: str,
    served: Path,
    checkpoint: Path,
    champion: str,
    *,
    accepted: bool,
) -> str:
    """Add a version with the alias `challenger`; promote it if it was accepted, or let it wait; return the version.

    Files that are registered already, since an earlier version was judged again, keep that version.

    Args:
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.
        served: The served model that `evaluate` scored.
        checkpoint: The checkpoint it was made of.
        champion: The version that `evaluate` compared with; empty where there was none.
        accepted: What `evaluate` decided.

    Raises:
        StepError: The served files are not those that `evaluate` tried out, and do not load and answer in a process
            without Thawline.
    """
    with runs.step("register", run_key, settings) as run, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        _check_room(served, checkpoint)
        shutil.copytree(served, folder)
        versions.drop_traces(folder)
        if archives.folder_digest(folder) != run.pipeline_tags().get(tag_names.SMOKE_TESTED):
            run.text(versions.smoke_test(folder), "smoke_test.json")
        shutil.copytree(checkpoint, folder / "checkpoint")
        archives.check_folder(folder)
        tags = {
            tag_names.THAWED: str(read_facts(checkpoint)["thawed"]),
            tag_names.ACCEPTED: str(accepted).lower(),
            tag_names.COMPARED_WITH: champion,
            tag_names.EVIDENCE_RUN: run.pipeline_id,
            **_origin(run),
        }
        model = run.settings.model
        version = versions.registered(model, folder, tags)
        version = version or versions.add_version(model, folder, run, tags)
        versions.move_alias(model, "challenger", version)
        became, obstacle = "challenger", ""
        if accepted:
            digest, why = archives.folder_digest(folder), tags[tag_names.DECISION] or "Accepted"
            became, obstacle = _carry_out(run, version, champion, why, digest)
        outcome = {tag_names.VERSION: version, tag_names.PROMOTED: str(became == "champion").lower()}
        if champion:
            outcome[tag_names.COMPARED_WITH] = champion
        if became == "pending":
            outcome[tag_names.PENDING] = promotion.approval(model, version)
        elif obstacle:
            outcome[tag_names.DECISION] = f"Accepted, but {obstacle}"
        run.tags(outcome, pipeline=True)
        run.figure(f"version {version}, {'champion' if version == champion else became}")
    return version


def _check_room(served: Path, checkpoint: Path) -> None:
    """Check that a copy of the version fits among the temporary files and, without a server, in the home."""
    needed = sum(path.stat().st_size for folder in (served, checkpoint) for path in folder.rglob("*"))
    folders = [Path(tempfile.gettempdir())]
    folders += [] if is_server(home_folder.tracking_uri()) else [home_folder.home()]
    disk_space.check(home_folder.home(), dict.fromkeys(folders, needed), "Registering the version")


def _origin(run: runs.StepRun) -> dict[str, str]:
    """Return a version's tags that describe the run it comes from."""
    evaluated = connection.client().get_run(run.pipeline_id).data
    metric = evaluated.tags.get(tag_names.METRIC, "")
    return {
        tag_names.BACKBONE: run.settings.backbone or load_task(run.settings.task).backbone,
        tag_names.CODE_REVISION: revision.code_revision(),
        tag_names.SETTINGS_DIGEST: run.settings.digest(),
        tag_names.RUN_KEY: run.run_key,
        **{
            name: evaluated.tags.get(name, "")
            for name in (
                tag_names.DATASET_DIGEST,
                tag_names.WEIGHTS_DIGEST,
                tag_names.DECISION,
            )
        },
        **{name: value for name, value in evaluated.tags.items() if name == tag_names.WARM_START},
        tag_names.METRIC: metric,
        **{tag_names.figure(metric): str(value) for name, value in evaluated.metrics.items() if plain(name) == metric},
    }


def _carry_out(run: runs.StepRun, version: str, champion: str, why: str, answered: str) -> tuple[str, str]:
    """Promote an accepted version, or let it wait for approval.

    Returns:
        What it became, and what prevented more, as the end of a sentence; empty if nothing did.
    """
    model = run.settings.model
    if promotion.was_rolled_back(model, version):  # a schedule must not undo what somebody decided
        command = promotion.approval(model, version)
        return "challenger", f"version {version} was rolled back: it becomes champion again only with `{command}`."
    if run.settings.promote == "manual" or deadlines.cuts(run.pipeline_tags()):  # cut short: a person decides
        if promotion.propose(model, version, champion):
            return "pending", ""
        return "challenger", "another run moved the champion in the meantime."
    entry = promotion.promote(
        model, version, why=why, who=run.run_key, evidence=run.pipeline_id, expected=champion, answered=answered
    )
    return ("champion", "") if entry.done else ("challenger", f"the champion did not move. {entry.reason}")
