"""`thawline explain`: which parts of a record an answer rests on."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from components.core.errors import InputError, RejectedRecord
from pipelines.commands.options import HomeOption, JsonOption, TrackingOption, VersionOption, check_model, use_home
from pipelines.predictions.prediction import listed, opened, split_name

app = typer.Typer()


@app.command(
    epilog="Examples: thawline explain photo.jpg --model stamps; "
    "thawline explain --text 'Never trust a computer' --model mood --label good"
)
def explain(
    file: Annotated[str | None, typer.Argument(help="A picture: a file or s3://…")] = None,
    *,
    text: Annotated[str | None, typer.Option(help="A text to explain instead of a picture.")] = None,
    model: VersionOption,
    label: Annotated[str, typer.Option(help="Label to explain.", show_default="the most probable one")] = "",
    out: Annotated[Path, typer.Option(help="PNG file for the picture and its heat map.")] = Path("explained.png"),
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which parts of a picture, or words of a text, an answer is based on, by covering each in turn."""
    use_home(home, tracking_uri)
    name, wanted = split_name(model)
    check_model(name)
    records = listed([file] if file else [], [text] if text else [], [])
    if len(records) > 1:
        raise InputError("One picture or one text is explained at a time.", "Use the path of one file, or --text.")
    record = records[0]
    try:
        content = record.read()
    except RejectedRecord as error:
        raise InputError(f"{record.printable()} can't be read: {error}.", "Use another file.") from error
    from pipelines.predictions import explanation

    served, version = opened(name, wanted)
    parts: list[Any]
    if text:
        figure, parts = explanation.words(served, text, label)
        lines = [f"{change:+.3f}\t{word}" for word, change in parts]
    else:
        figure, heat = explanation.picture(served, content, label)
        _write(out, explanation.drawn(content, heat))
        parts, lines = heat.tolist(), [str(out)]
    if as_json:
        found = {"model": name, "version": version, "label": figure.label, "value": figure.value, "parts": parts}
        sys.stdout.write(json.dumps(found) + "\n")
        return
    what = f"{figure.label}, with probability {figure.value:.3f}" if figure.label else f"{figure.value:.4g}"
    sentence = f"{name} version {version} says {what}."
    Console(stderr=True).print(sentence, highlight=False, markup=False, soft_wrap=True)
    sys.stdout.write("\n".join(lines) + "\n")


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}.", "Choose another file with --out.") from error
