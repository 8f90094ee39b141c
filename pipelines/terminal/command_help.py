"""The help of commands: each option above its text, as wide as the terminal, and with `-h` the most used options only.

Typer's own panels cut long values at 80 columns, and the values are what a reader came for.
"""

import re
import sys
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

BRIEF = frozenset(  # what a first run needs, of commands with an option for every setting
    {"task", "model", "backbone", "weights", "trials", "max_minutes", "force", "config", "dry_run", "as_json", "host"}
)
LONG_FROM = 20  # options; shorter commands have one help
WIDEST = 100  # columns: longer lines are hard to read
INDENT = 10
BESIDE = 24  # columns of a name that has its text beside it; that of a longer one is below
KINDS = {
    "<str>": "<text>",
    "<int>": "<number>",
    "<float>": "<number>",
    "<int range>": "<number>",
    "<float range>": "<number>",
    "<list[str]>": "<text>",
}
_BRIEF = "brief_help"  # in the context of a command that was asked for the short help
# The context and the formatter are classes of click, of which typer has a private copy: hence Any.


class Command(TyperCommand):
    """A command with this help."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - typer's own
        super().__init__(*arguments, **_with_short_name(options))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        """Take note of which help was asked for, and parse."""
        ctx.meta[_BRIEF] = "-h" in args and "--help" not in args
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002
        """Print the help on stdout."""
        _print(ctx, self)


class CommandGroup(TyperGroup):
    """A group of commands with this help."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - typer's own
        super().__init__(*arguments, **_with_short_name(options))

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002
        """Print the help on stdout."""
        _print(ctx, self)


def use_own_help(app: typer.Typer) -> None:
    """Give every command of an application, and of those in it, this help."""
    app.info.cls = CommandGroup
    for command in app.registered_commands:
        command.cls = Command
    for group in app.registered_groups:
        if group.typer_instance:
            use_own_help(group.typer_instance)


def _with_short_name(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "context_settings": {**(options.get("context_settings") or {}), "help_option_names": HELP}}


HELP = ["-h", "--help"]


def _print(ctx: Any, command: TyperCommand | TyperGroup) -> None:  # noqa: ANN401
    console = Console()
    console.width = min(console.width, WIDEST)
    with console.capture() as page:
        console.print(_page(ctx, command), highlight=False)
    sys.stdout.write(re.sub(r" +$", "", page.get(), flags=re.MULTILINE))  # rich fills its lines


def _page(ctx: Any, command: TyperCommand | TyperGroup) -> RenderableType:  # noqa: ANN401
    """The help as something that rich prints."""
    parameters = [one for one in command.get_params(ctx) if not getattr(one, "hidden", False)]
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    options = [one for one in parameters if one.param_type_name == "option"]
    brief = bool(ctx.meta.get(_BRIEF)) and len(options) > LONG_FROM
    shown = [one for one in options if not brief or one.required or one.name in BRIEF or "--help" in one.opts]
    parts: list[RenderableType] = [
        Text(command.help or ""),
        Text(),
        Text.assemble(("Usage:", "bold"), f" {' '.join([ctx.command_path, *_pieces(ctx, command)])}"),
    ]
    if isinstance(command, TyperGroup):
        listed = [(name, one.help or "") for name in command.list_commands(ctx) if (one := command.commands[name])]
        parts += _columns("Commands", [(name, _first_sentence(text)) for name, text in listed])
    for title, some in {"Arguments": arguments, **_by_panel(shown, brief=brief)}.items():
        records = [record for one in some if (record := one.get_help_record(ctx))]
        named = _argument if title == "Arguments" else _option
        texts = [(named(name), _with_facts(" ".join(text.split()))) for name, text in records]
        if brief or isinstance(command, TyperGroup):
            parts += _columns(title, [(name, _first_sentence(text)) for name, text in texts])
        else:
            parts += _blocks(title, texts)
    if brief:
        text = f"All options: {ctx.command_path} --help"
        parts += [Text(), Text(text)]
    if command.epilog:
        parts += [Text(), *_examples(command.epilog)]
    return Group(*parts)


def _examples(text: str) -> list[RenderableType]:
    """One example as a sentence; of several each command in a line of its own, to be copied."""
    title, _, commands = text.partition("Examples: ")
    return (
        [Text(text)]
        if title
        else [Text("Examples:", "bold"), *(_indented(Text(one), 2) for one in commands.split("; "))]
    )


def _pieces(ctx: Any, command: TyperCommand | TyperGroup) -> list[str]:  # noqa: ANN401
    """Return the parts of the usage line after the command's name."""
    return [re.sub(r"[{}]", "", piece).upper() for piece in command.collect_usage_pieces(ctx)]


def _by_panel(options: list[Any], *, brief: bool) -> dict[str, list[Any]]:
    """Options by the title that they stand under."""
    panels: dict[str, list[Any]] = {}
    for one in options:
        title = "Options" if brief else getattr(one, "rich_help_panel", None) or "Options"
        panels.setdefault(title, []).append(one)
    return panels


def _argument(name: str) -> str:
    return re.sub(r"[{}\[\]]", "", name.split(maxsplit=1)[0]).upper()


def _option(names: str) -> str:
    for kind, word in KINDS.items():
        names = names.replace(kind, word)
    return names


def _with_facts(text: str) -> str:
    """A text with what typer adds, such as `[default: 5; x>=0]`, in words and parentheses as the settings have it."""
    before, bracket, after = text.rpartition("[")
    if not bracket or not after.endswith("]"):
        return text
    facts = after.removesuffix("]").replace("default: (", "default: ").replace("); ", "; ").removesuffix(")")
    facts = re.sub(r"(?<![\d.])(\d+)\.0(?![\d.])", r"\1", facts)  # not in 127.0.0.1
    facts = re.sub(r"([\d.]+)<=x<=([\d.]+)", r"\1 to \2", facts)
    facts = re.sub(r"x>=([\d.]+)", r"at least \1", facts)
    return f"{before.rstrip()} ({facts})"


def _blocks(title: str, rows: list[tuple[str, str]]) -> list[RenderableType]:
    """Each name above its text."""
    parts = _heading(title, rows)
    for name, text in rows:
        parts += [_indented(Text(name, "cyan"), 2), _indented(Text(text), INDENT)]
    return parts


def _columns(title: str, rows: list[tuple[str, str]]) -> list[RenderableType]:
    """Each name beside its text, where there is room for it."""
    parts = _heading(title, rows)
    width = max((len(name) for name, _ in rows if len(name) <= BESIDE), default=0)
    for name, text in rows:
        if len(name) > BESIDE:
            parts += [_indented(Text(name, "cyan"), 2), _indented(Text(text), width + 4)]
            continue
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=width)
        table.add_row(Text(name, "cyan"), Text(text))
        parts.append(_indented(table, 2))
    return parts


def _heading(title: str, rows: list[tuple[str, str]]) -> list[RenderableType]:
    return [Text(), Text(f"{title}:", "bold")] if rows else []


def _indented(text: RenderableType, columns: int) -> Padding:
    return Padding(text, (0, 0, 0, columns), expand=False)


def _first_sentence(text: str) -> str:
    """The first sentence of a text, and the default where it is short: by what it means if the text says so."""
    first = re.split(r"(?<=[.;]) ", text)[0].rstrip(".;")
    default = re.search(r" \(default: ([^)]{,25})\)$", text)
    if not default or default[0] in first:
        return first
    meaning = re.search(rf"; {re.escape(default[1])}: ([^.;]+)\.", text)
    return f"{first} (default: {meaning[1] if meaning else default[1]})"
