"""`thawline run`: the whole pipeline on this machine."""

import json
import math
import shlex
import signal
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from components.core import run_folder
from components.core.contract.metric_names import heading
from components.core.errors import ExpectedError, InputError, StepError
from components.core.run_result import RunResult
from components.core.searching import studies
from components.core.settings import Settings
from components.core.storage import home_folder
from components.core.tracking.service.server import is_server
from components.core.training import deadlines
from pipelines.commands.options import (
    ConfigOption,
    HomeOption,
    JsonOption,
    TrackingOption,
    merge,
    model_name,
    use_home,
    with_settings,
)
from pipelines.terminal.config_file import text_of
from pipelines.terminal.surroundings import check_name, near

if TYPE_CHECKING:
    import subprocess

    from pipelines.local.resume import Begun


app = typer.Typer()
DOING = "Fine-tuning"
INTERRUPTED = "The run was interrupted."
RESUMES = "Run the same command again to resume."
STOP_SECONDS = 20.0  # that an interrupted run has to close its runs in MLflow


@app.command(epilog="Example: thawline run photos/ --trials 8 --thaw 2")
@with_settings
def run(
    source: Annotated[str, typer.Argument(help="Folder with a subfolder per class, s3://bucket/prefix, or manifest.")],
    *,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but errors; the result too with --json.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what the run would do, and why, and do nothing.")
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the settings of the run as a config file, and do nothing.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over instead of resuming a run of this command that was cut short.")
    ] = False,
    **options: Any,  # noqa: ANN401 - one per setting, checked by pydantic
) -> None:
    """Run the whole pipeline on this machine, to a registered model."""
    use_home(home, tracking_uri)
    from pipelines.commands.dry_run import foreseen, print_foreseen
    from pipelines.local.resume import foresee
    from pipelines.local.task_choice import with_task_of_data
    from pipelines.terminal.option_checks import check_names

    console = Console(stderr=as_json or dry_run, quiet=quiet)
    try:
        settings, task = with_task_of_data(checked(options, config, source), source)
        check_names(settings)
        if print_config:
            sys.stdout.write(text_of(settings.model_dump(include=settings.model_fields_set), "FILE"))
            return
        source = source if "://" in source else str(Path(source).expanduser().resolve())
        if dry_run:
            _print_settings(console, source, settings, task)
            before = None if fresh else foresee(source, settings)
            print_foreseen(foreseen(source, settings, before, console), settings, before, as_json=as_json)
            return
        begun = announced(source, settings, task, console, fresh=fresh)
        result = execute(source, settings, begun, console)
    except ExpectedError as error:
        if as_json:
            model = str(options.get("model") or model_name(source))
            sys.stdout.write(json.dumps(RunResult(reason=str(error), model=model).model_dump()) + "\n")
        raise
    if as_json:
        sys.stdout.write(json.dumps(result.model_dump()) + "\n")
    else:
        _print_summary(console, result, settings)
    check_succeeded(result, begun.run_key)


def announced(
    source: str, settings: Settings, task: str, console: Console, *, fresh: bool, doing: str = DOING
) -> "Begun":
    """Begin a run or take one up, and print which; from here on a signal ends it in order."""
    from pipelines.local.resume import begin

    with console.status("Looking for a run to resume"):
        begun = begin(source, settings, fresh=fresh)  # where the home can't be made, that is all there is to say
    _print_settings(console, source, settings, task, doing)
    if begun.before:
        text = f"Resuming {begun.before}; --fresh starts over"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    _catch_signals()
    return begun


def execute(source: str, settings: Settings, begun: "Begun", console: Console, output: str = "") -> RunResult:
    """Run the DAG where something has changed, and show its progress; return the result, with the report's path.

    Args:
        source: What is trained on.
        settings: Of the run.
        begun: The run.
        console: Where its progress is shown.
        output: The folder that a pretraining writes; empty for a whole run.
    """
    from pipelines.local.changes import settled
    from pipelines.local.runner import fetch_report, launch
    from pipelines.terminal.display import steps_of

    result = settled(source, settings, begun.run_key, console)
    if result is None:
        child = launch(source, settings, begun.run_key, output)
        steps = steps_of(settings.trials, pretraining=bool(output))
        result = _watch(child, begun.run_key, settings, console, begun.offset, steps)
    return fetch_report(result, begun.run_key)


def check_succeeded(result: RunResult, run_key: str) -> None:
    """Raise what made a run fail.

    Raises:
        InputError: Something that was given is at fault.
        StepError: A step failed.
    """
    if result.status == "failed":
        errors = run_folder.read_errors(run_key)
        kind = InputError if any(one["kind"] == "input" for one in errors.values()) else StepError
        hint = "" if errors else f"Its log is {run_folder.run_folder(run_key) / 'log.txt'}."
        raise kind(result.reason, f"{RESUMES} {hint}".strip() if result.reason == INTERRUPTED else hint)


def checked(options: dict[str, Any], config: Path | None, source: str) -> Settings:
    """Return the settings of a run, once what would surely stop it has been looked for.

    Raises:
        InputError: It was found.
    """
    from components.core.contract.task_sources import lists_records
    from components.core.sources.raw_records import check_source

    check_name(source)
    settings = merge(options, config, source)
    if not lists_records(settings.task, Path.cwd()):
        check_source(source)
    studies.check_storage()
    return settings


def _watch(
    child: "subprocess.Popen[bytes]",
    run_key: str,
    settings: Settings,
    console: Console,
    shown_to: int = 0,
    steps: Sequence[str] = (),
) -> RunResult:
    """Show a run until its processes are gone, from that byte of its events on; end it at a signal or a limit."""
    from pipelines.local.changes import ended
    from pipelines.local.expected_times import change, expected_seconds
    from pipelines.local.runner import lives, stop
    from pipelines.terminal.display import shown

    offset, deadline, begin, reason = shown_to, 0.0, time.monotonic(), ""
    trains = change(run_folder.run_folder(run_key)) == "train"
    with shown(console, steps, expected_seconds(settings) if trains else {}) as display:
        while True:
            try:
                alive = lives(child, group=deadline > 0)
                for event, offset in run_folder.events(run_key, offset):  # noqa: B007, B020 - the offset is kept
                    display.take(event)
                if not alive or 0 < deadline < time.monotonic():
                    break
                late = deadlines.overdue(settings, time.monotonic() - begin, display.running())
                if late and not deadline:
                    reason, deadline = late, time.monotonic() + STOP_SECONDS
                    stop(child, signal.SIGTERM)
                time.sleep(0.1)
            except KeyboardInterrupt:  # at first the steps may close their runs; a second one waits for nothing
                stop(child, signal.SIGKILL if deadline else signal.SIGTERM)
                reason, deadline = reason or INTERRUPTED, time.monotonic() + STOP_SECONDS
    if deadline:
        stop(child, signal.SIGKILL)
    return ended(settings, run_key, reason)


def _catch_signals() -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, _interrupt)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _print_settings(console: Console, source: str, settings: Settings, task: str, doing: str = DOING) -> None:
    chosen = {k: v for k, v in settings.model_dump().items() if v is not None and v != Settings.model_fields[k].default}
    console.print(f"{doing} on {source}", highlight=False, markup=False, soft_wrap=True)
    if task:
        console.print(task, highlight=False, markup=False, soft_wrap=True)
    solved = settings.may_solve_head()
    searched = sorted(settings.searched(solved=solved)) if settings.trials else []
    for line in ("  ".join(f"{k}={v}" for k, v in chosen.items()), f"searched: {', '.join(searched) or 'nothing'}"):
        console.print(_folded(f"  {line}", console, 2), style="dim", highlight=False, markup=False, soft_wrap=True)


def _print_summary(console: Console, result: RunResult, settings: Settings) -> None:
    if result.status == "failed":
        return
    uri = home_folder.tracking_uri()
    tracking = uri if is_server(uri) else command_here("ui")
    if result.status == "skipped":
        from pipelines.terminal.display import print_skipped

        print_skipped(console, result, tracking)
        return
    metrics, metric = result.metrics, result.metric
    interval = f"[{metrics.get(f'{metric}_low', math.nan):.3f}, {metrics.get(f'{metric}_high', math.nan):.3f}]"
    state = "champion" if result.promoted else "still champion" if result.stays else "challenger, not promoted"
    state = f"waits for approval: {result.pending}" if result.pending else state
    lines = {
        heading(metric): f"{metrics.get(metric, math.nan):.3f}  95% interval {interval}, trivial model "
        f"{metrics.get(f'baseline_{metric}', math.nan):.3f}",
        "Registered": f"{settings.model} version {result.version}, {state}",
        "Why": _folded(result.reason, console, 12),
        **({"Reference": _folded(result.reference, console, 12)} if result.reference else {}),
        **({"Cost": result.cost} if settings.machine or settings.price_per_hour else {}),
        "Report": near(result.report),
        "Tracking": tracking,
        "Next": "\n            ".join(_next(result, settings.model)),
    }
    console.print()
    for name, text in lines.items():
        console.print(f"{name:<11} {text}", highlight=False, markup=False, soft_wrap=True)


def _next(result: RunResult, model: str) -> list[str]:
    """Commands that a reader may want now."""
    compared = result.compared_with and not (result.promoted or result.stays)
    commands = {
        command_here("report", model): "where it differs from the champion" if compared else "its numbers and mistakes"
    }
    if result.pending:
        commands[command_here("promote", result.version, "--model", model)] = "make it champion"
    elif result.promoted or result.compared_with:
        commands[f"{command_here('predict', '--model', model)} FILE"] = "ask the champion"
    else:
        commands[f"{command_here('predict', '--model', f'{model}@challenger')} FILE"] = "ask this version"
    width = max(map(len, commands))
    return [f"{command.ljust(width)}  {text}" for command, text in commands.items()]


def command_here(*arguments: str) -> str:
    """A command of Thawline that works in this folder."""
    home = home_folder.home()
    place = () if home == Path(".thawline").resolve() else ("--home", str(home))
    return shlex.join([near(sys.argv[0]), *arguments, *place])


def _folded(text: str, console: Console, indent: int) -> str:
    """Text broken between words on a terminal, `indent` columns from its edge; elsewhere one line."""
    if not console.is_terminal:
        return text
    lines = textwrap.wrap(text, console.width - indent, break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * indent}".join(lines)
