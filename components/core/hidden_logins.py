"""The one function that hides logins in text; errors and events use it for everything that they show or record."""

import re

# Up to the last @ before the path: a password may hold one. Hints show how an address is written.
_USER = re.compile(r"(?:(?<=://)|(?<=\bs3:))(?!USER:PASSWORD@)[^/\s?#'\"]*@")
_QUERY = re.compile(
    r"([?&;](?:password|passwd|pwd|token|access_token|secret|api_?key|sig|signature|x-amz-[\w-]+)=)[^&\s'\"]+",
    re.IGNORECASE,
)


def hidden(text: str) -> str:
    """Return a text with `…` in place of the user information and the secret parameters of every address in it."""
    return _QUERY.sub(r"\1…", _USER.sub("…@", text))
