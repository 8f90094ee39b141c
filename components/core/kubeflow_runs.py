"""What Kubeflow's own API says of a run, asked from a pod of the same cluster."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import requests

API = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"  # where its manifests put it
SECONDS = 5.0  # that it has to answer
_ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")  # where Kubeflow has several users
_OK, _NOT_FOUND = 200, 404  # HTTP


class Known(NamedTuple):
    """What became of a run."""

    ended: bool
    reason: str = ""  # why it ended, as a sentence goes on after "the run"


def mine(run_key: str) -> str:
    """Names the cluster that runs this pod; empty if this run's key is not Kubeflow's id of it.

    A run of another cluster is unknown to this one's API, and so is one that was deleted.
    """
    if not run_key or os.environ.get("THAWLINE_RUN_KEY") != run_key:
        return ""
    try:
        return hashlib.sha256(_ACCOUNT.read_bytes()).hexdigest()[:16]
    except OSError:  # pods need not have the account's files
        return os.environ.get("KUBERNETES_SERVICE_HOST", "") or "kubeflow"


def state(run_id: str) -> Known | None:
    """What became of a run of this cluster; None where Kubeflow does not answer, or does not let this pod ask.

    `THAWLINE_KUBEFLOW_API` is the API's address where it is another than that of Kubeflow's own manifests.
    """
    token = _TOKEN.read_text().strip() if _TOKEN.exists() else ""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    base = os.environ.get("THAWLINE_KUBEFLOW_API") or API
    try:
        answer = requests.get(f"{base.rstrip('/')}/apis/v2beta1/runs/{run_id}", headers=headers, timeout=SECONDS)
        if answer.status_code == _NOT_FOUND:
            return Known(ended=True, reason="was deleted on Kubeflow")
        if answer.status_code != _OK:
            return None
        found = answer.json()
        return _known(str(found.get("state", "")), [str(one.get("state")) for one in found.get("state_history") or []])
    except (requests.RequestException, ValueError, AttributeError):
        return None


def _known(state: str, history: list[str]) -> Known | None:
    if state in _ENDED:
        canceled = "CANCELING" in history or state == "CANCELED"  # Kubeflow calls a terminated run failed
        return Known(ended=True, reason="was terminated on Kubeflow" if canceled else f"ended there as {state.lower()}")
    return Known(ended=False) if state else None
