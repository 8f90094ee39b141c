"""`thawline export`: a registered model in another format."""

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from components.core.errors import InputError, RejectedRecord
from pipelines.commands.options import HomeOption, JsonOption, TrackingOption, VersionArgument, check_model, use_home
from pipelines.predictions.prediction import listed, split_name

app = typer.Typer()
COMPARED = 256  # records of --check


class Format(StrEnum):
    """Formats that can be written."""

    ONNX = "onnx"


@app.command(
    epilog="Examples: thawline export stamps --out stamps.onnx; "
    "thawline export stamps/2 --format onnx --check photos/ --out stamps.onnx"
)
def export(
    model: VersionArgument,
    *,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    format_: Annotated[Format, typer.Option("--format", help="Its format.")] = Format.ONNX,
    check: Annotated[
        list[str] | None,
        typer.Option(help=f"Files, a folder or s3://… to compare on; the first {COMPARED} records. Repeatable."),
    ] = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export the network of a registered model to ONNX, if its outputs match PyTorch's."""
    del format_  # there is one
    use_home(home, tracking_uri)
    name, wanted = split_name(model)
    check_model(name)
    try:
        contents = [record.read() for record in (listed(check, [], []) if check else [])[:COMPARED]]
    except RejectedRecord as error:
        raise InputError(f"A record can't be compared: {error}.", "Leave it out.") from None
    from pipelines.predictions import onnx_export

    done = onnx_export.export(name, wanted, out.expanduser(), contents)
    if as_json:
        sys.stdout.write(json.dumps(asdict(done)) + "\n")
        return
    for put, shapes in (("input", done.inputs), ("output", done.outputs)):
        for one, shape in shapes.items():
            sys.stdout.write(f"{put}\t{one}\t{' x '.join(map(str, shape))}\n")
    Console(stderr=True).print(
        f"{done.file} is {name} version {done.version}: ONNX, opset {done.opset}, {done.bytes / 1e6:.1f} MB. "
        f"Its outputs differ from PyTorch's by at most {done.difference:.0e} on {done.compared} "
        f"{'record' if done.compared == 1 else 'records'}.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
