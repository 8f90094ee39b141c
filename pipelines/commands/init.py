"""`thawline init`: a config file with a comment on every setting."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from components.core.errors import InputError
from pipelines.terminal.config_file import text_of

app = typer.Typer()


@app.command(epilog="Examples: thawline init; thawline init weekly.yaml")
def init(
    file: Annotated[Path, typer.Argument(help="The file to write; -: print it.")] = Path("thawline.yaml"),
) -> None:
    """Write a config file with all settings, each with a comment and its default."""
    if str(file) == "-":
        sys.stdout.write(text_of({}, "thawline.yaml"))
        return
    try:
        with file.open("x") as opened:  # never over what somebody wrote
            opened.write(text_of({}, str(file)))
    except FileExistsError:
        raise InputError(f"{file} already exists.", "Give another name.") from None
    except OSError as error:
        raise InputError(f"{file} can't be written: {error.strerror}.", "Give another name.") from None
    text = f"Wrote {file}: edit it, then run `thawline run SOURCE --config {file}`"
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)
