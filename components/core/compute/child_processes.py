"""Start processes that compute beside this one, and end them with it."""

import multiprocessing
import os
import signal
import threading
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any


def context() -> ForkServerContext | SpawnContext:
    """Return how processes are started: never as forks of this one, whose threads they would inherit halfway.

    A step of a local run is itself the fork of a process that has the libraries loaded; its own processes are forked
    from the same one, which saves their imports. Elsewhere each is a new interpreter.
    """
    if not multiprocessing.parent_process():
        return multiprocessing.get_context("spawn")
    _share_server()
    return multiprocessing.get_context("forkserver")


def _share_server() -> None:
    """Fork this process's children from the server that forked it.

    CPython means to do so, and passes on all that it takes. But only the process that launched the server knows that it
    runs; in any other one it would launch another server, without the libraries.
    """
    server: Any = forkserver._forkserver  # noqa: SLF001 - multiprocessing has no public way
    launch, parent = type(server).ensure_running, os.getppid()

    def ensure_running() -> None:
        if os.getppid() != parent:  # the server is gone, and another process has adopted this one
            launch(server)

    if server._forkserver_pid is None and server._forkserver_address:  # noqa: SLF001 - as above
        server.ensure_running = ensure_running


def end_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """End this process when the one that started it is gone, however that ended.

    The kernel's own way, PR_SET_PDEATHSIG, names the process that forked this one, which is not the one that asked.

    Args:
        by: The signal that this process gets.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait, args=(parent, by), daemon=True).start()


def _wait(parent: multiprocessing.process.BaseProcess, by: signal.Signals) -> None:
    parent.join()
    os.kill(os.getpid(), by)
