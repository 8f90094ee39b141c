"""The outcome of a pipeline run: Kubeflow's status alone is not enough, so MLflow's record decides.

Kubeflow 2.17 says COMPLETE in the exit handler after success, RUNNING after a week in which all branches stayed out,
and SUCCEEDED of the run; kfp's local runner says SUCCEEDED; other releases may say more. All of them agree on the words
for a failure.
"""

from collections.abc import Iterable, Mapping

from components.core.tracking import tag_names

SUCCEEDED, FAILED = "SUCCEEDED", "FAILED"
BROKEN = frozenset({FAILED, "CANCELED"})
UNFINISHED = "The run ended before its last step."


def failed(word: str, *, recorded: bool) -> bool:
    """Return whether a run failed.

    Args:
        word: What the runner calls its state, in the exit handler or in its API.
        recorded: Whether the run's last step left its mark in MLflow; `is_recorded` for runs of the DAG.
    """
    return word.upper() in BROKEN or not recorded


def is_terminated(state: str, history: Iterable[str]) -> bool:
    """Return whether somebody ended a run, from its state in Kubeflow's API (then FAILED) and the states before it."""
    return state.upper() in BROKEN and (state.upper() == "CANCELED" or "CANCELING" in history)


def is_recorded(tags: Mapping[str, str]) -> bool:
    """Return whether the tags of a pipeline's run contain a registration, saved weights or a decision to skip."""
    return bool({tag_names.VERSION, tag_names.PRETRAINED} & tags.keys()) or tags.get(tag_names.SKIPPED) == "true"
