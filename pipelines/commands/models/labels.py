"""`thawline labels`: see and accept changed labels of test rows."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from components.core.errors import InputError
from pipelines.commands.options import HomeOption, JsonOption, TrackingOption, check_model, use_home
from pipelines.terminal.completion import model_names

app = typer.Typer(help="See and accept changed labels of test rows.", no_args_is_help=True)
ModelOption = Annotated[str, typer.Option(help="Name of the model.", autocompletion=model_names)]


@app.command("list", epilog="Example: thawline labels list --model stamps")
def list_(
    *,
    model: ModelOption,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """List changed labels of test rows that are waiting to be accepted; until then the locked ones count."""
    from components.core.data import lineage_store

    _open(home, tracking_uri, model)
    _print("waiting", [asdict(change) for change in lineage_store.waiting(model)], as_json=as_json)


@app.command(
    epilog="Examples: thawline labels accept --model stamps --all; thawline labels accept --model stamps 3f9a 77b0"
)
def accept(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of examples, or prefixes of ids.")] = None,
    *,
    model: ModelOption,
    everything: Annotated[bool, typer.Option("--all", help="Accept all waiting changes.")] = False,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Accept changed labels of test rows, starting with the next run."""
    from components.core.data import lineage_store

    if bool(ids) == everything:
        raise InputError("No labels to accept are named.", "Name the ids of examples, or use --all.")
    _open(home, tracking_uri, model)
    _print("accepted", [asdict(change) for change in lineage_store.accept(model, ids or [])], as_json=as_json)


def _open(home: Path | None, tracking_uri: str | None, model: str) -> None:
    use_home(home, tracking_uri)
    check_model(model)
    from components.core.tracking.service import connection

    connection.open_store()
    connection.check_known(model)


def _print(what: str, rows: list[dict[str, str]], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({what: rows}) + "\n")
        return
    for row in rows:
        sys.stdout.write(f"{row['id'][:12]}  {row['locked']} -> {row['proposed']}  {row['uri']}\n")
    sys.stdout.write(f"{len(rows)} {what}\n" if rows else f"No changed labels are {what}\n")
