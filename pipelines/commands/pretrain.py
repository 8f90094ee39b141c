"""`thawline pretrain`: train on the past, and write a folder that `--weights` takes."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from components.core.errors import InputError, StepError
from components.core.run_result import RunResult
from components.core.settings import Settings
from components.core.sources.record_kinds import KIND_OF_TASK
from components.core.storage.output_folder import check_output
from components.core.tracking import step_records
from pipelines.commands.options import ConfigOption, HomeOption, TrackingOption, merge, use_home, with_settings
from pipelines.commands.run import announced, check_succeeded, checked, command_here, execute
from pipelines.terminal.surroundings import near

app = typer.Typer()
NAME = "{}-pretraining"  # of the model whose runs and splits are those of the pretraining
CUT = "before"  # the option of tasks that cuts off what is recent: the fine-tuning sees all


@app.command(
    epilog="Example: thawline pretrain interactions.csv --task recommendation --model shop "
    "--option before=2026-06-01 --output shop-weights"
)
@with_settings
def pretrain(
    source: Annotated[str, typer.Argument(help="Table of interactions, or what the task takes.")],
    *,
    output: Annotated[str, typer.Option(help="New or empty folder for the weights.", show_default=False)],
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    config: ConfigOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over instead of resuming a run of this command that was cut short.")
    ] = False,
    **options: Any,  # noqa: ANN401 - one per setting, checked by pydantic
) -> None:
    """Train on the past without registering a version, and write weights for `thawline run --weights`."""
    use_home(home, tracking_uri)
    from pipelines.local.resume import foresee
    from pipelines.local.task_choice import with_task_of_data
    from pipelines.terminal.option_checks import check_names

    console = Console(quiet=quiet)
    model = merge(options, config, source).model
    settings, task = with_task_of_data(checked({**options, "model": NAME.format(model)}, config, source), source)
    check_names(settings)
    if settings.task in KIND_OF_TASK:
        raise InputError(
            f"The task {settings.task} starts from pretrained weights already.",
            "Use `thawline run`: --weights chooses them, and --warm-start takes those of the champion.",
        )
    if "://" in output:
        raise InputError(f"{output} is no folder of this machine.", "Give a path with --output.")
    folder = Path(output).expanduser().resolve()
    source = source if "://" in source else str(Path(source).expanduser().resolve())
    before = None if fresh else foresee(source, settings)
    trained = step_records.output(before.run_key, "fine_tune", "checkpoint") if before else None
    check_output(folder, trained[0] if trained else None)
    begun = announced(source, settings, task, console, fresh=fresh, doing="Pretraining")
    result = execute(source, settings, begun, console, str(folder))
    check_succeeded(result, begun.run_key)
    if result.status == "skipped":
        raise StepError(result.reason, "Pretrain again when that run has ended.")
    _print_summary(console, result, settings.model_copy(update={"model": model}), source, near(str(folder)))


def _print_summary(console: Console, result: RunResult, settings: Settings, source: str, weights: str) -> None:
    console.print()
    lines = {
        "Pretrained": result.reason,
        "Weights": weights,
        "Tracking": command_here("ui"),
        "Next": f"{_next(settings, source, weights)}  fine-tune them on what is recent too",
    }
    for name, text in lines.items():
        console.print(f"{name:<11} {text}", highlight=False, markup=False, soft_wrap=True)


def _next(settings: Settings, source: str, weights: str) -> str:
    """Return the run that starts from the weights: with the network that they are of, and all data."""
    network = ["--backbone", settings.backbone] if settings.backbone else []
    kept = [word for name, value in settings.option.items() if name != CUT for word in ("--option", f"{name}={value}")]
    words = ["--task", settings.task, "--model", settings.model, *network, *kept, "--weights", weights]
    return command_here("run", near(source), *words)
