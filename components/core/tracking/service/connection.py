"""The connection to MLflow: where it is, whether it answers, and whose experiment is whose."""

import difflib
import functools
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from components.core.errors import ExpectedError, InputError
from components.core.machine import identity
from components.core.storage import home_folder
from components.core.tracking.service import local_store
from components.core.tracking.service.server import (
    CHECK_SECONDS,
    WRITING,
    check_address,
    failing,
    forbidden,
    is_server,
    refusal,
    unreachable,
)
from components.core.tracking.service.silence import telling

OK, SERVER_ERROR = 200, 500  # HTTP


def client() -> mlflow.MlflowClient:
    """A client of `MLFLOW_TRACKING_URI`, or of the SQLite store in the home folder.

    Explicit run ids everywhere: a stray fluent call after a run has ended would open another one. The address is
    also set globally, because MLflow's own registry asks there when it resolves a logged model.

    Raises:
        InputError: A server's address holds more than that, maybe a password: MLflow's errors would repeat it. Or a pod
            has no address, and would write into a file that goes with it. Or the local store is damaged.
    """
    for way in ("UPLOAD", "DOWNLOAD"):  # past the server, to an S3 address that often only the server reaches
        os.environ.setdefault(f"MLFLOW_ENABLE_PROXY_MULTIPART_{way}", "false")
    uri = home_folder.tracking_uri()
    if is_server(uri):  # in a pod no command line has looked at it
        check_address(uri)
    elif identity.is_pod() and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise InputError(
            "This pod has no MLFLOW_TRACKING_URI, so the results of the run would be lost.",
            "Use --env MLFLOW_TRACKING_URI=http://…, or let Kubeflow's MLflow plugin set it (injectUserEnvVars).",
        )
    # of a local store it logs each error with a traceback, and raises it too: on a full disk that is one sentence
    told = logging.getLogger("mlflow.store.db.utils")
    if told.level != logging.CRITICAL:  # each time makes all loggers of the process look up their levels again
        told.setLevel(logging.CRITICAL)
    if uri.startswith("sqlite:///"):
        local_store.check(Path(uri.removeprefix("sqlite:///")))
    mlflow.set_tracking_uri(uri)
    found = _client_of(uri)
    return telling(found) if is_server(uri) else found


@functools.cache
def _client_of(uri: str) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(uri)


def every(search: Callable[..., Any], **conditions: Any) -> Iterator[Any]:  # noqa: ANN401 - mlflow publishes no types
    """All that a search of the client's finds, fetched page by page as it is asked for."""
    token: str | None = ""
    while token is not None:
        page = search(**conditions, page_token=token or None)
        yield from page
        token = page.token or None


def open_store() -> None:
    """Make the store ready for a command: ask the server whether it is there and knows us, or migrate the local one.

    Raises:
        InputError: The server can't be reached, or refuses; the local store is damaged.
    """
    if is_server(home_folder.tracking_uri()):
        check_server()
        return
    with explained():
        local_store.migrate()


def check_server(model: str = "") -> None:
    """Ask an MLflow server once, without the minutes of retries that a run may spend.

    Args:
        model: Whose experiment and versions will be written, if any; where the server has no permissions to tell of,
            a run finds out.

    Raises:
        InputError: It can't be reached, refuses the login, or lets it read only.
    """
    uri = home_folder.tracking_uri()
    answer = _asked("/api/2.0/mlflow/experiments/search", max_results=1)
    if answer.status_code != OK:
        raise refusal(uri, answer.status_code, answer.text) or failing(uri, answer.status_code, answer.text)
    user = get_default_host_creds(uri).username  # type: ignore[no-untyped-call]  # mlflow types a part of itself
    if not model or not user:
        return
    found = client().get_experiment_by_name(model)
    wanted = {"experiment": found.experiment_id} if found else {}
    wanted |= {"registered_model": model} if client().search_registered_models(f"name = '{model}'") else {}
    for kind, name in wanted.items():
        answer = _asked("/api/3.0/mlflow/users/permissions/get", username=user, resource_type=kind, resource_id=name)
        if answer.status_code == OK and answer.json().get("permission") not in WRITING:
            raise forbidden(uri, f"the {kind.replace('_', ' ')} {model!r}")


def _asked(path: str, **question: Any) -> Any:  # noqa: ANN401 - any JSON value; mlflow publishes no types
    uri = home_folder.tracking_uri()
    login = get_default_host_creds(uri)  # type: ignore[no-untyped-call]  # as above
    once = {"max_retries": 0, "timeout": CHECK_SECONDS, "raise_on_status": False}
    try:
        return http_request(login, path, "GET", **once, params=question)  # type: ignore[no-untyped-call]  # as above
    except MlflowException as error:
        raise unreachable(uri) from error


def explanation(error: Exception) -> InputError | None:
    """A server's silence or refusal, or a damaged local store, as one sentence; None for every other error."""
    if damaged := local_store.damage(error):
        return damaged
    uri = home_folder.tracking_uri()
    if not isinstance(error, MlflowException) or not is_server(uri):
        return None
    status = error.get_http_status_code()  # type: ignore[no-untyped-call]  # as above
    if status == SERVER_ERROR and "API request to" in error.message:
        repeated = re.search(r"too many (\d+) error responses", error.message)  # mlflow keeps no more of the answers
        return failing(uri, int(repeated[1])) if repeated else unreachable(uri)
    return refusal(uri, status, error.message)


@contextmanager
def explained() -> Iterator[None]:
    """Turn a server's silence or refusal, or a damaged local store, into one sentence."""
    try:
        yield
    except ExpectedError:
        raise
    except Exception as error:
        known = explanation(error)
        if known is None:
            raise
        raise known from error


def experiment(model: str) -> str:
    """The id of the model's experiment; Kubeflow's plugin may bring another, or a run that lies in another."""
    given, adopted = os.environ.get("MLFLOW_EXPERIMENT_ID"), os.environ.get("MLFLOW_RUN_ID")
    return given or (_experiment_of(adopted) if adopted else own_experiment(model))


@functools.cache
def _experiment_of(run_id: str) -> str:
    return str(client().get_run(run_id).info.experiment_id)


def check_known(model: str) -> None:
    """Check that a model has runs or versions, without creating anything for it.

    Raises:
        InputError: It has none; the hint names models that are spelled alike.
    """
    if client().get_experiment_by_name(model) or client().search_registered_models(f"name = '{model}'"):
        return
    names = [found.name for found in client().search_experiments() if found.name != "Default"]
    near = difflib.get_close_matches(model, names)
    hint = f"Did you mean {' or '.join(near)}?" if near else "See the models with `thawline models`."
    raise InputError(f"There is no model {model!r}.", hint)


def own_experiment(model: str) -> str:
    """The id of the experiment that bears the model's name, whoever asks; made on demand.

    Raises:
        InputError: It was deleted.
    """
    found = client().get_experiment_by_name(model)
    if found is not None and found.lifecycle_stage != "active":
        hint = "Restore it there, or use another --model."
        raise InputError(f"The experiment {model!r} was deleted on the tracking page.", hint)
    if found is not None:
        return str(found.experiment_id)
    local = home_folder.tracking_uri().startswith("sqlite:///")  # a server knows its own place for artifacts
    location = (home_folder.home() / "artifacts" / model).as_uri() if local else None
    try:
        return str(client().create_experiment(model, artifact_location=location))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return own_experiment(model)  # another step made it just now
