"""The command `thawline`: each of its commands is a file of `pipelines/commands`.

Results go to stdout, everything else to stderr. Exit status: 0 done, 1 the run failed, 2 bad usage or input.
"""

import json
import sys
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

from components.core import disk_space, home_folder
from components.core.errors import ExpectedError
from components.core.run_result import RunResult
from pipelines.commands import cache, doctor, labels, models, predict, run, schedule, status, submit, ui
from pipelines.commands import compile as compile_
from pipelines.surroundings import drop_left_over, enduring

app = typer.Typer(
    help="Keep fine-tuned models fresh: freeze, train a head, thaw, evaluate, register.",
    epilog="Example: thawline run photos/, then thawline predict --model photos photo.jpg. "
    "Each command's --help has an example.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (run, compile_, predict, ui, doctor):
    app.add_typer(command.app)
app.add_typer(cache.app, name="cache")
app.add_typer(labels.app, name="labels")
app.add_typer(models.app)
app.add_typer(submit.app)
app.add_typer(schedule.app, name="schedule")
app.add_typer(status.app)
GOES_ON = "The output was closed; the run continues, and `thawline status` will show its result."


@app.callback()
def _common() -> None:
    """Keep fine-tuned models fresh: freeze, train a head, thaw, evaluate, register."""
    if found := drop_left_over():
        sentence = f"Ignoring {', '.join(found)}: left over in the environment from something else."
        Console(stderr=True).print(sentence, style="dim", highlight=False, soft_wrap=True)


def _fail(message: str, status: int) -> NoReturn:
    Console(stderr=True).print(f"Error: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
    raise SystemExit(status)


def main() -> None:
    """Entry point of the command."""
    runs = sys.argv[1:2] in (["run"], ["submit"]) and "--help" not in sys.argv
    with enduring(GOES_ON if runs else ""):
        _main()


def _main() -> NoReturn:
    try:
        Path.cwd()
    except FileNotFoundError:
        _fail("The folder that this terminal is in was deleted. Change to one that exists.", 2)
    try:
        with disk_space.explained(home_folder.home):
            status = app(standalone_mode=False)
    except ExpectedError as error:
        _fail(str(error), 2 if error.kind == "input" else 1)
    except typer.TyperException as error:  # bad usage
        message = error.format_message().replace("Value error, ", "").rstrip(".")
        if not message:  # nothing was asked, so the help was printed
            raise SystemExit(error.exit_code) from None
        message = f"{message}. See `thawline --help`."
        if sys.argv[1:2] in (["run"], ["submit"]) and "--json" in sys.argv:
            sys.stdout.write(json.dumps(RunResult(reason=message).model_dump()) + "\n")
        _fail(message, error.exit_code)
    except Exception as error:
        if "components.core.tracking.runs" not in sys.modules:
            raise
        from components.core.tracking import connection

        known = connection.explanation(error)
        if known is None:
            raise
        _fail(str(known), 2)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
