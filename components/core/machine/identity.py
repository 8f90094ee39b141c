"""The user of this process."""

import getpass
import os
import socket


def whoami() -> str:
    """The user of this process, as user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def is_pod() -> bool:
    """Return whether this process runs in a pod of Kubeflow."""
    return bool(os.environ.get("KFP_POD_NAME"))
