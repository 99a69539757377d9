"""The HTTP service: predictions from JSON or ``.npz``, a page to try it, metrics. Needs the extra ``serve``.

Shape letters: N rows (clips), T tasks (emotions).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmf_multitask import __version__
from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.data.sample import sample_clips
from lmf_multitask.data.schema import IEMOCAP_EMOTIONS
from lmf_multitask.deployment.batching import Batcher, QueueFullError, StoppingError
from lmf_multitask.deployment.bodies import JSON_TYPE, NPZ_TYPES, BodyReader, Limits, RefusedError, numbers_per_clip
from lmf_multitask.deployment.inference import BATCH_SIZE
from lmf_multitask.deployment.openapi import answer_schema, body_schema, errors
from lmf_multitask.deployment.predictor import Checked, Predictor
from lmf_multitask.errors import DataError, UserError
from lmf_multitask.evaluation.decisions import confidence_of, decisions_of

PAGE = Path(__file__).parent / "page"
_SAMPLES = 12
_ROUTES = ("/", "/predict", "/health", "/model", "/metrics", "/samples")
_READERS = 1
"""Bodies that are read at the same time: Python's lock lets more only compete with the event loop."""


class _Metrics:
    """What Prometheus reads."""

    def __init__(self, waiting: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self.answers = Counter("lmf_answers", "Answers, by path and status", ["path", "status"], registry=self.registry)
        self.seconds = Histogram("lmf_answer_seconds", "From request to answer of /predict", registry=self.registry)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
        self.requests = Histogram(
            "lmf_batch_requests", "Requests per forward pass", buckets=sizes, registry=self.registry
        )
        self.missing = Counter("lmf_missing", "Clips without a modality", ["modality"], registry=self.registry)
        self.rows = Histogram("lmf_batch_rows", "Clips per forward pass", buckets=sizes, registry=self.registry)
        Gauge("lmf_waiting_rows", "Clips that wait for a forward pass", registry=self.registry).set_function(waiting)

    def batch(self, requests: int, rows: int) -> None:
        """Counts a forward pass."""
        self.requests.observe(requests)
        self.rows.observe(rows)


def allowed_names(host: str, names: Sequence[str] | None = None) -> list[str]:
    """Host names under which the service may be reached.

    Args:
        host: the address that it listens on.
        names: further names; ``*`` allows all.
    """
    found = ["localhost", "127.0.0.1", "::1", host, *(names or ())]
    if host in ("0.0.0.0", "::"):  # all addresses of this machine
        found += [socket.gethostname(), "<address>"]
    return [name.lower().strip("[]") for name in found]


def create_app(predictor: Predictor, limits: Limits | None = None, allowed_hosts: Sequence[str] = ("*",)) -> FastAPI:
    """The service as an ASGI application.

    Args:
        predictor: the model.
        limits: of one client; None takes the defaults.
        allowed_hosts: host names that requests may be sent to, see `allowed_names`; ``*`` allows all.
    """
    service = _Service(predictor, limits or Limits())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="Emotions from audio, video and text",
        description=f"Low-rank Multimodal Fusion: {', '.join(predictor.emotions)}.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # its script would come from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    _add_routes(app, service)
    _add_pages(app, service)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
        if error.status in (408, 413, 429):
            headers["Connection"] = "close"  # the rest of the body is not read
        return JSONResponse({"error": str(error)}, error.status, headers)

    @app.exception_handler(UserError)  # of a model that does not run on these features
    async def failed(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 500)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(
            {"error": f"{request.method} {request.url.path[:80]}: {error.detail}"}, error.status_code, error.headers
        )

    app.add_middleware(_Gate, metrics=service.metrics, hosts=frozenset(allowed_hosts))
    return app


def _add_routes(app: FastAPI, service: _Service) -> None:
    """The interface for programs."""
    predictor = service.predictor

    @app.post(
        "/predict",
        openapi_extra={"requestBody": body_schema(predictor.description)},
        responses={200: answer_schema(predictor.description), **errors(408, 413, 415, 422, 429, 503)},
    )
    async def predict(request: Request) -> JSONResponse:
        """The probability that each emotion is present, and the value of each real-valued task, per clip."""
        return JSONResponse(await service.answer(request))

    @app.get("/health", responses=errors(503))
    async def health() -> JSONResponse:
        """Whether the service takes requests."""
        if service.stopping:
            raise RefusedError(503, "the service is stopping.")
        return JSONResponse({"status": "ok"})

    @app.get("/model", responses=errors())
    async def model() -> JSONResponse:
        """What the model expects and returns, how it is run, and the limits."""
        about = {"settings": predictor.settings(), "limits": asdict(service.limits)}
        return JSONResponse({**predictor.description.to_json(), **about})

    @app.get(
        "/metrics",
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **errors()},
        response_class=Response,
    )
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_pages(app: FastAPI, service: _Service) -> None:
    """The page to try the model, and clips for it."""

    @app.get("/samples", responses=errors())
    async def samples() -> JSONResponse:
        """Names of made-up clips to try the model with; none where its features are not IEMOCAP's."""
        return JSONResponse({"samples": [{"name": one["name"], "emotion": one["emotion"]} for one in service.samples]})

    @app.get("/samples/{number}", responses=errors(404))
    async def sample(number: str) -> JSONResponse:
        """One of them, counted from 1; its ``clip`` is a body for /predict."""
        if not (number.isascii() and number.isdigit() and len(number) < 4 and 1 <= int(number) <= len(service.samples)):
            raise RefusedError(404, f"the sample must be from 1 to {len(service.samples)}, but got {number[:20]!r}.")
        return JSONResponse(service.samples[int(number) - 1])

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": "default-src 'self'"})

    app.mount("/static", StaticFiles(directory=PAGE), name="static")


class _Gate:
    """Refuses foreign host names (DNS rebinding); counts every answer by path and status, unknown paths together."""

    def __init__(self, app: ASGIApp, metrics: _Metrics, hosts: frozenset[str]) -> None:
        self._app, self._metrics, self._hosts = app, metrics, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in _ROUTES else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.answers.labels(path, str(message["status"])).inc()
            await send(message)

        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) == 1 and self._allows(hosts[0]):
            await self._app(scope, receive, counted)
            return
        message = (
            f"the host name must be that of the service, but is {', '.join(hosts)[:80]!r}. Allow it: --allowed_hosts."
        )
        await JSONResponse({"error": message}, 421, {"Connection": "close"})(scope, receive, counted)

    def _allows(self, host: str) -> bool:
        name = host.partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        name = name.lower().lstrip("[").rstrip(".")
        return "*" in self._hosts or name in self._hosts or ("<address>" in self._hosts and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Service:
    """What the routes share."""

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self.predictor, self.limits = predictor, limits
        self.stopping = False
        self.samples = _samples(predictor)
        self.bodies = BodyReader(predictor, limits)
        self.metrics = _Metrics(lambda: self.batcher.waiting_rows)
        clip_bytes = np.dtype(np.float32).itemsize * numbers_per_clip(predictor.description)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="read")
        self._queue_bytes = limits.queue_rows * clip_bytes
        self.batcher: Batcher

    def start(self) -> None:
        """Begins to work, on the running event loop."""
        self.batcher = Batcher(self.predictor.predict_checked, BATCH_SIZE, self._queue_bytes, self.metrics.batch)
        self.batcher.start()

    async def stop(self) -> None:
        """Finishes accepted requests."""
        self.stopping = True
        await self.batcher.close()
        self._readers.shutdown()

    async def answer(self, request: Request) -> dict[str, Any]:
        """The answer to a request to /predict.

        Raises:
            RefusedError: the request is not answered.
        """
        started = time.perf_counter()
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != JSON_TYPE and kind not in NPZ_TYPES:
            allowed = ", ".join(NPZ_TYPES)
            raise RefusedError(
                415, f"the content type must be {JSON_TYPE} or {allowed}, but is {kind[:80] or 'missing'}."
            )
        body = await self.bodies.read(request, kind)
        try:
            # in a thread: reading megabytes would block all other requests
            clips, missing = await asyncio.get_running_loop().run_in_executor(self._readers, self._features, kind, body)
        except DataError as error:
            raise RefusedError(422, str(error)) from None
        finally:
            self.bodies.release(len(body))
        del body
        try:
            present = await self.batcher.predict(clips)
        except QueueFullError as error:
            raise RefusedError(429, str(error)) from None
        except StoppingError as error:
            raise RefusedError(503, str(error)) from None
        self.metrics.seconds.observe(time.perf_counter() - started)
        for modality, rows in missing.items():
            self.metrics.missing.labels(modality).inc(len(rows))
        counts = {modality: len(rows) for modality, rows in missing.items()}
        return {**self._answer(present), "missing": counts, "missing_in": missing}

    def _features(self, kind: str, body: bytes) -> tuple[Checked, dict[str, list[int]]]:
        """The features, and modality -> numbers of the clips that lack it."""
        clips = self.bodies.features(kind, body)
        return clips, {modality: np.flatnonzero(rows).tolist() for modality, rows in clips.missing().items()}

    def _answer(self, present: np.ndarray) -> dict[str, Any]:
        about, every = self.predictor.description, present
        decisions = decisions_of(every, about.tasks).select(about.binary)
        present, emotions = every[:, about.binary], [self.predictor.emotions[t] for t in about.binary]
        answer: dict[str, Any] = {
            "emotions": emotions,
            "probabilities": [[float(f"{value:.9g}") for value in row] for row in present.tolist()],
            "present": decisions.present.tolist(),
        }
        if about.regression:
            numbers = {name: every[:, self.predictor.emotions.index(name)].tolist() for name in about.regression}
            answer["values"] = {name: [float(f"{value:.9g}") for value in column] for name, column in numbers.items()}
        if self.predictor.description.exclusive:
            confidence = confidence_of(present, decisions.chosen).tolist()
            answer["decided"] = [
                {"emotion": emotions[index], "probability": float(f"{probability:.9g}")}
                for index, probability in zip(decisions.chosen, confidence)
            ]
        return answer


def _samples(predictor: Predictor) -> list[dict[str, Any]]:
    clips = sample_clips(_SAMPLES)
    wanted = {name: predictor.description.shape(name)[1:] for name in MODALITIES}
    for name, shape in wanted.items():
        found = clips[name].shape[1:]
        if len(found) != len(shape) or any(size not in (one, "steps") for one, size in zip(found, shape)):
            return []
    return [
        {
            "name": f"made-up clip {number + 1}",
            "emotion": IEMOCAP_EMOTIONS[clips["emotion"][number]],
            "clip": {name: [np.nan_to_num(clips[name][number]).tolist()] for name in MODALITIES},
        }
        for number in range(_SAMPLES)
    ]
