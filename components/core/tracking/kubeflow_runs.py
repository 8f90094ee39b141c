"""The state of a run in Kubeflow's API, asked from a pod of the same cluster."""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import requests

from components.core.tracking import endings

API = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"  # where its manifests put it
SECONDS = 5.0  # that it has to answer
_ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")  # where Kubeflow has several users
_OK, _NOT_FOUND = 200, 404  # HTTP
_UNKNOWN = 5  # gRPC: there is no such run


class Known(NamedTuple):
    """The state of a run."""

    ended: bool
    word: str = ""  # Kubeflow's of its end; empty where it does not know the run any more
    reason: str = ""  # why it ended, as a sentence goes on after "the run"


def mine(run_key: str) -> str:
    """Names the cluster that runs this pod; empty if this run's key is not Kubeflow's id of it, or nothing tells.

    A run of another cluster is unknown to this one's API, and so is one that was deleted.
    """
    if not run_key or os.environ.get("THAWLINE_RUN_KEY") != run_key:
        return ""
    try:
        return hashlib.sha256(_ACCOUNT.read_bytes()).hexdigest()[:16]
    except OSError:  # pods need not have the account's files
        return ""


def state(run_id: str, own: str) -> Known | None:
    """Return the state of a run of this cluster; None if Kubeflow does not answer or denies access.

    `THAWLINE_KUBEFLOW_API` is the API's address where it is another than that of Kubeflow's own manifests.

    Args:
        run_id: Of the run that is asked for.
        own: Of the run that asks: where that is not known either, some other server answers.
    """
    status, found = _asked(run_id)
    if status == _NOT_FOUND and found.get("code") == _UNKNOWN and _asked(own)[0] == _OK:
        return Known(ended=True, reason="was deleted on Kubeflow")
    if status != _OK or not (word := str(found.get("state") or "")):
        return None
    if word not in _ENDED:
        return Known(ended=False, word=word)
    history = [str(one.get("state")) for one in found.get("state_history") or []]
    ended = "was terminated on Kubeflow" if endings.is_terminated(word, history) else f"ended there as {word.lower()}"
    return Known(ended=True, word=word, reason=ended)


def _asked(run_id: str) -> tuple[int, dict[str, Any]]:
    """HTTP status and answer; 0 where there is none."""
    token = _TOKEN.read_text().strip() if _TOKEN.exists() else ""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    base = os.environ.get("THAWLINE_KUBEFLOW_API") or API
    try:
        answer = requests.get(f"{base.rstrip('/')}/apis/v2beta1/runs/{run_id}", headers=headers, timeout=SECONDS)
        found = answer.json()
    except (requests.RequestException, ValueError):
        return 0, {}
    return answer.status_code, found if isinstance(found, dict) else {}
