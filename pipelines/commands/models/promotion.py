"""`thawline models`, `promote` and `rollback`: who is champion, how it came to that, and a way to change it.

Nothing here imports torch; a version that is to become champion is tried out in a process of its own.
"""

import json
import sys
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from components.core.contract.metric_names import label
from components.core.errors import ExpectedError, InputError, StepError
from components.core.machine.times import iso, minute
from pipelines.commands.options import HomeOption, JsonOption, TrackingOption, check_model, has_store, use_home
from pipelines.commands.tables import table
from pipelines.terminal.completion import model_names

if TYPE_CHECKING:
    from components.core.registry.ledger import Entry

app = typer.Typer()
SHORT = 40  # characters of a sentence in a table
ModelOption = Annotated[str, typer.Option(help="Name in the model registry.", autocompletion=model_names)]
_MODELS = ("model", "champion", "previous", "challenger", "pending", "versions")
_VERSIONS = ("version", "created (UTC)", "aliases", "accepted", "figure", "decision")
_HISTORY = ("champion", "from (UTC)", "until", "action", "who", "why")
_FAILURES = ("failed", "at (UTC)", "action", "who", "reason")
SHOWN_FAILURES = 5


@app.command(epilog="Examples: thawline models; thawline models stamps; thawline models stamps --json | jq .history")
def models(
    name: Annotated[
        str,
        typer.Argument(help="A model, to list its versions and champions.", autocompletion=model_names),
    ] = "",
    *,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the registered models, or the versions and champions of one."""
    use_home(home, tracking_uri)
    answer = _one(name) if name else {"models": _all()}
    if as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
        return
    lines = _page(answer) if name else _list(answer["models"])
    sys.stdout.write("\n".join(lines) + "\n")


@app.command(
    epilog='Examples: thawline promote 3 --model stamps --reason "looked at its mistakes"; '
    'thawline promote 2 --model stamps --override --reason "version 3 is too slow"'
)
def promote(
    version: Annotated[int, typer.Argument(min=1, help="Number of the version.")],
    *,
    model: ModelOption,
    reason: Annotated[str, typer.Option(help="Reason for the history, in a sentence; required with --override.")] = "",
    override: Annotated[
        bool, typer.Option("--override", help="Promote without evidence; the history records this.")
    ] = False,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an accepted version champion, after checking and testing its files."""
    use_home(home, tracking_uri)
    check_model(model)
    if override and not reason.strip():
        raise InputError("--override needs a --reason.", "Explain in a sentence why this version needs no evidence.")
    from components.core.registry import ledger, promotion
    from components.core.registry import versions as registry
    from components.core.tracking.service import connection

    connection.open_store()
    already = registry.current(model, ledger.CHAMPION) == str(version)
    found = None if override or already else promotion.evidence_for(model, str(version))
    entry = promotion.promote(
        model,
        str(version),
        why=reason.strip() or (f"Approved: {found.sentence}" if found and found.sentence else "Approved"),
        evidence=found.run_id if found else "",
        override=override,
        expected=found.champion if found else None,
    )
    _tell(entry, as_json=as_json, already=already)


@app.command(
    epilog="Examples: thawline rollback --model stamps; "
    'thawline rollback --model stamps --to 1 --reason "2 and 3 mistake trams for buses"'
)
def rollback(
    *,
    model: ModelOption,
    to: Annotated[
        int | None, typer.Option(min=1, help="A former champion.", show_default="the champion before")
    ] = None,
    reason: Annotated[str, typer.Option(help="Reason for the history, in a sentence.")] = "",
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the former champion champion again, after checking and testing its files."""
    use_home(home, tracking_uri)
    check_model(model)
    from components.core.registry import ledger, promotion
    from components.core.registry import versions as registry
    from components.core.tracking.service import connection

    connection.open_store()
    already = to is not None and registry.current(model, ledger.CHAMPION) == str(to)
    entry = promotion.rollback(model, str(to or ""), why=reason.strip())
    _tell(entry, as_json=as_json, already=already)


def _tell(entry: "Entry", *, as_json: bool, already: bool) -> None:
    """Print the outcome of a move.

    Raises:
        StepError: The champion did not move.
    """
    if not entry.done:
        sentence = f"{entry.model} version {entry.to} did not become champion. {entry.reason}"
        raise StepError(sentence, f"See `thawline models {entry.model}`, and try again.")
    from components.core.registry import descriptions

    descriptions.describe_model(entry.model)
    if as_json:
        facts = {"model": entry.model, "version": entry.to, "moved": not already, "from": entry.origin}
        facts |= {"action": entry.action, "why": entry.why, "who": entry.who, "evidence": entry.evidence}
        facts |= {"withdrawn": entry.withdrawn}
        sys.stdout.write(json.dumps({**facts, "entry": entry.run_id}) + "\n")
        return
    before = f"before: version {entry.origin}" if entry.origin else "the first"
    verb = "was champion already" if already else f"is champion now ({before})"
    sys.stdout.write(f"{entry.model} version {entry.to} {verb}\n")
    if entry.withdrawn and not already:
        sys.stdout.write(f"Version {entry.withdrawn} no longer waits: it was judged against another champion\n")


def _all() -> list[dict[str, Any]]:
    if not has_store():
        return []
    from components.core.registry import versions as registry
    from components.core.tracking.service import connection

    connection.open_store()
    for model in registry.models():
        try:
            _settle(model["name"])
        except ExpectedError as error:  # one model's trouble hides no other
            _note(f"{model['name']}: {error}")
    return registry.models()


def _one(name: str) -> dict[str, Any]:
    check_model(name)
    from components.core.registry import ledger
    from components.core.registry import versions as registry
    from components.core.tracking.service import connection

    connection.open_store()
    try:
        _settle(name)
    except StepError as error:  # a promotion is under way
        _note(str(error))
    found = [model for model in registry.models() if model["name"] == name]
    if not found:
        connection.check_known(name)
        raise InputError(f"The registry has no model {name!r} of Thawline.", "See the models with `thawline models`.")
    versions = [{**asdict(one), "created": iso(one.created)} for one in registry.versions(name)]
    return {**found[0], "versions": versions, "history": ledger.history(name), "failures": ledger.failures(name)}


def _settle(name: str) -> None:
    """Repair what a kill left, and report it on stderr."""
    from components.core.registry import promotion

    for entry in promotion.settle(name):
        move = {"rollback": "rollback", "found": "move by hand"}.get(entry.action, "promotion")
        mended = "recorded" if entry.action == "found" else "completed: it had been cut off"
        _note(f"{name}: {move} to version {entry.to or 'none'} {mended if entry.done else f'closed: {entry.reason}'}")


def _note(text: str) -> None:
    Console(stderr=True).print(text, style="dim", highlight=False, markup=False, soft_wrap=True)


def _list(found: list[dict[str, Any]]) -> list[str]:
    rows = [[model["name"], *(str(model[column]) for column in _MODELS[1:])] for model in found]
    return table(_MODELS, rows, _MODELS[1:]) or ["There are no models yet."]


def _page(model: dict[str, Any]) -> list[str]:
    versions = [
        (
            facts["version"],
            minute(facts["created"]),
            ", ".join(facts["aliases"]),
            {True: "yes", False: "no", None: ""}[facts["accepted"]],
            "" if facts["value"] is None else f"{label(facts['metric'])} {facts['value']:.3f}",
            _short(facts["decision"]),
        )
        for facts in model["versions"]
    ]
    champions = [
        (row["version"], minute(row["from"]), minute(row["until"]), row["action"], row["who"], _short(row["why"]))
        for row in model["history"]
    ]
    history = table(_HISTORY, champions, ("champion",)) or ["No version has been champion yet."]
    failures = [
        (row["version"], minute(row["time"]), row["action"], row["who"], _short(row["reason"]))
        for row in model["failures"][:SHOWN_FAILURES]
    ]
    failed = ["", *table(_FAILURES, failures, ("failed",))] if failures else []
    return [*table(_VERSIONS, versions, ("version",)), "", *history, *failed]


def _short(sentence: str) -> str:
    return textwrap.shorten(sentence, SHORT, placeholder=" …")
