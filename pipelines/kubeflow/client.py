"""Kubeflow's API through kfp's own client: connect, upload a version, follow a run; errors as one sentence."""

import contextlib
import functools
import io
import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.errors import InputError, StepError
from components.core.tracking import endings

if TYPE_CHECKING:
    from pipelines.kubeflow.pods import Compiled

TIMEOUT = (10, 30)  # seconds to connect, and to answer
PAGE = 100
HEALTH = "/apis/v2beta1/healthz"
ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
TERMINATED = "TERMINATED"  # no word of Kubeflow's, which says FAILED
OLDEST = "2.17.0"  # server that all of this was seen to work with
_MEND = {
    401: "Set a valid token in KFP_EXISTING_TOKEN.",
    403: "Ask for permission, or use another --namespace.",
    404: "Check --host and --namespace.",
    409: "Someone else changed it: try again.",
}


class RefusalError(StepError):
    """A refusal by Kubeflow for a reason other than the caller's token or rights, with its HTTP status."""

    def __init__(self, sentence: str, hint: str, status: int) -> None:
        super().__init__(sentence, hint)
        self.status = status


def connect(host: str, namespace: str) -> Any:  # noqa: ANN401 - kfp is untyped
    """A client of the Kubeflow at `host`, or of the cluster whose pod this is.

    A token is taken from `KFP_EXISTING_TOKEN`, as kfp's own command line does; otherwise kfp looks for credentials.

    Raises:
        InputError: Not a valid address, none where one is needed, or the token lacks access.
        StepError: The server can't be reached, or does not answer.
    """
    if host and not host.startswith(("http://", "https://")):
        raise InputError(f"{host!r} is not an address of Kubeflow.", "Use --host https://….")
    if not (host or _has_cluster()):  # kfp would try this machine for half a minute
        raise InputError("No Kubeflow is known here.", "Use --host https://…, or set KF_PIPELINES_ENDPOINT.")
    from kfp import Client
    from kfp_server_api import V2beta1GetHealthzResponse

    where = f"at {host}" if host else "of this cluster"

    class Connected(Client):  # type: ignore[misc]  # kfp is untyped
        """kfp's client without its five tries of five seconds to reach a server that refuses."""

        version = ""

        def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:  # noqa: ANN401, ARG002 - kfp's signature
            api = _hasty(self._healthz_api.api_client)
            how = {"auth_settings": ["Bearer"], "_return_http_data_only": True, "_request_timeout": TIMEOUT}
            answer = api.call_api(HEALTH, "GET", response_type="object", **how)  # the method for it drops the version
            facts = answer if isinstance(answer, dict) else {}  # a login page is none
            self.version = str(facts.get("tag_name") or "")
            return V2beta1GetHealthzResponse(multi_user=facts.get("multi_user"))

    with said(where), warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # which servers this client is for
        token = os.environ.get("KFP_EXISTING_TOKEN")
        client = Connected(host=host or None, namespace=namespace or "kubeflow", existing_token=token)
        client.where = where
        api = _hasty(client._run_api.api_client)  # noqa: SLF001 - kfp gives no way to set a timeout
        api.request = functools.partial(_request, api.request)
        return client


def _has_cluster() -> bool:
    """Return whether kfp finds an address by itself: in the environment, the pod's cluster, or a kubeconfig."""
    if os.environ.get("KF_PIPELINES_ENDPOINT") or os.environ.get("KUBERNETES_SERVICE_HOST"):
        return True
    return bool(os.environ.get("KUBECONFIG")) or (Path.home() / ".kube/config").exists()


def _hasty(api: Any) -> Any:  # noqa: ANN401 - kfp_server_api's client
    """The client with one more try instead of three, which would take minutes."""
    api.rest_client.pool_manager.connection_pool_kw["retries"] = 1
    return api


def server_version(client: Any) -> str:  # noqa: ANN401 - as above
    """The tag that the server was built from; empty, `unknown` or a branch where it is no release."""
    if not client.version:  # connecting asks only where this machine's settings name no namespace
        call(client, "get_kfp_healthz")
    return str(client.version)


def too_old(client: Any) -> str:  # noqa: ANN401 - as above
    """A warning about a server older than `OLDEST`; empty where it is not, or does not say."""
    version = server_version(client)
    if not is_release(version) or _numbers(version) >= _numbers(OLDEST):
        return ""
    return f"Kubeflow {client.where} is version {version}; Thawline is known to work with {OLDEST} and newer."


def is_release(version: str) -> bool:
    """Return whether a tag names a release; a release candidate counts as one."""
    return bool(_numbers(version))


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else ()


def _request(send: Callable[..., Any], *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - kfp_server_api's
    options["_request_timeout"] = options.get("_request_timeout") or TIMEOUT
    return send(*arguments, **options)


@contextlib.contextmanager
def said(where: str) -> Iterator[None]:
    """Say what a server refused, or that it was not reached, in one sentence."""
    from kfp_server_api import ApiException
    from urllib3.exceptions import ConnectTimeoutError, HTTPError, MaxRetryError, NewConnectionError
    from urllib3.exceptions import TimeoutError as TooSlow

    try:
        yield
    except ApiException as error:
        message = _message(error.body) or error.reason
        sentence = f"Kubeflow {where} refused ({error.status}): {message}."
        if error.status in (401, 403):
            raise InputError(sentence, _MEND[error.status]) from None
        hint = _MEND.get(error.status, "Check the log of its ml-pipeline, and try again.")
        raise RefusalError(sentence, hint, error.status) from None
    except HTTPError as error:
        cause = error.reason if isinstance(error, MaxRetryError) else error
        if isinstance(cause, TooSlow) and not isinstance(cause, NewConnectionError):  # a refused one is one of these
            seconds = TIMEOUT[0 if isinstance(cause, ConnectTimeoutError) else 1]
            raise StepError(f"Kubeflow {where} did not answer within {seconds} s.", "Try again.") from None
        raise StepError(f"Kubeflow {where} can't be reached.", "Check --host, and that the server is up.") from None


def _message(body: str | bytes | None) -> str:
    """Return the first sentence of the server's message."""
    try:
        found = json.loads(body or "{}")
    except ValueError:
        return ""
    text = str(found.get("message") or found.get("error") or "") if isinstance(found, dict) else ""
    return text.partition("\n")[0].strip().rstrip(".")[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what kfp prints off stdout, which is for results."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def call(client: Any, method: str, /, **inputs: Any) -> Any:  # noqa: ANN401 - kfp is untyped
    """Call a method of kfp's client; what it raises is a sentence.

    Raises:
        InputError: The token or the rights are missing.
        StepError: Any other refusal, or no answer.
    """
    with said(client.where), _quiet():
        return getattr(client, method)(**inputs)


def every(client: Any, method: str, items: str, /, **inputs: Any) -> list[Any]:  # noqa: ANN401 - as above
    """All items of a list that the server gives in pages."""
    found: list[Any] = []
    token = ""
    while True:
        page = call(client, method, page_token=token, page_size=PAGE, **inputs)
        found += getattr(page, items) or []
        token = page.next_page_token or ""
        if not token:
            return found


def equals(key: str, value: str) -> str:
    """A filter of the API: the field `key` is `value`."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "stringValue": value}]})


def upload(client: Any, name: str, namespace: str, compiled: "Compiled") -> tuple[str, str, bool]:  # noqa: ANN401 - as above
    """The pipeline's id, that of its version that holds `compiled`, and whether that had to be uploaded."""
    version = f"{name}-{compiled.digest[:16]}"  # also the name of a Kubernetes object, where Kubeflow keeps them so
    named = equals("display_name", name)
    found = every(client, "list_pipelines", "pipelines", namespace=namespace or None, filter=named)
    pipeline = str(found[0].pipeline_id) if found else _create_pipeline(client, name, namespace)
    named = equals("display_name", version)
    versions = every(client, "list_pipeline_versions", "pipeline_versions", pipeline_id=pipeline, filter=named)
    if versions:
        return pipeline, str(versions[0].pipeline_version_id), False
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dag.yaml"
        path.write_text(compiled.yaml)
        uploaded = call(
            client,
            "upload_pipeline_version",
            pipeline_package_path=str(path),
            pipeline_version_name=version,
            pipeline_id=pipeline,
            description=f"sha256 {compiled.digest}",
        )
    return pipeline, str(uploaded.pipeline_version_id), True


def _create_pipeline(client: Any, name: str, namespace: str) -> str:  # noqa: ANN401 - as above
    """A pipeline without a version: one that is uploaded as a whole bears the pipeline's name, not the digest's."""
    from kfp_server_api import V2beta1Pipeline

    with said(client.where):
        made = client._pipelines_api.pipeline_service_create_pipeline(  # noqa: SLF001 - kfp has no method for it
            V2beta1Pipeline(name=name, display_name=name, namespace=namespace or None)
        )
    return str(made.pipeline_id)


def experiment(client: Any, name: str, namespace: str) -> str:  # noqa: ANN401 - as above
    """The id of an experiment in Kubeflow, made on demand."""
    return str(call(client, "create_experiment", name=name, namespace=namespace or None).experiment_id)


def word_of(run: Any) -> str:  # noqa: ANN401 - kfp_server_api's run
    """Kubeflow's word on a run, but `TERMINATED` where somebody ended it, which Kubeflow calls FAILED too."""
    state = str(run.state or "PENDING")
    return TERMINATED if endings.is_terminated(state, [one.state for one in run.state_history or []]) else state


def page_of(client: Any, kind: str, identity: str) -> str:  # noqa: ANN401 - as above
    """Address of the page of a run (`runs`) or a recurring run (`recurringrun`)."""
    root = client._get_url_prefix()  # noqa: SLF001 - where kfp's own messages take it from
    return f"{root}/#/{kind}/details/{identity}"


def delete_recurring_run(client: Any, identity: str) -> None:  # noqa: ANN401 - as above
    """Delete a recurring run that may be gone already; Kubeflow 2.16 and newer then leave its runs alone."""
    from kfp_server_api import ApiException

    with said(client.where):
        try:
            client._recurring_run_api.recurring_run_service_delete_recurring_run(  # noqa: SLF001 - kfp hides the policy
                recurring_run_id=identity, propagation_policy="ORPHAN"
            )
        except ApiException as error:
            if error.status != 404:  # noqa: PLR2004 - not found
                raise
