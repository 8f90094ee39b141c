"""Processes of tests as forks of one that has the libraries loaded, which is what the steps of a local run are, too."""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

from pipelines.local import warm_process

# Of the processes that tests start: a new interpreter takes seconds to import them.
LIBRARIES = [
    warm_process.FIRST,
    "tests.support.moves",
    "tests.fakes.toy",
    "components.core.searching.trials",
    "components.core.fitting.data",
    "components.core.training.phase",
]
LIBRARIES += ["torch", "optuna", "sklearn.linear_model", *warm_process.LOCAL_STORE]


class Forks(ForkServerContext):
    """A context whose processes know this one's variables, which may be others than when the server started."""

    def Process(  # type: ignore[override]  # noqa: N802 - a class in the standard library
        self, *, target: Callable[..., object], args: tuple[Any, ...] = (), daemon: bool | None = None
    ) -> BaseProcess:
        """Make a process."""
        return super().Process(target=_execute, args=(dict(os.environ), target, args), daemon=daemon)


def context() -> Forks:
    """Return the context; the first process that is started loads the libraries."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(LIBRARIES)
    return Forks()


def _execute(environment: Mapping[str, str], target: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)
