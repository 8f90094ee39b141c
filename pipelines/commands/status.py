"""`thawline status`: did the last runs do well, and how long ago? For people, scripts, monitors and Prometheus.

A run that never started can't report itself, so something else has to ask.
"""

import json
import math
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.core.contract.metric_names import label
from components.core.errors import InputError
from components.core.machine.times import iso, minute
from components.core.reporting.costs import duration
from components.core.storage import home_folder
from pipelines.commands.options import HomeOption, JsonOption, TrackingOption, has_store, merge, use_home
from pipelines.commands.tables import table
from pipelines.terminal.completion import model_names

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from components.core.reporting.status import Outcome

app = typer.Typer()
UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}  # seconds
STATUSES = ("succeeded", "skipped", "failed", "terminated", "running", "none")
_COLUMNS = ("model", "last run", "ended (UTC)", "last good run", "champion", "figure", "")


@app.command(
    epilog="Examples: thawline status; thawline status stamps --stale-after 8d || mail -s stale me@example.com; "
    "thawline status --prometheus-file /var/lib/node_exporter/thawline.prom"
)
def status(
    name: Annotated[str, typer.Argument(help="A model (default: all).", autocompletion=model_names)] = "",
    *,
    stale_after: Annotated[
        str, typer.Option(help="Exit with 1 if no run succeeded or was skipped within this time: 90m, 36h, 8d, 2w.")
    ] = "",
    prometheus: Annotated[bool, typer.Option("--prometheus", help="Print metrics in Prometheus' text format.")] = False,
    prometheus_file: Annotated[
        Path | None,
        typer.Option(help="Write these metrics to a .prom file, atomically, for node_exporter's textfile collector."),
    ] = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how the last run of each model ended, its last good run, and its champion."""
    use_home(home, tracking_uri)
    allowed = _seconds(stale_after) if stale_after else math.inf
    if name:
        merge({"model": name}, None, name)  # before it goes into a query
    _check_file(prometheus_file)
    found, now = _outcomes(name), time.time()
    stale = [outcome for outcome in found if outcome.stale(now, allowed) and stale_after]
    if prometheus or prometheus_file:
        _expose(found, prometheus_file, printed=prometheus)
    elif as_json:
        sys.stdout.write(json.dumps({"models": [_facts(one, now, one in stale) for one in found]}) + "\n")
    else:
        sys.stdout.write("\n".join(_page(found, now, name)) + "\n")
    for outcome in stale:
        sys.stderr.write(f"{outcome.model}: {_staleness(outcome, now)} (allowed: {stale_after})\n")
    if stale or (stale_after and not found):
        raise typer.Exit(1)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text.strip())
    if not found or not float(found[1]):
        raise InputError(f"--stale-after can't be {text!r}.", "Use a number and m, h, d or w, as in 8d.")
    return float(found[1]) * UNITS[found[2]]


def _check_file(path: Path | None) -> None:
    if path and (path.suffix != ".prom" or not path.absolute().parent.is_dir()):
        raise InputError(f"Metrics can't be written to {path}.", "Use a .prom file in an existing folder.")


def _outcomes(name: str) -> list["Outcome"]:
    if not has_store():
        from components.core.reporting.status import Outcome

        return [Outcome(name)] if name else []
    from components.core.reporting import status as outcomes
    from components.core.tracking.service import connection

    connection.open_store()
    return [outcomes.of(model) for model in ([name] if name else outcomes.models())]


def _facts(outcome: "Outcome", now: float, stale: bool) -> dict[str, Any]:  # noqa: FBT001 - a fact among others
    times = {name: iso(getattr(outcome, name)) for name in ("started", "ended", "succeeded")}
    return {**asdict(outcome), **times, "age_seconds": outcome.age(now), "stale": stale}


def _page(found: Sequence["Outcome"], now: float, name: str) -> list[str]:
    rows = [
        (
            one.model,
            "none yet" if one.status == "none" else one.status,
            minute(iso(one.ended)),
            f"{_ago(one, now)} ago" if one.succeeded else "never",
            one.champion or "none",
            "" if one.value is None else f"{label(one.metric)} {one.value:.3f}",
            ", ".join(_remarks(one)),
        )
        for one in found
    ]
    lines = table(_COLUMNS, rows, ("champion",))
    if name and found and found[0].reason:
        lines += ["", found[0].reason]
    return lines or [f"There are no runs in {home_folder.home()} yet: start one with `thawline run SOURCE`."]


def _remarks(outcome: "Outcome") -> list[str]:
    return [
        *(["a run is in progress"] if outcome.running else []),
        *(["cut short by a deadline"] if outcome.cut else []),
        *([f"version {outcome.pending} waits for approval"] if outcome.pending else []),
    ]


def _staleness(outcome: "Outcome", now: float) -> str:
    return f"no successful run for {_ago(outcome, now)}" if outcome.succeeded else "no successful run yet"


def _ago(outcome: "Outcome", now: float) -> str:
    days, rest = divmod(outcome.age(now) or 0.0, UNITS["d"])
    return f"{days:.0f} d {rest // UNITS['h']:.0f} h" if days else duration(rest)


def _expose(found: Sequence["Outcome"], path: Path | None, *, printed: bool) -> None:
    from prometheus_client import generate_latest, write_to_textfile

    collected = _metrics(found)
    if path:
        try:
            write_to_textfile(str(path), collected)
        except OSError as error:
            raise InputError(f"{path} can't be written: {error.strerror}.", "Choose another file.") from None
    if printed:
        sys.stdout.write(generate_latest(collected).decode())


def _metrics(found: Sequence["Outcome"]) -> "CollectorRegistry":
    """Return the metrics for Prometheus; a time of 0 means never, so that an alert on its age fires."""
    from prometheus_client import CollectorRegistry, Gauge

    collected = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"thawline_{name}", text, ["model", *labels], registry=collected)

    succeeded = gauge("last_success_timestamp_seconds", "End of the last run that succeeded or was skipped; 0: never.")
    ended = gauge("last_run_timestamp_seconds", "End of the last run; 0: never.")
    state = gauge("last_run_status", "1 for the status of the last run, 0 for the others.", "status")
    work = gauge("last_run_work_seconds", "Work of all steps of the last run.")
    running = gauge("running", "1 while a run is in progress.")
    champion = gauge("champion_version", "Version in production; 0: none.")
    pending = gauge("pending_version", "Version that waits for approval; 0: none.")
    accuracy = gauge("champion_accuracy", "Accuracy of the champion on the test rows when it was evaluated.")
    figure = gauge(
        "champion_figure", "Headline metric of the champion on the test rows when it was evaluated.", "metric"
    )
    for one in found:
        succeeded.labels(one.model).set(one.succeeded)
        ended.labels(one.model).set(one.ended)
        for name in STATUSES:
            state.labels(one.model, name).set(one.status == name)
        work.labels(one.model).set(one.seconds)
        running.labels(one.model).set(one.running)
        champion.labels(one.model).set(float(one.champion or 0))
        pending.labels(one.model).set(float(one.pending or 0))
        if one.accuracy is not None:
            accuracy.labels(one.model).set(one.accuracy)
        if one.value is not None:
            figure.labels(one.model, one.metric).set(one.value)
    return collected
