"""Use the CPUs that this process may use, and no more."""

import os
from collections.abc import MutableMapping


def available() -> int:
    """Return how many CPUs this process may use: by its affinity and its container's quota, rounded up."""
    from joblib import cpu_count  # type: ignore[import-untyped]  # it publishes no types

    return int(cpu_count())


def limit_threads(environment: MutableMapping[str, str]) -> None:
    """Set what OpenMP and OpenBLAS read when they are loaded, unless it is set.

    Waiting threads sleep. If they spin, which is OpenMP's default, the demo takes a quarter longer on two idle cores,
    and far longer beside other work. OpenMP sees the affinity, but no quota: on 64 cores a pod of 2 would have 64
    threads.

    OpenBLAS serves numpy and scipy, not PyTorch. Its threads always spin, and solvers ask for many small products: with
    two of them a solved head takes up to ten times the CPU seconds, and a fit on 10,000 rows twice as many.
    """
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    count = available()
    if count < (os.cpu_count() or 1):
        environment.setdefault("OMP_NUM_THREADS", str(count))
