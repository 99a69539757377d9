"""The HTTP service: predictions from JSON or ``.npz``, a page to try it, metrics. Needs the extra ``serve``.

No pickle is ever read: ``.npz`` goes through `lmf_multitask.data.npz`, which builds no Python objects and unpacks no more
than the limits allow.

Shape letters: N rows (clips), L words, T tasks (emotions).
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmf_multitask import __version__
from lmf_multitask.data.npz import NpzRows
from lmf_multitask.data.sample import sample_clips
from lmf_multitask.data.schema import IEMOCAP_EMOTIONS, MODALITIES, missing_rows
from lmf_multitask.deployment.batching import Batcher, QueueFullError, StoppingError
from lmf_multitask.deployment.inference import BATCH_SIZE
from lmf_multitask.deployment.predictor import Predictor
from lmf_multitask.errors import ConfigError, DataError

PAGE = Path(__file__).parent / "page"
NPZ_TYPES = ("application/x-npz", "application/zip", "application/octet-stream")
_SAMPLES = 12
_ROUTES = ("/", "/predict", "/health", "/model", "/metrics", "/samples")


@dataclass(frozen=True)
class Limits:
    """What one client may ask for.

    Attributes:
        body_bytes: of one request; more is answered with 413.
        rows: clips per request; more is answered with 422.
        queue_rows: clips that wait together; more are answered with 429.
        requests: in work at the same time, so that their bodies fit into memory; more are answered with 429.
        body_seconds: to send a body in; longer is answered with 408.
    """

    body_bytes: int = 16 * 2**20
    rows: int = 1024
    queue_rows: int = 8192
    requests: int = 128
    body_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ConfigError(f"{name} must be above 0, but got {value!r}.")


class _RefusedError(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Figures:
    """What Prometheus reads."""

    def __init__(self, waiting: Any) -> None:
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


def create_app(predictor: Predictor, limits: Limits | None = None) -> FastAPI:
    """The service as an ASGI application.

    Args:
        predictor: the model.
        limits: of one client; None takes the defaults.
    """
    limits = limits or Limits()
    emotions = predictor.emotions
    service = _Service(predictor, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="Emotions from audio, video and text",
        description=f"Low-rank Multimodal Fusion: {', '.join(emotions)}.",
        version=__version__,
        lifespan=lifespan,
    )
    app.state.service = service
    errors = {status: {"description": text, "content": _ERROR_CONTENT} for status, text in _ERRORS.items()}

    @app.post(
        "/predict",
        openapi_extra={"requestBody": _body_schema(predictor)},
        responses={200: _answer_schema(emotions), **errors},
    )
    async def predict(request: Request) -> JSONResponse:
        """The probability that each emotion is present, per clip."""
        return JSONResponse(await service.answer(request))

    @app.get("/health", responses={503: errors[503]})
    async def health() -> JSONResponse:
        """Whether the service takes requests."""
        if service.stopping:
            raise _RefusedError(503, "the service is stopping.")
        return JSONResponse({"status": "ok"})

    @app.get("/model")
    async def model() -> JSONResponse:
        """What the model expects and gives, how it is run, and the limits."""
        about = {"settings": predictor.settings(), "calibrated": predictor.calibrated, "limits": asdict(limits)}
        return JSONResponse({**predictor.description.to_json(), **about})

    @app.get("/samples")
    async def samples() -> JSONResponse:
        """Names of made-up clips to try the model with; none where its sizes are not IEMOCAP's."""
        return JSONResponse({"samples": [{"name": one["name"], "emotion": one["emotion"]} for one in service.samples]})

    @app.get(
        "/samples/{number}",
        responses={404: {"description": "There is none of that number.", "content": _ERROR_CONTENT}},
    )
    async def sample(number: str) -> JSONResponse:
        """One of them, counted from 1; its ``clip`` is a body for /predict."""
        if not (number.isascii() and number.isdigit() and len(number) < 4 and 1 <= int(number) <= len(service.samples)):
            raise _RefusedError(404, f"the sample must be from 1 to {len(service.samples)}, but got {number[:20]!r}.")
        return JSONResponse(service.samples[int(number) - 1])

    @app.get(
        "/metrics",
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        response_class=Response,
    )
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(generate_latest(service.figures.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": "default-src 'self'"})

    app.mount("/static", StaticFiles(directory=PAGE), name="static")

    @app.exception_handler(_RefusedError)
    async def refused(request: Request, error: _RefusedError) -> JSONResponse:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
        if error.status in (408, 413, 429):
            headers["Connection"] = "close"  # the rest of the body is not read
        return JSONResponse({"error": str(error)}, error.status, headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(
            {"error": f"{request.method} {request.url.path[:80]}: {error.detail}"}, error.status_code, error.headers
        )

    app.add_middleware(_CountAnswers, figures=service.figures)
    return app


class _CountAnswers:
    """Counts every answer by path and status; unknown paths together, so that nobody can fill the memory with names."""

    def __init__(self, app: ASGIApp, figures: _Figures) -> None:
        self._app, self._figures = app, figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in _ROUTES else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._figures.answers.labels(path, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counted)


class _Service:
    """What the routes share."""

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self.predictor, self.limits = predictor, limits
        self.thresholds = predictor.thresholds()
        self.stopping = False
        self.samples = _samples(predictor)
        self._batcher: Batcher | None = None
        self._in_work = 0
        self.figures = _Figures(lambda: self._batcher.waiting_rows if self._batcher else 0)

    async def start(self) -> None:
        def on_batch(requests: int, rows: int) -> None:
            self.figures.requests.observe(requests)
            self.figures.rows.observe(rows)

        self._batcher = Batcher(self.predictor.predict, BATCH_SIZE, self.limits.queue_rows, on_batch)
        self._batcher.start()

    async def stop(self) -> None:
        self.stopping = True
        await self._batcher.close()

    async def answer(self, request: Request) -> dict[str, Any]:
        started = time.perf_counter()
        if self._in_work >= self.limits.requests:
            raise _RefusedError(
                429, f"at most {self.limits.requests} requests must be in work, but more are. Try again in a moment."
            )
        self._in_work += 1
        try:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json" and kind not in NPZ_TYPES:
                raise _RefusedError(
                    415,
                    f"the content type must be application/json or {', '.join(NPZ_TYPES)}, but is {kind[:80] or 'missing'}.",
                )
            body = await self._body(request)
            # in a thread: parsing megabytes would hold up everybody else
            inputs, missing = await run_in_threadpool(self._inputs, kind, body)
            try:
                present = await self._batcher.predict(inputs)
            except QueueFullError as error:
                raise _RefusedError(429, str(error)) from None
            except StoppingError as error:
                raise _RefusedError(503, str(error)) from None
        except DataError as error:
            raise _RefusedError(422, str(error)) from None
        finally:
            self._in_work -= 1
        self.figures.seconds.observe(time.perf_counter() - started)
        for modality, rows in missing.items():
            self.figures.missing.labels(modality).inc(rows)
        return {**self._answer(present), "missing": missing}

    async def _body(self, request: Request) -> bytes:
        most = self.limits.body_bytes
        too_large = _RefusedError(
            413, f"the body must have at most {most:,} bytes, but has more. Send fewer clips at a time."
        )
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > most:
            raise too_large

        async def read() -> bytes:
            parts, size = [], 0
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
            return b"".join(parts)

        try:
            return await asyncio.wait_for(read(), self.limits.body_seconds)
        except ClientDisconnect:
            raise _RefusedError(400, "the client went away.") from None
        except (asyncio.TimeoutError, TimeoutError):
            raise _RefusedError(
                408, f"the body must arrive within {self.limits.body_seconds:g} seconds, but did not."
            ) from None

    def _inputs(self, kind: str, body: bytes) -> tuple[list[np.ndarray], dict[str, int]]:
        arrays = self._from_json(body) if kind == "application/json" else self._from_npz(body)
        inputs = self.predictor.checked(**arrays)
        self._check_rows(len(inputs[0]))
        gaps = missing_rows(dict(zip(MODALITIES, inputs)))
        return inputs, {modality: gaps[modality] for modality in self.predictor.description.modalities}

    def _check_rows(self, rows: int) -> None:
        if not 1 <= rows <= self.limits.rows:
            raise DataError(f"a request must have from 1 to {self.limits.rows:,} clips, but has {rows:,}. Split it.")

    def _from_json(self, body: bytes) -> Mapping[str, Any]:
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:120]
            raise DataError(f"the body must be JSON, but {reason}.") from None
        if not isinstance(content, dict) or not set(content) <= set(MODALITIES) or not content:
            found = sorted(key[:40] for key in content)[:9] if isinstance(content, dict) else type(content).__name__
            raise DataError(
                f"the body must be an object with audio, video and text, or some of them, and nothing else, but has {found}."
            )
        for name, value in content.items():
            if value is not None and not isinstance(value, list):
                raise DataError(f"{name} must be a list of clips, but is {json.dumps(value)[:40]}.")
        return content

    def _from_npz(self, body: bytes) -> Mapping[str, np.ndarray]:
        sizes, words = self.predictor.description.feature_sizes, self.predictor.description.words
        per_row = 8 * (sizes["audio"] + sizes["video"] + (words or 1024) * sizes["text"])
        rows = NpzRows(io.BytesIO(body), "the body", limit=self.limits.rows * per_row)
        self._check_rows(rows.count)
        return next(rows.blocks(rows.count))

    def _answer(self, present: np.ndarray) -> dict[str, Any]:
        emotions = self.predictor.emotions
        answer: dict[str, Any] = {
            "emotions": emotions,
            "probabilities": [[float(f"{value:.9g}") for value in row] for row in present.tolist()],
            "present": (present > np.asarray(self.thresholds, np.float32)).tolist(),
        }
        if set(emotions) == set(IEMOCAP_EMOTIONS):
            answer["four_way"] = [emotions[index] for index in present.argmax(axis=1)]
        return answer


def _samples(predictor: Predictor) -> list[dict[str, Any]]:
    clips = sample_clips(_SAMPLES)
    fits = all(clips[name].shape[-1] == predictor.description.feature_sizes[name] for name in MODALITIES)
    if not fits or predictor.description.words not in (None, clips["text"].shape[1]):
        return []
    return [
        {
            "name": f"made-up clip {number + 1}",
            "emotion": IEMOCAP_EMOTIONS[clips["emotion"][number]],
            "clip": {name: [np.nan_to_num(clips[name][number]).tolist()] for name in MODALITIES},
        }
        for number in range(_SAMPLES)
    ]


# -- the OpenAPI document

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
    "additionalProperties": False,
}
_ERROR_CONTENT = {"application/json": {"schema": _ERROR}}
_ERRORS = {
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is neither JSON nor .npz.",
    422: "The body does not fit the model, or has too many clips.",
    429: "Too many clips wait already: try again in a moment.",
    503: "The service is stopping.",
}


def _body_schema(predictor: Predictor) -> dict[str, Any]:
    def lists(sizes: list[Any]) -> dict[str, Any]:
        if not sizes:
            return {"type": "number"}
        fixed = {"minItems": sizes[0], "maxItems": sizes[0]} if isinstance(sizes[0], int) else {"minItems": 1}
        return {"type": "array", "items": lists(sizes[1:]), **fixed}

    properties = {name: lists(list(predictor.description.shape(name))) for name in MODALITIES}
    numbers = {
        "type": "object",
        "properties": properties,
        "minProperties": 1,
        "additionalProperties": False,
        "description": "one entry per clip in each; what is left out is missing in every clip, as zeros are in one",
    }
    binary = {"type": "string", "format": "binary", "description": "numpy.savez(file, audio=..., video=..., text=...)"}
    content = {"application/json": {"schema": numbers}, **{kind: {"schema": binary} for kind in NPZ_TYPES}}
    return {"required": True, "content": content}


def _answer_schema(emotions: list[str]) -> dict[str, Any]:
    def rows(item: dict[str, Any]) -> dict[str, Any]:
        inner = {"type": "array", "items": item, "minItems": len(emotions), "maxItems": len(emotions)}
        return {"type": "array", "items": inner}

    schema = {
        "type": "object",
        "properties": {
            "emotions": {"type": "array", "items": {"type": "string"}},
            "probabilities": rows({"type": "number", "minimum": 0, "maximum": 1}),
            "present": rows({"type": "boolean"}),
            "missing": {
                "type": "object",
                "additionalProperties": {"type": "integer", "minimum": 0},
                "description": "modality that the model looks at -> clips that have none (zeros, or left out)",
            },
            "four_way": {"type": "array", "items": {"type": "string", "enum": list(IEMOCAP_EMOTIONS)}},
        },
        "required": ["emotions", "probabilities", "present", "missing"],
        "additionalProperties": False,
    }
    return {"description": "Per clip and emotion", "content": {"application/json": {"schema": schema}}}
