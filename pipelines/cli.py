"""The command `thawline`: run the DAG here, compile it, answer from the registry, promote, look, check the machine.

Results go to stdout, everything else to stderr. Exit status: 0 done, 1 the run failed, 2 bad usage or input.
"""

import json
import math
import os
import shlex
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from components.core import run_folder
from components.core.errors import ExpectedError, InputError
from components.core.settings import Settings
from components.core.tracking.server import is_server
from components.core.training import deadlines, studies
from pipelines.commands import cache, labels, models, schedule, status, submit
from pipelines.commands.options import (
    HomeOption,
    JsonOption,
    TrackingOption,
    check_model,
    merge,
    model_name,
    read_config,
    use_home,
    with_settings,
)
from pipelines.kubeflow.client import HostOption, NamespaceOption
from pipelines.kubeflow.pods import FINE_TUNING, SEARCHING_IN_PODS, compile_dag, merge_cluster, with_cluster
from pipelines.surroundings import check_name, drop_left_over, enduring

if TYPE_CHECKING:
    import subprocess

app = typer.Typer(
    help="Keep fine-tuned models fresh: freeze, train a head, thaw, evaluate, register.",
    epilog="Example: thawline run photos/, then thawline predict --model photos photo.jpg. "
    "Each command's --help has an example.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(cache.app, name="cache")
app.add_typer(labels.app, name="labels")
app.add_typer(models.app)
app.add_typer(submit.app)
app.add_typer(schedule.app, name="schedule")
app.add_typer(status.app)
INTERRUPTED = "The run was interrupted."
GOES_ON = "Nobody reads this output any more; the run goes on, and `thawline status` has its result."
STOP_SECONDS = 20.0  # that an interrupted run has to close its runs in MLflow


@app.callback()
def _common() -> None:
    """Keep fine-tuned models fresh: freeze, train a head, thaw, evaluate, register."""
    if found := drop_left_over():
        sentence = f"Ignoring {', '.join(found)}: left over in the environment, and it would change what happens."
        Console(stderr=True).print(sentence, style="dim", highlight=False, soft_wrap=True)


@app.command(epilog="Example: thawline run photos/ --trials 8 --thaw 2")
@with_settings
def run(
    source: Annotated[str, typer.Argument(help="Folder with a subfolder per class, s3://bucket/prefix, or manifest.")],
    *,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with the same names; the command line wins.")] = None,
    as_json: JsonOption = False,
    **options: Any,  # noqa: ANN401 - one per setting, checked by pydantic
) -> None:
    """Run the whole pipeline on this machine, to a registered model."""
    use_home(home, tracking_uri)
    from pipelines.changes import settled
    from pipelines.local import fetch_report, launch

    run_key, console = run_folder.new_run_key(), Console(stderr=as_json)
    try:
        settings = _checked(options, config, source, run_key)
        source = source if "://" in source else str(Path(source).expanduser().resolve())
        _print_settings(console, source, settings)
        _catch_signals()
        result = settled(source, settings, run_key, console)
        if result is None:
            result = _watch(launch(source, settings, run_key), run_key, settings, console)
        fetch_report(result, run_key)
    except ExpectedError as error:
        if as_json:
            model = str(options.get("model") or model_name(source))
            sys.stdout.write(json.dumps({**run_folder.NOTHING, "reason": str(error), "model": model}) + "\n")
        raise
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        _print_summary(console, result, settings)
    if result["status"] == "failed":
        errors = run_folder.read_errors(run_key)
        known = any(errors)
        where = "" if known else f" Its log is {run_folder.run_folder(run_key) / 'log.txt'}."
        _fail(f"{result['reason']}{where}", 2 if any(e["kind"] == "input" for e in errors.values()) else 1)


@app.command(
    "compile", epilog="Example: thawline compile -o stamps.yaml --accelerators 1 --volume thawline-activations"
)
@with_cluster
def compile_(
    output: Annotated[Path, typer.Option("--output", "-o", help="The YAML file to write.")] = Path("fine_tuning.yaml"),
    search_workers: Annotated[
        int | None, typer.Option(min=1, help="Pods that search, over a study on a database (default: 1).")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with the same names; the command line wins.")] = None,
    **options: Any,  # noqa: ANN401 - one per option of the pods, checked by pydantic
) -> None:
    """Write the DAG as YAML for Kubeflow Pipelines; with options of the pods, as `thawline submit` uploads it."""
    if output.suffix not in (".yaml", ".yml") or not output.absolute().parent.is_dir():
        raise InputError(f"The DAG can't be written to {output}.", "Give a .yaml file in a folder that is there.")
    given = read_config(config) if config else {}
    dag = SEARCHING_IN_PODS if (search_workers or given.get("search_workers") or 1) > 1 else FINE_TUNING
    if given or any(options.values()) or dag != FINE_TUNING:
        output.write_text(compile_dag(merge_cluster(options, given), dag).yaml)
    else:
        from kfp import compiler

        from pipelines.fine_tuning import fine_tuning

        compiler.Compiler().compile(fine_tuning, str(output))
    Console(stderr=True).print(f"Wrote {output}", highlight=False)


@app.command(
    epilog="Examples: thawline predict --model stamps@champion photo.jpg; thawline predict --model mood --text 'Fine!'"
)
def predict(
    files: Annotated[list[Path] | None, typer.Argument(help="Files to answer, one record each.")] = None,
    *,
    text: Annotated[list[str] | None, typer.Option(help="A record to answer, given here; several times.")] = None,
    model: Annotated[str, typer.Option(help="NAME, NAME@alias or NAME/version; the alias is champion if not given.")],
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer files with a model of the registry, or text that is given here."""
    use_home(home, tracking_uri)
    files, said = files or [], text or []
    if not files and not said:
        raise InputError("There is nothing to answer.", "Give the paths of files, or --text.")
    name, _, wanted = model.replace("/", "@").partition("@")
    check_model(name)
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise InputError(f"There is no file {missing[0]}.", "Give the paths of files to answer.")
    from components.core.registry import versions
    from components.core.tracking import connection, pyfunc

    connection.open_store()
    with tempfile.TemporaryDirectory() as folder:
        path, version = versions.fetch(name, wanted or "champion", Path(folder))
        served = pyfunc.load_pyfunc(path)
        found = _answers(served, [*files, *said])
    asked = [*({"file": str(path)} for path in files), *({"text": line} for line in said)]
    rows = [{**record, **row} for record, row in zip(asked, found, strict=True)]
    if as_json:
        sys.stdout.write(json.dumps({"model": name, "version": version, "predictions": rows}) + "\n")
        return
    for record, row in zip(asked, found, strict=True):
        sys.stdout.write("\t".join([*record.values(), *map(_told, row.values())]) + "\n")


def _told(value: Any) -> str:  # noqa: ANN401 - a cell of an answer
    """A cell as the terminal shows it: of a list all, of figures by name the highest."""
    if isinstance(value, dict):
        return f"{max(value.values(), default=0.0):.3f}"
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@app.command(epilog="Examples: thawline ui; thawline ui --home /data/thawline --port 5001")
def ui(
    *,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open the tracking page: runs, figures, models; a server's own is where the server is."""
    use_home(home, tracking_uri)
    from pipelines.local import environment

    uri = run_folder.tracking_uri()
    if is_server(uri):
        Console(stderr=True).print(f"The tracking page is at {uri}", highlight=False, soft_wrap=True)
        return
    Console(stderr=True).print(
        f"The tracking page is at http://127.0.0.1:{port} (stop it with Ctrl-C)", highlight=False
    )
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--default-artifact-root", str(run_folder.home() / "artifacts")]
    # not among the arguments: everyone on this machine may read those, and a database's address has a password
    store = {"MLFLOW_BACKEND_STORE_URI": uri}
    os.execve(sys.executable, command, environment() | store)  # noqa: S606 - becomes the server, so that Ctrl-C ends it


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
        bool, typer.Option("--cluster", help="Try a Kubeflow out instead, by a canary run of about five minutes.")
    ] = False,
    source: Annotated[str, typer.Option(help="With --cluster: an s3:// address that the pods have to reach.")] = "",
    host: HostOption = "",
    namespace: NamespaceOption = "",
    config: Annotated[Path | None, typer.Option(help="YAML file with the pods' options.")] = None,
    **options: Any,  # noqa: ANN401 - one per option of the pods, checked by pydantic
) -> None:
    """Tell what is missing on this machine, or on a cluster, and what mends it."""
    use_home(home, tracking_uri)
    from pipelines.commands.doctor import examine, examine_cluster

    if cluster:
        pods = merge_cluster(options, read_config(config) if config else {})
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


def _checked(options: dict[str, Any], config: Path | None, source: str, run_key: str) -> Settings:
    from components.core.data.sources import check_source

    check_name(source)
    settings = merge(options, config, source)
    check_source(source)
    studies.check_storage()
    run_folder.run_folder(run_key)
    return settings


def _answers(served: Any, records: Sequence[Path | str]) -> list[dict[str, Any]]:  # noqa: ANN401 - mlflow's, untyped
    from components.core.registry.serving import answers

    column = served.metadata.get_input_schema().input_names()[0]

    def ask(some: Sequence[Path | str]) -> list[dict[str, Any]]:
        found = answers(served, column, len(some), lambda a, b: [content(record) for record in some[a:b]])
        return found.to_dict("records")  # type: ignore[return-value]  # pandas types the keys as Hashable

    def content(record: Path | str) -> bytes:
        return record.encode() if isinstance(record, str) else record.read_bytes()

    try:
        return ask(records)
    except ValueError:  # one by one, to name the file
        for record in records:
            try:
                ask([record])
            except ValueError as error:
                raise InputError(
                    f"{str(record)!r} can't be answered: {error}.", "Give records of the kind the model takes."
                ) from None
        raise


def _watch(child: "subprocess.Popen[bytes]", run_key: str, settings: Settings, console: Console) -> dict[str, Any]:
    """Show a run until its processes are gone; end it where the user, a signal or a limit says so."""
    from pipelines.changes import ended
    from pipelines.display import shown
    from pipelines.local import lives, stop

    offset, deadline, begin, reason = 0, 0.0, time.monotonic(), ""
    with shown(console) as display:
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


def _print_settings(console: Console, source: str, settings: Settings) -> None:
    chosen = {k: v for k, v in settings.model_dump().items() if v is not None and v != Settings.model_fields[k].default}
    console.print(f"Fine-tuning on {source}", highlight=False, markup=False, soft_wrap=True)
    searched = sorted(Settings.SEARCHED - settings.fixed().keys()) if settings.trials else []
    for line in ("  ".join(f"{k}={v}" for k, v in chosen.items()), f"searched: {', '.join(searched) or 'nothing'}"):
        console.print(_folded(f"  {line}", console, 2), style="dim", highlight=False, markup=False, soft_wrap=True)


def _print_summary(console: Console, result: dict[str, Any], settings: Settings) -> None:
    if result["status"] == "failed":
        return
    uri = run_folder.tracking_uri()
    tracking = uri if is_server(uri) else shlex.join([sys.argv[0], "ui", "--home", str(run_folder.home())])
    if result["status"] == "skipped":
        from pipelines.display import print_skipped

        print_skipped(console, result, tracking)
        return
    metrics, metric = result["metrics"], result["metric"]
    name = metric.replace("_", " ")
    interval = f"[{metrics.get(f'{metric}_low', math.nan):.3f}, {metrics.get(f'{metric}_high', math.nan):.3f}]"
    state = "champion" if result["promoted"] else "challenger, not promoted"
    state = f"waits for approval: {result['pending']}" if result["pending"] else state
    lines = {
        name[:1].upper() + name[1:]: f"{metrics.get(metric, math.nan):.3f}  95 % interval {interval}, trivial model "
        f"{metrics.get(f'baseline_{metric}', math.nan):.3f}",
        "Registered": f"{settings.model} version {result['version']}, {state}",
        "Why": _folded(result["reason"], console, 12),
        **({"Cost": result["cost"]} if settings.machine or settings.price_per_hour else {}),
        "Report": result["report"],
        "Tracking": tracking,
    }
    console.print()
    for name, text in lines.items():
        console.print(f"{name:<11} {text}", highlight=False, markup=False, soft_wrap=True)


def _folded(text: str, console: Console, indent: int) -> str:
    """Text broken between words on a terminal, `indent` columns from its edge; elsewhere one line."""
    if not console.is_terminal:
        return text
    lines = textwrap.wrap(text, console.width - indent, break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * indent}".join(lines)


def _fail(message: str, status: int) -> NoReturn:
    Console(stderr=True).print(f"Error: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
    raise SystemExit(status)


def main() -> None:
    """Entry point of the command."""
    with enduring(GOES_ON if sys.argv[1:2] in (["run"], ["submit"]) else ""):
        _main()


def _main() -> NoReturn:
    try:
        Path.cwd()
    except FileNotFoundError:
        _fail("The folder that this terminal is in was deleted. Change to one that exists.", 2)
    try:
        status = app(standalone_mode=False)
    except ExpectedError as error:
        _fail(str(error), 2 if error.kind == "input" else 1)
    except typer.TyperException as error:  # bad usage
        message = error.format_message().replace("Value error, ", "").rstrip(".")
        if not message:  # nothing was asked, so the help was printed
            raise SystemExit(error.exit_code) from None
        message = f"{message}. See `thawline --help`."
        if sys.argv[1:2] in (["run"], ["submit"]) and "--json" in sys.argv:
            sys.stdout.write(json.dumps({**run_folder.NOTHING, "reason": message}) + "\n")
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
