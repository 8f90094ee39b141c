"""The one function that hides logins in text, for errors, events, a step's log and what MLflow records."""

import re
import sys
from typing import IO, Any

# Up to the last @ before the path: a password may hold one. Hints show how an address is written.
_USER = re.compile(r"(?:(?<=://)|(?<=\bs3:))(?!USER:PASSWORD@)[^/\s?#'\"]*@")
_QUERY = re.compile(
    r"([?&;](?:password|passwd|pwd|token|access_token|secret|api_?key|sig|signature|x-amz-[\w-]+)=)[^&\s'\"]+",
    re.IGNORECASE,
)


def hidden(text: str) -> str:
    """Return a text with `…` in place of the user information and the secret parameters of every address in it."""
    return _QUERY.sub(r"\1…", _USER.sub("…@", text))


class _Hiding:
    """A text stream without logins."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, usually a line: a login that is written in parts would be seen."""
        return self._stream.write(hidden(text))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the stream's own, whatever they are
        return getattr(self._stream, name)


def hide_in_output() -> None:
    """Hide logins in all that this process prints from now on: the traceback of a library may repeat an address."""
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), _Hiding):
            setattr(sys, name, _Hiding(getattr(sys, name)))
