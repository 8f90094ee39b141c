"""`thawline report`: the report of the last run, in the browser."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from components.core.errors import InputError
from components.core.storage import home_folder
from pipelines.commands.options import HomeOption, TrackingOption, check_model, has_store, use_home
from pipelines.terminal.browser import open_page
from pipelines.terminal.completion import model_names
from pipelines.terminal.surroundings import near

app = typer.Typer()
REPORT = "report.html"


@app.command(epilog="Examples: thawline report; thawline report stamps; thawline report stamps --path")
def report(
    name: Annotated[
        str,
        typer.Argument(help="A model (default: that of the last run).", autocompletion=model_names),
    ] = "",
    *,
    path: Annotated[bool, typer.Option("--path", help="Print the path of the report, and open nothing.")] = False,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Open the report of a model's last run in the browser, and print its path."""
    use_home(home, tracking_uri)
    if name:
        check_model(name)
    found = _found(name)
    if not path:
        open_page(found.absolute().as_uri())
    sys.stdout.write(f"{near(str(found))}\n")


def _found(name: str) -> Path:
    """The file of the newest report.

    Raises:
        InputError: There is none.
    """
    missing = InputError(
        f"There is no report{f' of {name}' if name else ''} yet.", "Start a run with `thawline run SOURCE`."
    )
    if not has_store():
        raise missing
    from components.core.tracking import queries
    from components.core.tracking.service import connection

    connection.open_store()
    if name:
        connection.check_known(name)
    run = queries.last_evaluated(name)
    if run is None:
        raise missing
    folder = home_folder.home() / "reports" / str(run.info.run_id)
    if found := queries.local_artifact(run, REPORT):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    if found := queries.download(str(run.info.run_id), REPORT, folder):
        return found
    raise InputError(f"The report of the run {run.info.run_name} is gone from the store.", "Run again with --force.")
