"""`thawline ui`: the tracking page."""

import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from components.core import home_folder
from components.core.tracking.server import is_server
from pipelines.commands.options import (
    HomeOption,
    TrackingOption,
    use_home,
)

app = typer.Typer()


@app.command(epilog="Examples: thawline ui; thawline ui --home /data/thawline --port 5001")
def ui(
    *,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open the tracking page: runs, metrics, models; for a server, print its address."""
    use_home(home, tracking_uri)
    from pipelines.local import environment

    uri = home_folder.tracking_uri()
    if is_server(uri):
        Console(stderr=True).print(f"The tracking page is at {uri}", highlight=False, soft_wrap=True)
        return
    Console(stderr=True).print(
        f"The tracking page is at http://127.0.0.1:{port} (stop it with Ctrl-C)", highlight=False
    )
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--default-artifact-root", str(home_folder.home() / "artifacts")]
    # not among the arguments: everyone on this machine may read those, and a database's address has a password
    store = {"MLFLOW_BACKEND_STORE_URI": uri}
    os.execve(sys.executable, command, environment() | store)  # noqa: S606 - becomes the server, so that Ctrl-C ends it
