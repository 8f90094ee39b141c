"""The parameters of the DAG on a cluster: settings and pod options, checked against each other."""

import math
from collections.abc import Mapping
from typing import Any

from components.core.errors import InputError
from components.core.settings import Settings
from components.core.training import deadlines
from pipelines.kubeflow.pods import FINE_TUNING, HOME, SEARCHING_IN_PODS, STORAGE, WITHOUT_SEARCH, Cluster


def parameters(source: str, settings: Settings, cluster: Cluster) -> dict[str, Any]:
    """The DAG's parameters; `search_workers` pods search, each with one process; 0: one pod, a process per GPU or CPU.

    Where several pods search, the DAG is the one that does, and takes a number for each.

    The run's key is left out, so each pod takes Kubeflow's id of its run: a key given here would be repeated by every
    run of a schedule, and by a clone.

    Raises:
        InputError: The pods can't read the source, several can't share a study, or a timeout comes before a deadline.
    """
    on_volume = bool(cluster.volume) and source.startswith(f"{HOME}/")
    if not source.startswith("s3://") and not on_volume:
        raise InputError(
            f"The source {source} is on this machine, where the pods can't read it.",
            f"Copy it to a bucket and use s3://bucket/prefix, or to the --volume and use {HOME}/….",
        )
    _check_timeouts(settings, cluster)
    workers = settings.search_workers if settings.trials else 1
    if workers == 0:  # a pod sees all cores of its node, and one process for each would need their memory
        cpus = cluster.of("cpu", "search")
        processes = int(cpus[:-1]) // 1000 if cpus.endswith("m") else int(float(cpus or 1))
        processes = int(cluster.of("accelerators", "search")) or processes  # each GPU takes one
        settings = settings.model_copy(update={"search_workers": max(1, processes)})
    if workers > 1 and STORAGE not in cluster.names():
        raise InputError(
            f"{workers} search workers need a study that they can share.",
            f"Set its database with --secret-env SECRET:KEY={STORAGE}, or --search-workers 1.",
        )
    if workers <= 1:
        return {"source": source, "settings": settings.to_json(), "run_key": ""}
    settings = settings.model_copy(update={"search_workers": 1})
    return {"source": source, "settings": settings.to_json(), "run_key": "", "search_workers": list(range(workers))}


def dag_of(given: Mapping[str, Any]) -> str:
    """The DAG that takes these parameters, as `compile_dag` names it."""
    if Settings.from_json(given["settings"]).trials == 0:
        return WITHOUT_SEARCH
    return SEARCHING_IN_PODS if "search_workers" in given else FINE_TUNING


def _check_timeouts(settings: Settings, cluster: Cluster) -> None:
    """Refuse a timeout that would kill a step before its deadline lets it stop with the best so far."""
    deadline, own = 60 * settings.max_minutes, 60 * settings.step_max_minutes
    # of the run's minutes the last part is no step's own; the others begin when a step's work does
    needed = {f"--max-minutes {settings.max_minutes:g}": deadline} if deadline else {}
    needed |= {f"--step-max-minutes {settings.step_max_minutes:g}": deadlines.patience(own)} if own else {}
    for step in deadlines.SHARES if needed else ():
        option, seconds = min(needed.items(), key=lambda item: item[1])
        minutes = int(cluster.of("timeout", step) or 0)
        if 0 < minutes < seconds / 60:
            raise InputError(
                f"--timeout {minutes} would end the step {step} before {option} lets it stop with the best so far.",
                f"Use --timeout {step}={math.ceil(seconds / 60)} or more.",
            )
