"""`thawline serve`: a model of the registry over HTTP."""

import os
from typing import Annotated

import typer

from components.core.machine import cpus
from pipelines.commands.options import HomeOption, TrackingOption, VersionArgument, check_model, use_home
from pipelines.predictions.prediction import split_name

app = typer.Typer()


@app.command(epilog="Examples: thawline serve stamps; thawline serve stamps@challenger --host 0.0.0.0 --port 8080")
def serve(
    model: VersionArgument,
    *,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: every network of this machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port; 0: a free one.", min=0, max=65535)] = 8080,
    max_body_mb: Annotated[float, typer.Option(help="Maximum size of a request, in megabytes.", min=0.001)] = 32,
    max_records: Annotated[int, typer.Option(help="Maximum records in a request.", min=1)] = 256,
    max_requests: Annotated[
        int, typer.Option(help="Maximum requests at a time; others are told to retry.", min=1)
    ] = 128,
    max_batch: Annotated[int, typer.Option(help="Maximum records in a batch, from several requests.", min=1)] = 32,
    max_wait_ms: Annotated[float, typer.Option(help="Milliseconds that a batch waits for more records.", min=0)] = 5,
    poll_seconds: Annotated[float, typer.Option(help="Seconds between checks of where the alias points.", min=1)] = (
        10
    ),
    onnx: Annotated[
        bool, typer.Option(help="Run the model in ONNX Runtime if its outputs are equal and it is faster.")
    ] = True,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Answer requests over HTTP with a registered model, and follow its alias; Ctrl-C ends it."""
    use_home(home, tracking_uri)
    name, wanted = split_name(model)
    check_model(name)
    cpus.limit_threads(os.environ)
    from pipelines.serving.app import Limits
    from pipelines.serving.server import run

    limits = Limits(
        int(max_body_mb * 2**20), max_records, max_requests, max_batch, max_wait_ms / 1000, poll=poll_seconds
    )
    run(name, wanted, host, port, limits, exported=onnx)
