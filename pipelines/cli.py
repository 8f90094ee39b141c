"""The command `thawline`: each of its commands is a file of `pipelines/commands`.

Results go to stdout, everything else to stderr. Exit status: 0 done, 1 the run failed, 2 bad usage or input.
"""

import atexit
import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from components.core.errors import ExpectedError
from components.core.run_result import RunResult
from components.core.storage import disk_space, home_folder
from pipelines.commands import cache, doctor, init, pretrain, report, run, status, ui
from pipelines.commands.cluster import compile as compile_
from pipelines.commands.cluster import schedule, submit
from pipelines.commands.models import explain, export, labels, predict, promotion, serve
from pipelines.terminal.command_help import use_own_help
from pipelines.terminal.surroundings import drop_left_over, enduring
from pipelines.terminal.usage_errors import usage_sentence

app = typer.Typer(
    help="Keep fine-tuned models fresh: freeze, train a head, thaw, evaluate, register.",
    epilog="Example: thawline run photos/, then thawline predict --model photos photo.jpg. "
    "Each command's --help has an example.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (run, pretrain, report, init, predict, explain, serve, export, ui, doctor, compile_):
    app.add_typer(command.app)
app.add_typer(cache.app, name="cache")
app.add_typer(labels.app, name="labels")
app.add_typer(promotion.app)
app.add_typer(submit.app)
app.add_typer(schedule.app, name="schedule")
app.add_typer(status.app)
use_own_help(app)
# Objects between two searches for garbage. Importing MLflow makes some 100,000, none of which is any: with Python's 700
# the searches take a third of a skipped run.
NEW_OBJECTS = 500_000
GOES_ON = "The output was closed; the run continues, and `thawline status` will show its result."


def _version(asked: bool) -> None:  # noqa: FBT001 - as typer calls it
    if asked:
        sys.stdout.write(f"thawline {version('thawline')}\n")
        raise typer.Exit


@app.callback()
def _common(
    *,
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version of Thawline and exit."),
    ] = False,
) -> None:
    """Keep fine-tuned models fresh: freeze, train a head, thaw, evaluate, register."""
    if found := drop_left_over():
        sentence = f"Ignoring {', '.join(found)}: left over in the environment from something else."
        Console(stderr=True).print(sentence, style="dim", highlight=False, soft_wrap=True)


def _fail(message: str, status: int) -> NoReturn:
    Console(stderr=True).print(f"Error: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
    raise SystemExit(status)


def main() -> None:
    """Entry point of the command."""
    gc.set_threshold(NEW_OBJECTS)
    atexit.register(gc.freeze)
    runs = sys.argv[1:2] in (["run"], ["pretrain"], ["submit"]) and not {"-h", "--help"} & set(sys.argv)
    with enduring(GOES_ON if runs else ""), _errors_reported():
        try:
            Path.cwd()
        except FileNotFoundError:
            _fail("The folder that this terminal is in was deleted. Change to one that exists.", 2)
        raise SystemExit(app(standalone_mode=False))


@contextmanager
def _errors_reported() -> Iterator[None]:
    """End with a sentence and an exit status where it is known what went wrong."""
    try:
        with disk_space.explained(home_folder.home):
            yield
    except ExpectedError as error:
        _fail(str(error), 2 if error.kind == "input" else 1)
    except typer.TyperException as error:  # bad usage
        if not error.format_message():  # nothing was asked, so the help was printed
            raise SystemExit(error.exit_code) from None
        message = usage_sentence(error)
        if sys.argv[1:2] in (["run"], ["submit"]) and "--json" in sys.argv:
            sys.stdout.write(json.dumps(RunResult(reason=message).model_dump()) + "\n")
        _fail(message, error.exit_code)
    except Exception as error:
        if "components.core.tracking.service.connection" not in sys.modules:
            raise
        from components.core.tracking.service import connection

        known = connection.explanation(error)
        if known is None:
            raise
        _fail(str(known), 2)


if __name__ == "__main__":
    main()
