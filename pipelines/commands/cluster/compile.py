"""`thawline compile`: the DAG as YAML."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from components.core.errors import InputError
from pipelines.commands.options import (
    ConfigOption,
    merge_cluster,
    with_cluster,
)
from pipelines.kubeflow.pods import FINE_TUNING, SEARCHING_IN_PODS, compile_dag
from pipelines.terminal.config_file import read_config

app = typer.Typer()


@app.command(
    "compile", epilog="Example: thawline compile -o stamps.yaml --accelerators 1 --volume thawline-activations"
)
@with_cluster
def compile_(
    output: Annotated[Path, typer.Option("--output", "-o", help="The YAML file to write.")] = Path("fine_tuning.yaml"),
    search_workers: Annotated[
        int | None, typer.Option(min=1, help="Search pods, which share a study in a database.", show_default="1")
    ] = None,
    config: ConfigOption = None,
    **options: Any,  # noqa: ANN401 - one per option of the pods, checked by pydantic
) -> None:
    """Write the DAG as YAML for Kubeflow Pipelines; takes the pod options of `thawline submit`."""
    if output.suffix not in (".yaml", ".yml") or not output.absolute().parent.is_dir():
        raise InputError(f"The DAG can't be written to {output}.", "Use a .yaml file in an existing folder.")
    given = read_config(config) if config else {}
    dag = SEARCHING_IN_PODS if (search_workers or given.get("search_workers") or 1) > 1 else FINE_TUNING
    if given or any(options.values()) or dag != FINE_TUNING:
        output.write_text(compile_dag(merge_cluster(options, given, config), dag).yaml)
    else:
        from kfp import compiler

        from pipelines.fine_tuning import fine_tuning

        compiler.Compiler().compile(fine_tuning, str(output))
    Console(stderr=True).print(f"Wrote {output}", highlight=False)
