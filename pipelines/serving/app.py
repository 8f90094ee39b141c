"""The HTTP interface of a registered model."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from pipelines.serving import bodies
from pipelines.serving.batching import Batcher
from pipelines.serving.bodies import RefusedError
from pipelines.serving.following import Following
from pipelines.serving.interface_page import POLICY, interface_page
from pipelines.serving.loading import Loaded
from pipelines.serving.metrics import metrics

OFF_LOOP = 100_000  # bytes of a body that is parsed beside the event loop
REASON = 200  # characters of a reason: a task's own may hold part of a record
ABOUT = """Answers records with a registered model. One record is a body with its own content type; several are JSON in
the forms of MLflow's server (`dataframe_records`, `dataframe_split`, `inputs`, `instances`), each as base64 or as
`{"b64": …}`, or as it is for text."""


@dataclass(frozen=True)
class Limits:
    """Limits on what a server accepts."""

    body: int  # bytes of a request
    records: int  # of a request
    requests: int  # at a time
    batch: int  # records of a pass
    wait: float  # seconds that a batch waits for more
    poll: float  # seconds between two looks at the alias


class Predictions(BaseModel):
    """The answers to a request, in its order."""

    predictions: list[dict[str, Any]]
    model: str
    version: str


class Refusal(BaseModel):
    """Why a request is not answered."""

    error: str
    records: Annotated[list[dict[str, int | str]], Field(description="Of each bad record, its number and the reason.")]
    model: str
    version: str


class Health(BaseModel):
    """The version that answers, and how."""

    model: str
    version: str
    alias: str
    engine: str


class Service:
    """State that the routes share: the model, its batches, and the count of requests."""

    def __init__(self, following: Following, limits: Limits) -> None:
        self.following, self.limits, self.metrics = following, limits, metrics()
        self.batcher = Batcher(limits.batch, limits.wait, self.metrics.sizes.observe)
        self.running = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.metrics.waiting.set_function(self.batcher.waiting)
        self.metrics.running.set_function(lambda: self.running)

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """Compute batches and follow the alias while the server runs."""
        self.following.changed = self._changed
        self._show()
        work = [self.batcher.work(), self.following.follow(self.limits.poll)]
        self._tasks = tasks = [asyncio.create_task(one) for one in work]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def predict(self, request: Request) -> Response:
        """Answer a request, or say why not."""
        begin, loaded = time.perf_counter(), self.following.current
        self.running += 1
        try:
            records = await self._records(request, loaded)
            answers = _complete(await self.batcher.answer(loaded, records))
            self.metrics.records.inc(len(answers))
            found = _json({"predictions": answers}, loaded)
        except RefusedError as error:
            reasons = [{"record": i, "reason": reason[:REASON]} for i, reason in error.records.items()]
            found = _json({"error": error.sentence, "records": reasons}, loaded, error.status)
        finally:
            self.running -= 1
        self.metrics.requests.labels(str(found.status_code)).inc()
        self.metrics.seconds.observe(time.perf_counter() - begin)
        return found

    async def _records(self, request: Request, loaded: Loaded) -> list[Any]:
        """The records of a request.

        Raises:
            RefusedError: There are none, or too many, or too many requests are in progress.
        """
        if self.running > self.limits.requests:
            raise RefusedError(503, f"{self.limits.requests} requests are in progress. Try again.")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await bodies.read(request, self.limits.body)
        if len(body) > OFF_LOOP and not kind.startswith(bodies.RAW):
            found = await asyncio.to_thread(bodies.records, body, kind, loaded.column)
        else:
            found = bodies.records(body, kind, loaded.column)
        if len(found) > self.limits.records:
            raise RefusedError(413, f"{len(found)} records are more than the {self.limits.records} of one request.")
        return found

    async def live(self) -> Response:
        """Return whether batches are computed: without, requests would wait for ever."""
        ended = any(task.done() for task in self._tasks[:1])
        return JSONResponse({"status": "ended" if ended else "live"}, 503 if ended else 200)

    async def ready(self) -> Health:
        """Return the version that answers."""
        now = self.following.current
        return Health(model=now.name, version=now.version, alias=self.following.alias, engine=now.engine)

    async def exposed(self) -> Response:
        """Return the metrics."""
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def _changed(self, outcome: str) -> None:
        self.metrics.reloads.labels(outcome).inc()
        self._show()

    def _show(self) -> None:
        now = self.following.current
        self.metrics.model.clear()
        self.metrics.model.labels(now.name, now.version, now.engine).set(1)


def build(following: Following, limits: Limits) -> FastAPI:
    """Return the application: predictions, health, metrics, and the page that describes them."""
    service = Service(following, limits)
    title = f"Thawline: {following.current.name}"
    app = FastAPI(title=title, description=ABOUT, lifespan=service.lifespan, docs_url=None, redoc_url=None)
    body = {"requestBody": _request_body(following.current.column)}
    refused: dict[int | str, dict[str, Any]] = {status: {"model": Refusal} for status in (400, 408, 413, 415, 500, 503)}
    for path in ("/predict", "/invocations"):  # the second is what MLflow's server and SageMaker call it
        app.post(
            path,
            response_model=Predictions,
            responses=refused,
            openapi_extra=body,
            summary="Answer one record, or several",
        )(service.predict)
    for path in ("/health/ready", "/ping"):
        app.get(path, summary="The version that answers")(service.ready)
    app.get("/health/live", summary="Whether the process answers")(service.live)
    app.get("/metrics", response_class=PlainTextResponse, summary="Metrics in Prometheus' text format")(service.exposed)

    async def described(request: Request) -> Response:
        text = interface_page(app.openapi(), following.current.column, str(request.base_url))
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY})

    async def to_docs() -> Response:
        return RedirectResponse("docs")  # relative: a proxy may have put the server below a path

    app.get("/docs", include_in_schema=False)(described)
    app.get("/", include_in_schema=False)(to_docs)
    return app


def _complete(said: list[dict[str, Any] | str | None]) -> list[dict[str, Any]]:
    """The answers, if there is one to each record.

    Raises:
        RefusedError: Some have none.
    """
    if failed := {i: "the model failed" for i, one in enumerate(said) if one is None}:
        raise RefusedError(500, "The model failed; its error is in the log of the server.", failed)
    if reasons := {i: one for i, one in enumerate(said) if isinstance(one, str)}:
        raise bodies.unanswered(reasons, len(said))
    return [one for one in said if isinstance(one, dict)]


def _json(content: Mapping[str, Any], loaded: Loaded, status: int = 200) -> Response:
    headers = {"Retry-After": "1"} if status == 503 else {}  # noqa: PLR2004 - of HTTP
    return JSONResponse({**content, "model": loaded.name, "version": loaded.version}, status, headers)


def _request_body(column: str) -> dict[str, Any]:
    """The requests of the page."""
    example = {"dataframe_records": [{column: {"b64": "…"}}]}
    raw = {"schema": {"type": "string", "format": "binary"}}
    kinds = ("application/octet-stream", "image/*", "audio/*", "text/plain")
    several = {"schema": {"type": "object"}, "example": example}
    return {"required": True, "content": {"application/json": several, **dict.fromkeys(kinds, raw)}}
