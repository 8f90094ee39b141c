"""An MLflow server's address, and what its refusals mean; imports nothing heavy, so the command line can ask first."""

import json
from urllib.parse import urlsplit

from components.core.errors import InputError, NoAnswerError, UnavailableError

CHECK_SECONDS = 10  # that a server has to answer before anything starts
WRITING = ("EDIT", "MANAGE")  # permissions of basic authentication that a run needs
_LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


def is_server(uri: str) -> bool:
    """Return whether a tracking URI is a server's address, not a store's."""
    return uri.startswith(("http://", "https://"))


def check_address(uri: str) -> None:
    """Check a server's address before it goes anywhere: into the environment of the steps, or a message.

    Raises:
        InputError: It is none, or holds a login, which the sentence does not repeat.
    """
    parts = urlsplit(uri)
    if "@" in parts.netloc or parts.query or parts.fragment:
        message = "The tracking URI contains more than an address, maybe a password; it is not used."
        raise InputError(message, f"Use only http://HOST:PORT, and log in with {_LOGIN}.")
    if not is_server(uri) or not parts.hostname:
        raise InputError(
            f"The tracking URI can't be {uri!r}.", "Use the address of an MLflow server: http://HOST:PORT."
        )


def unreachable(uri: str) -> NoAnswerError:
    """The server is silent."""
    hint = "Check the address, the network, and that the server runs."
    return NoAnswerError(f"The MLflow server {uri} can't be reached.", hint)


def failing(uri: str, status: int, text: str = "") -> UnavailableError:
    """The server answers, again and again, that something is wrong with itself, or is no MLflow server."""
    told = _message(text)
    sentence = f"The MLflow server {uri} answers with the error {status}{told and f': {told}'}."
    if status < 500:  # noqa: PLR2004 - HTTP: the server's own errors begin there
        return UnavailableError(sentence, "Check the address: this does not look like an MLflow server.")
    return NoAnswerError(sentence, "Check its log: its database or its artifact store may be full or down.")


def _message(text: str) -> str:
    """Return the first line of an answer; empty if it is a page."""
    try:
        found = json.loads(text)
        text = str(found.get("message", "")) if isinstance(found, dict) else text
    except ValueError:
        pass
    line = next(iter(text.strip().splitlines()), "")
    return "" if line.startswith("<") else line.strip().rstrip(".")[:200]


def forbidden(uri: str, what: str) -> UnavailableError:
    """The login is good, but not for this."""
    hint = "Ask its administrator for the permission EDIT, or use another --model."
    return UnavailableError(f"The MLflow server {uri} does not let this login write to {what}.", hint)


def refusal(uri: str, status: int, text: str) -> UnavailableError | None:
    """Return the error for an unsuccessful answer; None if it concerns the request, not the login."""
    if status == 401:  # noqa: PLR2004 - HTTP: unauthorized
        return UnavailableError(f"The MLflow server {uri} refuses the login.", f"Check {_LOGIN}.")
    if "Invalid Host header" in text:
        hint = "Start it with --allowed-hosts naming this host and port."
        return UnavailableError(f"The MLflow server {uri} does not answer under this name.", hint)
    if status == 403:  # noqa: PLR2004 - HTTP: forbidden
        return forbidden(uri, "what it was asked to change")
    return None
