"""States of a training in S3, where a pod that is started again finds them: `THAWLINE_STATES=s3://bucket/prefix`.

A state has the key of its path below the home's `runs`: `PREFIX/RUN_KEY/training/STEP/…`. It is sent when it is
written, and the last ones are kept there as on the disk. What is fetched has its checksum in its name, as on the disk;
so whoever can write to the prefix can change what is trained.
"""

import os
import re
from pathlib import Path

from components.core.errors import ExpectedError, InputError
from components.core.storage import home_folder, outages
from components.core.storage.addresses import check_no_login

VARIABLE = "THAWLINE_STATES"
_STATE = re.compile(r"\d{9}-[0-9a-f]{64}\.safetensors")


def prefix() -> str:
    """Return the S3 prefix of the states, without a slash at its end; empty if there is none.

    Raises:
        InputError: `THAWLINE_STATES` is no address of a bucket.
    """
    given = os.environ.get(VARIABLE, "")
    if not given:
        return ""
    if not given.startswith("s3://") or not given.removeprefix("s3://").strip("/"):
        raise InputError(f"{VARIABLE} can't be {given!r}.", "Use s3://bucket/prefix.")
    check_no_login(given, VARIABLE)
    return given.rstrip("/")


def send(path: Path, kept: int) -> None:
    """Copy a state to the prefix, and drop all but the last `kept` of its folder there; a failure is told, and no more.

    Raises:
        InputError: `THAWLINE_STATES` is no address of a bucket.
    """
    address = _address(path.parent)
    if not address:
        return
    from components.core.storage import s3  # boto3 costs half a second

    try:
        s3.upload(path, f"{address}/{path.name}", patient=False)
        for name in _names(address, patient=False)[:-kept]:
            s3.delete(f"{address}/{name}")
    except (ExpectedError, OSError) as error:
        outages.current()[1](f"The state of the training is on this machine alone: {error}")


def fetch(folder: Path) -> None:
    """Bring the states of a folder that are in the prefix, unless the folder has some of its own.

    Raises:
        InputError: They can't be fetched, for a reason that the sentence tells.
    """
    address = _address(folder)
    if not address or any(folder.glob("*.safetensors")):
        return
    from components.core.storage import s3  # as above

    for name in _names(address, patient=True):
        folder.mkdir(parents=True, exist_ok=True)
        s3.download(f"{address}/{name}", folder / name)


def _address(folder: Path) -> str:
    """Return where the states of a folder are; empty for a folder outside of the home's runs."""
    runs, found = home_folder.home() / "runs", prefix()
    return f"{found}/{folder.relative_to(runs).as_posix()}" if found and folder.is_relative_to(runs) else ""


def _names(address: str, *, patient: bool) -> list[str]:
    """The states right below an address, the oldest first."""
    from components.core.storage import s3  # as above

    found = (uri.removeprefix(f"{address}/") for uri, _, _ in s3.list_objects(f"{address}/", patient=patient))
    return sorted(name for name in found if _STATE.fullmatch(name))
