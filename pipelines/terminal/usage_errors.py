"""Wrong command lines, told in one sentence with the help that says more."""

import re
from difflib import get_close_matches
from typing import Any

from components.core.errors import plainly


def usage_sentence(error: Any) -> str:  # noqa: ANN401 - of click, of which typer has a private copy
    """Return what is wrong with a command line, and which help says more."""
    where, colon, wrong = str(error.format_message()).replace("Value error, ", "").rstrip(".").partition(": ")
    where = re.sub(r"(?<=Missing argument )'\w+'", lambda name: name[0].upper(), where)  # as the usage line has it
    message = f"{where}{colon}{plainly(wrong)}"
    if unknown := re.fullmatch(r"(No such option: (\S+)) \(Possible options: (.*)\)", message):
        near = get_close_matches(unknown[2], unknown[3].split(", "), 1)
        message = f"{unknown[1]}. Did you mean {near[0]}?" if near else unknown[1]
    ending = "" if message.endswith("?") else "."
    names, context = list[str](), getattr(error, "ctx", None)
    while context is not None and context.parent is not None:
        names, context = [context.info_name, *names], context.parent
    return f"{message}{ending} See `{' '.join(['thawline', *names, '--help'])}`."
