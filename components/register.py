"""Register the challenger in MLflow; carry out the decision of `evaluate` by compare and swap."""

import shutil
import tempfile
from pathlib import Path

from components.core import archives, inputs, registry, revision, tracking
from components.core.checkpoints import read_facts


def register(
    settings: str,
    run_key: str,
    dataset_digest: str,
    weights_digest: str,
    served: Path,
    checkpoint: Path,
    champion: str,
    *,
    accepted: bool,
) -> str:
    """Add a version with the alias `challenger`, and `champion` if it was accepted; return the version.

    Files that are registered already, since an earlier version was judged again, keep that version.

    Args:
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.
        dataset_digest: Of the data, for the version's tags.
        weights_digest: Of the pretrained weights, for the version's tags.
        served: The served model that `evaluate` scored.
        checkpoint: The checkpoint it was made of.
        champion: The version that `evaluate` compared with; empty where there was none.
        accepted: What `evaluate` decided.

    Raises:
        StepError: The served model does not load and answer in a process without Thawline.
    """
    with tracking.step("register", run_key, settings) as run, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        shutil.copytree(served, folder)
        registry.drop_traces(folder)
        shutil.copytree(checkpoint, folder / "checkpoint")
        archives.check_folder(folder)
        answer = registry.smoke_test(folder)
        facts = read_facts(checkpoint)
        tags = {
            "thawline.dataset_digest": dataset_digest,
            "thawline.backbone": run.settings.backbone,
            "thawline.weights_digest": weights_digest,
            "thawline.code_revision": revision.code_revision(),
            "thawline.settings_digest": run.settings.digest(),
            "thawline.run_key": run_key,
            "thawline.thawed": str(facts["thawed"]),
            "thawline.accepted": str(accepted).lower(),
        }
        model = run.settings.model
        version = registry.registered(model, folder, accepted=accepted)
        version = version or registry.add_version(model, folder, run, tags)
        registry.move_alias(model, "challenger", version)
        promoted = accepted and registry.move_alias(model, "champion", version, expected=champion)
        run.text(answer, "smoke_test.json")
        run.tags({"thawline.version": version, "thawline.promoted": str(promoted).lower()}, pipeline=True)
        run.tags({inputs.COMPARED_WITH: champion} if champion else {}, pipeline=True)
        if accepted and not promoted:
            run.tags({"thawline.decision": "Accepted, but another run moved the champion meanwhile."}, pipeline=True)
        run.figure(f"version {version}, {'champion' if promoted or version == champion else 'challenger'}")
    return version
