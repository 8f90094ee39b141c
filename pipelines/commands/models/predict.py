"""`thawline predict`: answers of a model of the registry."""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from components.core.errors import InputError
from components.core.storage import outages
from pipelines.commands.options import (
    HomeOption,
    JsonOption,
    TrackingOption,
    VersionOption,
    check_model,
    use_home,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipelines.predictions.prediction import Record

app = typer.Typer()
SHOWN = 5  # reasons that are printed


@app.command(
    epilog="Examples: thawline predict --model stamps@champion photo.jpg; "
    "thawline predict --model mood --text 'Fine!'; thawline predict --model stamps - < files.txt; "
    "thawline predict --model stamps photos/ --out answers.parquet"
)
@outages.waited_out(partial(typer.echo, err=True))
def predict(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders or s3://… to predict for, one record per file; -: a list on standard input."
        ),
    ] = None,
    *,
    text: Annotated[list[str] | None, typer.Option(help="A record to predict, as text; repeatable.")] = None,
    model: VersionOption,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
    draw: Annotated[
        Path | None, typer.Option(help="Folder for copies of the pictures with the confident boxes drawn in.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Parquet file for the answers to any number of records; an interrupted run resumes."),
    ] = None,
) -> None:
    """Predict for files, or for text, with a registered model; exit with 1 if some records can't be predicted."""
    use_home(home, tracking_uri)
    if not files and not text:
        raise InputError("There is nothing to predict.", "Use paths of files, a folder, s3://…, - or --text.")
    from pipelines.predictions import prediction

    name, wanted = prediction.split_name(model)
    check_model(name)
    if out:
        if draw:
            raise InputError("--draw and --out don't go together.", "Leave out one of them.")
        asked = prediction.streamed(files or [], text or [], sys.stdin.buffer, tables=True)
        if not _write(name, wanted, asked, out.expanduser(), as_json=as_json):
            raise typer.Exit(1)
        return
    records = prediction.listed(files or [], text or [], sys.stdin.buffer)
    if not prediction.answer(name, wanted, records, as_json=as_json, draw=draw):
        raise typer.Exit(1)


def _write(model: str, wanted: str, records: "Iterable[Record]", target: Path, *, as_json: bool) -> bool:
    """Write the answers into a file and print what was written; return whether all records have one."""
    from pipelines.predictions.batch_prediction import write

    console = Console(stderr=True)
    done = write(model, wanted, records, target, console)
    if as_json:
        sys.stdout.write(json.dumps({"model": model, "file": str(target), **asdict(done)}) + "\n")
    kept = f", {done.kept:,} of them by an earlier run" if done.kept else ""
    answered = f"{done.records - done.unanswered:,} of {done.records:,} records are answered in {target}"
    lines = [f"{answered} by {model} version {done.version}{kept}."]
    if done.unanswered:
        most = sorted(done.reasons.items(), key=lambda one: -one[1])[:SHOWN]
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in most)
        count = f"{done.unanswered:,} {'record' if done.unanswered == 1 else 'records'}"
        lines.append(f"{count} can't be answered, see the column reason: {reasons}.")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return not done.unanswered
