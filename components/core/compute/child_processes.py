"""Start processes that compute beside this one, and end them with it."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.context import ForkServerContext, SpawnContext


def context() -> ForkServerContext | SpawnContext:
    """Return how processes are started: never as forks of this one, whose threads they would inherit halfway.

    A step of a local run is itself the fork of a process that has the libraries loaded; its own processes are forked
    from the same one, which saves their imports. Elsewhere each is a new interpreter.
    """
    return (
        multiprocessing.get_context("forkserver")
        if multiprocessing.parent_process()
        else multiprocessing.get_context("spawn")
    )


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
