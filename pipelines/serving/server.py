"""The server: loads a model, listens, and ends when it is asked to, after the last answer."""

import logging
import signal
import socket
from functools import partial

import uvicorn
from rich.console import Console

from components.core.errors import InputError
from components.core.tracking.service import connection
from pipelines.serving.app import Limits, build
from pipelines.serving.batching import threads
from pipelines.serving.following import Following
from pipelines.serving.loading import Loaded, load

END_SECONDS = 30  # that requests in progress have to be answered
IDLE_SECONDS = 75  # of a connection: more than the minute of common proxies, which would else send into a closed one


def run(name: str, wanted: str, host: str, port: int, limits: Limits, *, exported: bool) -> None:
    """Serve until SIGTERM or SIGINT; the listening socket is there before the model, which takes seconds to load.

    Raises:
        InputError: There is no such model or version, or the address can't be used.
        StepError: The version's files are not what was registered.
    """
    with _listening(host, port) as listening:
        console = Console(stderr=True)
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        connection.open_store()
        with console.status(f"Loading {name}"):
            loaded = load(name, wanted, threads(), exported=exported)
        following = Following(loaded, wanted, partial(_next, name, exported))
        place = f"[{host}]" if ":" in host else host
        console.print(
            f"{name} version {loaded.version} answers at http://{place}:{listening.getsockname()[1]}/predict, by "
            f"{loaded.engine}; /docs describes it (stop it with Ctrl-C)",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        config = uvicorn.Config(
            build(following, limits),
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=END_SECONDS,
            timeout_keep_alive=IDLE_SECONDS,
        )
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises it again after the last answer: that is no news
            signal.signal(number, lambda _number, _frame: None)
        uvicorn.Server(config).run(sockets=[listening])


def _next(name: str, exported: bool, version: str) -> Loaded:  # noqa: FBT001 - bound by position
    return load(name, version, threads(), exported=exported)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: It can't.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(
            f"Can't listen on {host}:{port}: {(error.strerror or str(error)).partition(' (')[0].lower()}.",
            "Choose another one with --host and --port; --port 0 takes a free one.",
        ) from error
