"""The checks of `thawline doctor --cluster`: a canary run in the pods, and the meaning of its findings."""

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from components.core import run_folder
from components.core.errors import ExpectedError

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.kubeflow.pods import Cluster

CANARY = {
    "accelerators": {"default": "0"},
    "cpu": {"default": "500m"},
    "memory": {"default": "2Gi"},
    "timeout": {"default": "10"},
}
STEPS = ("look", "look_again", "stay_out", "count", "gather", "receive", "fail_once", "tell")
NUMBERS = [0, 7]  # a zero is what a lost value looks like
PLANNED = {"fail-once"}  # as Kubeflow calls the step that fails on purpose
UPDATE = "Update Kubeflow Pipelines to 2.17 or newer."
STORE = "Files go through its object store: check that it has room and that the pods can reach it."
WAIT_MINUTES = 30.0  # a canary whose pods can't begin would be waited for without end
PROMISES = {  # of a cluster: what `components/core/tracking/canary.py` finds, and a hint where it is not kept
    "secrets": ("Secrets in the pods", "Create the secrets of --secret-env in the namespace."),
    "written": (
        "Volume can be written",
        "Make the image's user, 10001, the owner of the --volume claim (see docs/server.md).",
    ),
    "shared": ("Volume is shared", "Use a --volume claim that several pods can mount (ReadWriteMany)."),
    "key": ("Run id in the pods", f"{UPDATE} Steps identify their run by that label."),
    "s3": ("S3 from the pods", "Check the AWS variables in --env and --secret-env."),
    "condition": ("Branch that has to run", UPDATE),
    "skipped": ("Branch that must not run", UPDATE),
    "loop": ("Integers and files in a loop", f"{UPDATE} {STORE}"),
    "collected": ("Results of a loop", UPDATE),
    "inner": ("Outputs of an inner pipeline", f"{UPDATE} {STORE}"),
    "retried": (
        "A step after an error",
        (
            "Leave Argo's retryPolicy at OnError: under Always the template defaults of Kubeflow 2.17 "
            "restart whole branches, level by level (docs/kubeflow.md, Failures)."
        ),
    ),
    "exit": (
        "Exit handler",
        ("Check the run's page: the exit handler did not run, did not reach MLflow, or received an unknown status."),
    ),
}


class Check(NamedTuple):
    """One thing looked at; `hint` is what to do, or the command that does it; empty where nothing is wrong."""

    name: str
    ok: bool
    found: str
    hint: str
    needed: bool = True


def examine_cluster(cluster: "Cluster", host: str, namespace: str, source: str, console: "Console") -> list[Check]:
    """Submit a canary run with the pods' own options, wait for it, and check each promise.

    What it found in the pods is read from MLflow, so MLFLOW_TRACKING_URI must be set here too.

    Raises:
        InputError: The token or the rights are missing.
        StepError: Kubeflow can't be reached or refused.
    """
    from pipelines.kubeflow.client import call, connect, experiment, page_of
    from pipelines.kubeflow.submission import follow, publish, tell

    client, run_key = connect(host, namespace), run_folder.new_run_key()
    release = _release(client)
    small = cluster.model_copy(update=CANARY)
    ids = publish(client, small, namespace, console, "canary")
    secrets = ",".join(name for _, _, name in cluster.secrets())
    run = call(
        client,
        "run_pipeline",
        experiment_id=experiment(client, "thawline-canary", namespace),
        job_name=f"canary {run_key}",
        params={"run_key": run_key, "secrets": secrets, "source": source, "numbers": NUMBERS},
        service_account=cluster.service_account or None,
        **ids,
    )
    link = page_of(client, "runs", run.run_id)
    tell(console, f"Run         {link}")
    tell(console, "Its step fail_once fails at its first attempt, on purpose.")
    run = follow(client, str(run.run_id), link, console, STEPS, namespace=namespace, minutes=WAIT_MINUTES)
    state, ended = str(run.state), _ended(run, link)
    found, silence = _findings(run_key)
    reached = _reached(found, silence, cluster, link)
    return [release, ended, reached, *(_promises(found, state, cluster, source, link) if found else [])]


def _release(client: Any) -> Check:  # noqa: ANN401 - kfp is untyped
    from pipelines.kubeflow.client import OLDEST, is_release, server_version, too_old

    version = server_version(client)
    if not is_release(version):
        return Check("Kubeflow Pipelines", ok=True, found="its release is unknown", hint="", needed=False)
    ok = not too_old(client)
    return Check("Kubeflow Pipelines", ok, version, "" if ok else f"Update it to {OLDEST} or newer.")


def _ended(run: Any, link: str) -> Check:  # noqa: ANN401 - kfp_server_api's run
    """Report how the run ended; only its last step was meant to fail."""
    name = "Canary run"
    if run.state == "SUCCEEDED":
        return Check(name, ok=True, found="succeeded", hint="")
    tasks = (run.run_details and run.run_details.task_details) or []
    broken = {str(task.display_name).partition("(")[0] for task in tasks if task.state == "FAILED"}
    broken = {task for task in broken if task.removesuffix("-driver").replace("-", "_") in STEPS}
    if run.state == "FAILED" and broken == PLANNED:
        return Check(name, ok=True, found="failed, as planned, by its last step", hint="")
    where = f" in {', '.join(sorted(broken - PLANNED))}" if broken - PLANNED else ""
    return Check(name, ok=False, found=f"{run.state.lower()}{where}", hint=f"See {link}")


def _findings(run_key: str) -> tuple[dict[str, str], str]:
    """Read what the pods wrote into MLflow, or say why that can't be read here."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return {}, "MLFLOW_TRACKING_URI is not set here"
    from components.core.tracking import canary
    from components.core.tracking.service import connection

    try:
        with connection.explained():
            return canary.findings(run_key), ""
    except ExpectedError as error:
        return {}, error.sentence
    except Exception as error:  # noqa: BLE001 - mlflow raises what its transport does
        return {}, f"it can't be read here ({type(error).__name__})"


def _reached(found: dict[str, str], silence: str, cluster: "Cluster", link: str) -> Check:
    """Report whether the pods reached MLflow, and what they lack for it, as far as it can be known here."""
    name = "MLflow from the pods"
    if found:
        return Check(name, ok=True, found="reached", hint="")
    if silence:
        hint = "Use --tracking-uri, or set MLFLOW_TRACKING_URI here, so that the pods' findings can be read."
        return Check(name, ok=False, found=silence, hint=hint)
    if "MLFLOW_TRACKING_URI" not in cluster.names():
        hint = "Use --env MLFLOW_TRACKING_URI=http://… for the pods, or set up Kubeflow's MLflow plugin."
        return Check(name, ok=False, found="nothing was found there, and the pods have no address", hint=hint)
    hint = f"Check that the pods use the same server as this command, and check the log of the step look: {link}"
    return Check(name, ok=False, found="nothing was found there", hint=hint)


def _promises(found: dict[str, str], state: str, cluster: "Cluster", source: str, link: str) -> list[Check]:
    """A line for each promise; one whose step did not run is not blamed for what stopped the run before it."""
    unasked = {"secrets": not cluster.secret_env, "shared": not cluster.volume, "s3": not source}
    judged = {promise: (text == "ok", text) for promise, text in found.items()}
    judged["exit"] = _exit(found, state)
    if "attempts" in found:
        once = found["attempts"] == "1"
        judged["retried"] = once, "not started again" if once else "started again"
    checks = []
    for promise, (name, hint) in PROMISES.items():
        needed = promise != "retried"
        if unasked.get(promise):
            checks.append(Check(name, ok=True, found="not requested", hint="", needed=False))
        elif promise in judged:
            ok, text = judged[promise]
            checks.append(Check(name, ok, text, "" if ok else hint, needed))
        else:
            checks.append(Check(name, ok=False, found="not reached", hint=f"See {link}", needed=needed))
    return checks


def _exit(found: dict[str, str], state: str) -> tuple[bool, str]:
    """Report whether the exit handler judged the run's end correctly, and Kubeflow's word for it."""
    if "exit" not in found:
        return False, "nothing"
    read = found.get("closed", "nothing")
    return read == (
        "succeeded" if state == "SUCCEEDED" else "failed"
    ), f"received {found['exit']} and read it as {read}"
