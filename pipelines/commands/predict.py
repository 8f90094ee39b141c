"""`thawline predict`: answers of a model of the registry."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from components.core import outages
from components.core.errors import InputError
from pipelines.commands.options import (
    HomeOption,
    JsonOption,
    TrackingOption,
    check_model,
    use_home,
)

app = typer.Typer()


@app.command(
    epilog="Examples: thawline predict --model stamps@champion photo.jpg; "
    "thawline predict --model mood --text 'Fine!'; thawline predict --model stamps - < files.txt"
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
    model: Annotated[str, typer.Option(help="NAME, NAME@alias or NAME/version; the default alias is champion.")],
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
    draw: Annotated[
        Path | None, typer.Option(help="Folder for copies of the pictures with the boxes that are sure.")
    ] = None,
) -> None:
    """Predict for files, or for text, with a registered model; exit with 1 if some records can't be predicted."""
    use_home(home, tracking_uri)
    if not files and not text:
        raise InputError("There is nothing to predict.", "Use paths of files, a folder, s3://…, - or --text.")
    name, _, wanted = model.replace("/", "@").partition("@")
    check_model(name)
    from pipelines import prediction

    records = prediction.listed(files or [], text or [], sys.stdin.buffer)
    if not prediction.answer(name, wanted or "champion", records, as_json=as_json, draw=draw):
        raise typer.Exit(1)
