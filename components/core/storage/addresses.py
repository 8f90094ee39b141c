"""Addresses as they may be shown: without the user, the password and the keys in them."""

import re

from components.core.errors import InputError
from components.core.storage.hidden_logins import hidden


def check_no_login(address: str, what: str) -> None:
    """Check that an address of an object holds no keys: it is recorded with the run, and no S3 client takes them.

    Args:
        address: s3://BUCKET/KEY, a path or a name.
        what: What it was given for, at the beginning of the sentence.

    Raises:
        InputError: It does; the sentence does not repeat them.
    """
    if re.match(r"s3://[^/]*@", address):
        raise InputError(
            f"{what} {hidden(address)} contains a login.",
            "Use s3://BUCKET/…, and give the keys by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
