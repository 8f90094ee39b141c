"""The last step of a pretraining: its checkpoint as a folder that `--weights` takes."""

from pathlib import Path

from components.core.contract.task import load_task
from components.core.storage import output_folder
from components.core.tracking import metric_groups, runs, tag_names
from components.core.tracking.service import retries
from components.core.training.checkpoints import kept_epoch, read_facts


@retries.patient
def save_weights(settings: str, run_key: str, checkpoint: Path, output: str) -> None:
    """Copy a checkpoint into a folder of the user's.

    A run that goes on does this step again: `output` lies outside the home, so anyone may have changed it.

    Args:
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.
        checkpoint: What `fine_tune` wrote.
        output: The folder, empty or with a part of this copy.

    Raises:
        InputError: The folder can't be written to, or something else was written there meanwhile.
    """
    with runs.step("save_weights", run_key, settings) as run:
        output_folder.check_output(Path(output), checkpoint)
        output_folder.copy_files(checkpoint, Path(output))
        kept = kept_epoch(read_facts(checkpoint))
        found = runs.describe(load_task(run.settings.task).target(run.settings).metrics[0].name, kept)
        run.metrics(metric_groups.of_kept(kept), pipeline=True)
        run.tags({tag_names.DECISION: f"{found[0].upper()}{found[1:]}.", tag_names.PRETRAINED: output}, pipeline=True)
        run.figure(output)
