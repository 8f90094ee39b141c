"""A small Kubeflow Pipelines over HTTP: the calls that Thawline makes, with state, and the real API's models.

It refuses what Kubeflow 2.17 was seen to refuse, with its status and its words: fields that the API does not know,
parameters that the uploaded pipeline does not have, a cron expression of another form, texts that its tables do not
hold. What it leaves behind of a refused recurring run is an orphan, as there. Deleting a recurring run ends its runs in
progress, as Kubeflow 2.15 does. `tests/recorded` has answers of the real one, which it can give in its turn.
"""

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlparse

import kfp_server_api as api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.fakes.kubeflow.rules import (
    CODES,
    Refused,
    check_cron,
    check_experiment,
    check_name,
    check_parameters,
    store_error,
    too_long,
)

_MODELS = api.ApiClient()
RECORDED = Path(__file__).parents[2] / "recorded"


@dataclass
class Kubeflow:
    """The state of the server; a test looks at it, and says what is to go wrong."""

    host: str = ""
    version: str = "2.17.0"
    token: str = ""  # that callers must show; empty: none
    slow: float = 0.0  # seconds before each answer
    trouble: Callable[[str, str], tuple[int, str] | None] = lambda _method, _path: None
    die_before: int = -1  # changes that are still carried out; then the line is cut
    die_after: int = -1  # as above, but the last one is carried out and not answered
    cut: bool = False  # nothing is heard any more
    experiments: dict[str, Any] = field(default_factory=dict)
    pipelines: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)  # uploaded YAML by version
    runs: dict[str, Any] = field(default_factory=dict)
    recurring: dict[str, Any] = field(default_factory=dict)
    orphans: dict[str, Any] = field(default_factory=dict)  # refused, but fire, and no list shows them or their runs
    unlisted: dict[str, Any] = field(default_factory=dict)  # runs of these
    calls: list[str] = field(default_factory=list)  # method and path of each request
    scripts: dict[str, Iterator[Any]] = field(default_factory=dict)  # what `get_run` answers next
    next_script: Callable[[Any], Iterator[Any]] | None = None  # for the run that is made next
    most_enabled: int = 0  # recurring runs that were enabled at one time
    _clock: datetime = field(default_factory=lambda: datetime(2026, 3, 2, tzinfo=UTC))

    def now(self) -> datetime:
        self._clock += timedelta(seconds=1)
        return self._clock

    def enabled(self) -> list[Any]:
        return [one for one in self.recurring.values() if one.mode == "ENABLE"]

    def fire(self, recurring_id: str, state: str = "RUNNING") -> str:
        """Start a recurring run's next run, as the controller does when it is due."""
        orphan = recurring_id in self.orphans
        job = self.orphans[recurring_id] if orphan else self.recurring[recurring_id]
        assert job.mode == "ENABLE"
        run = api.V2beta1Run(
            run_id=new_id(),
            display_name=f"Run of {job.display_name}",
            recurring_run_id=recurring_id,
            experiment_id=job.experiment_id,
            created_at=self.now(),
            finished_at=self.now() if state == "SUCCEEDED" else datetime(1970, 1, 1, tzinfo=UTC),
            state=state,
        )
        (self.unlisted if orphan else self.runs)[run.run_id] = run
        return str(run.run_id)


def new_id() -> str:
    return str(uuid.uuid4())


def task(name: str, state: str | None, start: datetime | None, end: datetime | None = None) -> Any:
    """A task of a run as the API tells of it."""
    return api.V2beta1PipelineTaskDetail(display_name=name, state=state, start_time=start, end_time=end)


def script(run: Any, *looks: tuple[str, list[Any]]) -> Iterator[Any]:
    """What looks at a run see, one after another; the last one stays."""
    for state, tasks in looks:
        run.state, run.run_details = state, api.V2beta1RunDetails(task_details=tasks)
        yield run
    while True:
        yield run


def recorded(name: str) -> dict[str, Any]:
    """What a real Kubeflow answered about a run."""
    answer: dict[str, Any] = json.loads((RECORDED / f"run-{name}.json").read_text())
    return answer


def replay(*answers: dict[str, Any]) -> Iterator[Any]:
    """Recorded answers, one after another; the last one stays."""
    yield from answers
    while True:
        yield answers[-1]


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A line that was cut, by us or by a caller who waited long enough, is no news."""


@contextmanager
def serve() -> Iterator[Kubeflow]:
    """A server on 127.0.0.1, with nothing in it."""
    state = Kubeflow()

    class Handler(_Handler):
        kubeflow = state

    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.host = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def read(body: Any, kind: str) -> Any:
    """A request's body as a model of the API; a field that it does not know is refused."""
    _known(body, kind)
    return model_of(body, kind)


def model_of(answer: Any, kind: str) -> Any:
    """What the API's client makes of an answer."""
    return _MODELS.deserialize(type("Holder", (), {"data": json.dumps(answer)}), kind)


def _known(body: Any, kind: str) -> None:
    model = getattr(api, kind, None)
    if model is None or not hasattr(model, "attribute_map") or not isinstance(body, dict):
        return
    names = {json_name: name for name, json_name in model.attribute_map.items()}
    unknown = body.keys() - names.keys()
    if unknown:
        raise Refused(400, f"unknown field {min(unknown)!r} in {kind}")
    for name, value in body.items():
        _known(value, model.openapi_types[names[name]])


class _Handler(BaseHTTPRequestHandler):
    kubeflow: Kubeflow
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: the second waited 40 ms for its caller

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        state, url = self.kubeflow, urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = url.path.removeprefix("/apis/v2beta1")
        state.calls.append(f"{method} {path}")
        time.sleep(state.slow)
        changes = method != "GET" and "recurringruns" in path
        if state.cut or (changes and state.die_before == 0):
            self._cut()
        try:
            self._admit(method, path)
            answer, status = self._carry_out(method, path, query, content), 200
        except Refused as refused:
            status = refused.status
            answer = {"error": str(refused), "code": CODES.get(status, 2), "message": str(refused), "details": []}
        state.most_enabled = max(state.most_enabled, len(state.enabled()))
        if changes and state.die_after == 1:
            self._cut()
        if changes:
            state.die_before, state.die_after = state.die_before - 1, state.die_after - 1
        payload = json.dumps(_MODELS.sanitize_for_serialization(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _admit(self, method: str, path: str) -> None:
        state = self.kubeflow
        if state.token and self.headers.get("Authorization") != f"Bearer {state.token}":
            raise Refused(401, "Request not authenticated")
        wrong = state.trouble(method, path)
        if wrong:
            raise Refused(*wrong)

    def _cut(self) -> NoReturn:
        state = self.kubeflow
        state.die_before, state.die_after, state.cut = -1, -1, True
        self.close_connection = True
        self.connection.close()
        raise ConnectionAbortedError

    def _carry_out(self, method: str, path: str, query: dict[str, str], content: bytes) -> Any:
        kind, _, rest = path.strip("/").partition("/")
        if path == "/pipelines/upload_version":
            return self._upload(query, content)
        if kind == "pipelines" and rest.endswith("/versions"):
            pipeline = rest.removesuffix("/versions")
            held = [v for v in self.kubeflow.versions.values() if v.pipeline_id == pipeline]
            return _page(held, "pipeline_versions", query)
        body = json.loads(content) if content.startswith(b"{") else {}
        handlers = {
            "healthz": lambda: {
                "commit_sha": "0" * 40,
                "tag_name": self.kubeflow.version,
                "multi_user": False,
                "pipeline_store": "database",
            },
            "experiments": lambda: self._experiments(method, query, body),
            "pipelines": lambda: self._pipelines(method, query, body),
            "runs": lambda: self._runs(method, rest, query, body),
            "recurringruns": lambda: self._recurring(method, rest, query, body),
        }
        if kind not in handlers:
            raise Refused(404, f"no such path: {path}")
        return handlers[kind]()

    def _experiments(self, method: str, query: dict[str, str], body: Any) -> Any:
        state = self.kubeflow
        if method == "GET":
            return _page(list(state.experiments.values()), "experiments", query)
        made = read(body, "V2beta1Experiment")
        check_experiment(made.display_name)
        made.experiment_id = new_id()
        state.experiments[made.experiment_id] = made
        return made

    def _pipelines(self, method: str, query: dict[str, str], body: Any) -> Any:
        state = self.kubeflow
        if method == "GET":
            return _page(list(state.pipelines.values()), "pipelines", query)
        made = read(body, "V2beta1Pipeline")
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", made.name or ""):
            raise Refused(400, "the name is no name of a Kubernetes object")
        if len(made.name.encode()) > 128:
            raise Refused(400, "Invalid input error: Pipeline.Name length cannot exceed 128")
        made.pipeline_id = new_id()
        state.pipelines[made.pipeline_id] = made
        return made

    def _upload(self, query: dict[str, str], content: bytes) -> Any:
        if set(query) - {"name", "pipelineid", "description", "display_name", "tags"}:
            raise Refused(400, "unknown parameter of an upload")
        head = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\n\n"
        [part] = message_from_bytes(head + content).get_payload()
        package = part.get_payload(decode=True).decode()
        spec, *_ = parse_package(package)
        version = api.V2beta1PipelineVersion(
            pipeline_id=query["pipelineid"],
            pipeline_version_id=new_id(),
            display_name=query["name"],
            description=query.get("description"),
            pipeline_spec=spec,
            created_at=self.kubeflow.now(),
        )
        if len(query["name"].encode()) > 127:
            raise Refused(400, "Invalid input error: PipelineVersion.Name length cannot exceed 127")
        if query["pipelineid"] not in self.kubeflow.pipelines:
            raise Refused(404, "Pipeline not found")
        if any(v.display_name == version.display_name for v in self.kubeflow.versions.values()):
            raise Refused(409, "Already exist error: a version of that name exists")
        self.kubeflow.versions[version.pipeline_version_id] = version
        self.kubeflow.packages[version.pipeline_version_id] = package
        return version

    def _runs(self, method: str, rest: str, query: dict[str, str], body: Any) -> Any:
        state = self.kubeflow
        if method == "POST":
            run = read(body, "V2beta1Run")
            self._check(run)
            run.run_id, run.state, run.created_at = new_id(), "PENDING", state.now()
            if too_long(run):
                state.unlisted[run.run_id] = run
                raise Refused(500, f"Failed to create a new run: Failed to create a run: {store_error('run', run)}")
            state.runs[run.run_id] = run
            if state.next_script:
                state.scripts[run.run_id], state.next_script = state.next_script(run), None
            return run
        if not rest:
            return _page(list(state.runs.values()), "runs", query)
        if rest not in state.runs:
            raise Refused(404, f"Run {rest} not found")
        return next(state.scripts[rest]) if rest in state.scripts else state.runs[rest]

    def _check(self, job: Any) -> None:
        """Ids that exist, and the parameters that the pipeline has."""
        state, reference = self.kubeflow, job.pipeline_version_reference
        if job.experiment_id not in state.experiments:
            raise Refused(404, "Experiment not found")
        if reference.pipeline_version_id not in state.versions:
            raise Refused(404, "Pipeline version not found")
        spec = state.versions[reference.pipeline_version_id].pipeline_spec
        inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        given = job.runtime_config.parameters or {}
        check_parameters("recurring run" if hasattr(job, "trigger") else "new run", inputs, given)

    def _recurring(self, method: str, rest: str, query: dict[str, str], body: Any) -> Any:
        state = self.kubeflow
        if method == "GET" and not rest:
            return _page(list(state.recurring.values()), "recurringRuns", query)
        if method == "POST" and not rest:
            job = read(body, "V2beta1RecurringRun")
            check_cron(job.trigger.cron_schedule.cron)
            self._check(job)
            check_name(job.display_name)
            job.recurring_run_id, job.created_at = new_id(), state.now()
            job.status = "ENABLED" if job.mode == "ENABLE" else "DISABLED"
            if too_long(job):
                state.orphans[job.recurring_run_id] = job
                raise Refused(500, f"Failed to create a recurring run: {store_error('job', job)}")
            state.recurring[job.recurring_run_id] = job
            return job
        identity, _, verb = rest.partition(":")
        if identity not in state.recurring:
            raise Refused(404, f"Job {identity} not found")
        if method == "DELETE":
            if set(query) - {"propagation_policy"}:
                raise Refused(400, "unknown parameter of a deletion")
            del state.recurring[identity]
            for run in state.runs.values():
                if run.recurring_run_id == identity and run.state in ("RUNNING", "PENDING"):
                    run.state = "FAILED"  # its workflow is deleted with it
            return {}
        job = state.recurring[identity]
        if verb:
            job.mode = {"enable": "ENABLE", "disable": "DISABLE"}[verb]
            return {}
        return job


def _page(items: list[Any], name: str, query: dict[str, str]) -> dict[str, Any]:
    """One page of what the filter leaves."""
    unknown = set(query) - {"page_token", "page_size", "sort_by", "filter", "namespace", "experiment_id"}
    if unknown:
        raise Refused(400, f"unknown parameter {min(unknown)}")
    for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
        assert predicate["operation"] in ("EQUALS", 1)
        items = [item for item in items if getattr(item, predicate["key"]) == predicate["stringValue"]]
    if query.get("sort_by"):
        assert query["sort_by"] == "created_at desc"
        items = sorted(items, key=lambda item: item.created_at, reverse=True)
    begin, size = int(query.get("page_token") or 0), int(query.get("page_size") or 10)
    more = {"next_page_token": str(begin + size)} if len(items) > begin + size else {}
    return {name: items[begin : begin + size], "total_size": len(items), **more}


def parse_package(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline and its platform specification, both of which must be what Kubeflow's own messages say."""
    documents = list(yaml.load_all(text, Loader=yaml.CSafeLoader))  # in C: the DAG is long
    spec = json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
    platform = json_format.ParseDict(documents[1] if len(documents) > 1 else {}, pipeline_spec_pb2.PlatformSpec())
    return json_format.MessageToDict(spec), json_format.MessageToDict(platform)
