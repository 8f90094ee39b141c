"""`thawline ui`: the tracking page."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from threading import Thread
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console

from components.core.errors import InputError, StepError
from components.core.storage import home_folder
from components.core.tracking import tag_names
from components.core.tracking.service.server import is_server
from pipelines.commands.options import (
    HomeOption,
    TrackingOption,
    use_home,
)
from pipelines.terminal.browser import open_page
from pipelines.terminal.completion import model_names

app = typer.Typer()
EVERY = 0.25  # seconds between two looks
RUNS = "runs?workflowType=machine_learning"  # else the page opens for language models, without metrics and models
NOTICE = b"[MLflow] Security middleware enabled"  # MLflow prints it at every start, and has no option against it


@app.command(epilog="Examples: thawline ui; thawline ui stamps --port 5001; thawline ui --home /data/thawline")
def ui(
    name: Annotated[
        str,
        typer.Argument(
            help="A model, to open on its runs (default: that of the last run).", autocompletion=model_names
        ),
    ] = "",
    *,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5000,
) -> None:
    """Open the tracking page: runs, metrics, models; for a server, print its address."""
    use_home(home, tracking_uri)
    uri = home_folder.tracking_uri()
    if is_server(uri):
        _say(f"The tracking page is at {uri}")
        return
    _check_port(port)
    from pipelines.local.runner import environment

    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--default-artifact-root", str(home_folder.home() / "artifacts")]
    command += ["--uvicorn-opts", "--log-level warning"]  # a line for each request would bury the address
    _say("Starting the tracking page ...")
    # not among the arguments: everyone on this machine may read those, and a database's address has a password
    env = {**environment(), "MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_REGISTRY_STORE_URI": uri}
    env.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # six processes for judging language models
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE) as server:
        passing = Thread(target=_pass_on, args=[server.stderr], daemon=True)
        passing.start()

        def end(_signal: int, _frame: FrameType | None) -> None:
            server.terminate()

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)  # the terminal sends Ctrl-C to the server too
        base = f"http://127.0.0.1:{port}"
        if _is_ready(server, base):
            page = f"{base}/#/{_place(base, name)}"
            _say(f"The tracking page is ready: {page} (stop it with Ctrl-C)")
            open_page(page)
        status = server.wait()
        passing.join(timeout=5)  # a process that the server left behind may keep the pipe open
    if status > 0:
        raise StepError(f"The tracking page ended with status {status}.", "Its own lines above say why.")


def _check_port(port: int) -> None:
    """Refuse a port that another program uses.

    Raises:
        InputError: The port is taken, or not allowed.
    """
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise InputError(
            f"The tracking page can't use port {port}: {os.strerror(error.errno or 0).lower()}.",
            "Choose another one with --port.",
        ) from error


def _pass_on(lines: Iterable[bytes]) -> None:
    """Print what the server says, except for the notice that says nothing about this start."""
    for line in lines:
        if not line.startswith(NOTICE):
            sys.stderr.write(line.decode(errors="replace"))
            sys.stderr.flush()


def _is_ready(server: "subprocess.Popen[bytes]", base: str) -> bool:
    """Wait until the server answers; whether it does, or ended before."""
    import requests

    while server.poll() is None:  # a busy machine may take minutes
        try:
            if requests.get(f"{base}/health", timeout=5).ok:
                return server.poll() is None  # else another program has the port
        except requests.RequestException:
            pass
        time.sleep(EVERY)
    return False


def _place(base: str, name: str) -> str:
    """Return where the page opens: on a model's runs, or the last run's; on all experiments if there are none."""
    experiments = {one["name"]: one["experiment_id"] for one in _asked(base, "experiments").get("experiments", [])}
    if name in experiments:
        return f"experiments/{experiments[name]}/{RUNS}"
    if name:
        _say(f"There is no run of a model {name!r} here; the page opens on the last run.")
    pipelines = {"filter": tag_names.equals(tag_names.KIND, "pipeline"), "order_by": ["attributes.start_time DESC"]}
    found = _asked(base, "runs", experiment_ids=list(experiments.values()), **pipelines).get("runs", [])
    return f"experiments/{found[0]['info']['experiment_id']}/{RUNS}" if found else "experiments"


def _asked(base: str, what: str, **conditions: Any) -> dict[str, Any]:  # noqa: ANN401 - of the interface
    """Search the server; nothing if it refuses."""
    import requests

    try:
        answer = requests.post(
            f"{base}/api/2.0/mlflow/{what}/search", json={"max_results": 1000, **conditions}, timeout=30
        )
    except requests.RequestException:
        return {}
    return dict(answer.json()) if answer.ok else {}


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)
