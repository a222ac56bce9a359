"""The HTTP application: routes, limits and the life of a request.

The first version of the API: chat completions, models and health. Handlers never touch the
model; they start a job and stream what comes back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from dsv4.chat.answer import Finish
from dsv4.chat.engine import Engine
from dsv4.encoding.events import Event
from dsv4.engine.service import RETRY_AFTER
from dsv4.errors import Dsv4Error, RequestError
from dsv4.server import openai
from dsv4.server.failure import body, body_of, status_of
from dsv4.server.job import Job
from dsv4.server.schema import ALIASES, ChatBody
from dsv4.version import __version__

MAX_BODY = 64 << 20
"""Bytes of a request body; more get 413."""

KEEP_ALIVE_SECONDS = 5.0


def create_app(engine: Engine) -> FastAPI:
    """The application around one loaded model."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(title="dsv4", version=__version__, lifespan=lifespan)
    service = _Service(engine)
    for prefix in ("", "/v1"):
        app.add_api_route(
            f"{prefix}/chat/completions", service.chat, methods=["POST"], response_model=None
        )
        app.add_api_route(f"{prefix}/models", service.models, methods=["GET"])
    app.add_api_route("/health", service.health, methods=["GET"])
    app.add_exception_handler(Dsv4Error, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_error)
    app.add_exception_handler(Exception, _on_error)
    return app


async def _on_error(_: Request, error: Exception) -> JSONResponse:
    status = status_of(error)
    headers = {"Retry-After": str(RETRY_AFTER)} if status in (429, 503) else None
    return JSONResponse(body_of(error), status, headers)


async def _on_http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code
    return JSONResponse(body(str(error.detail), status), status, error.headers)


class _Service:
    """The handlers, sharing one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._name = engine.model.name
        self._fingerprint = f"dsv4-{__version__}-{engine.model.numerics}"

    async def health(self) -> dict[str, Any]:
        return {
            "status": "ok",
            "model": self._name,
            "numerics": self._engine.model.numerics,
            "running": self._engine.service.running,
            "waiting": self._engine.service.waiting,
        }

    async def models(self) -> dict[str, Any]:
        context = self._engine.model.config.max_position_embeddings
        return {
            "object": "list",
            "data": [
                {
                    "id": name,
                    "object": "model",
                    "created": 0,
                    "owned_by": "dsv4",
                    "context_window": context,
                }
                for name in (self._name, *ALIASES)
            ],
        }

    async def chat(self, request: Request) -> JSONResponse | StreamingResponse:
        parsed = await _read(request)
        if parsed.model != self._name and parsed.model not in ALIASES:
            known = ", ".join((self._name, *ALIASES))
            raise RequestError(
                f"Model Not Exist: {parsed.model[:80]!r}; this server has {known}", param="model"
            )
        wanted = parsed.request(self._engine.model.defaults)
        prepared = await asyncio.to_thread(self._engine.prepare, wanted)
        job = Job(self._engine, prepared)
        completion = openai.Completion(parsed.model, self._fingerprint)
        if parsed.stream:
            include = parsed.stream_options is not None and parsed.stream_options.include_usage
            return StreamingResponse(
                _stream(job, completion, include),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache"},
            )
        events = await _collect(job, request)
        return JSONResponse(completion.whole(events, prepared.opens_thinking))


async def _read(request: Request) -> ChatBody:
    """The request's body, checked. Raises RequestError: 413, 499 (the client left), and those
    of `_parse`."""
    data = bytearray()
    try:
        async for part in request.stream():
            data += part
            if len(data) > MAX_BODY:
                raise RequestError(f"the body exceeds {MAX_BODY >> 20} MiB", status=413)
    except ClientDisconnect as error:
        raise RequestError("the client left before its request was read", status=499) from error
    return await asyncio.to_thread(_parse, data)  # a long one would hold up every stream


def _parse(data: bytearray) -> ChatBody:
    """A body, checked. Raises RequestError: 400 (no JSON) or 422 (fields)."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    try:
        return ChatBody.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise RequestError(f"{where}: {first['msg']}", status=422, param=where) from error


async def _collect(job: Job, request: Request) -> list[Event | Finish]:
    """All events of a job, which is cancelled when the client goes."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        job.cancel()

    watcher = asyncio.create_task(watch())
    try:
        events = [event async for event in job.events(idle=60.0) if event is not None]
    finally:
        watcher.cancel()
        job.cancel()
    if not events:
        raise RequestError("the request was cancelled", status=503, code="overloaded")
    return events


async def _stream(
    job: Job, completion: openai.Completion, include_usage: bool
) -> AsyncIterator[str]:
    """Server-sent events of a job. When the client goes, the server closes this generator,
    and that cancels the job. An error ends the stream without a finish chunk."""
    try:
        yield openai.sse(completion.first(job.prepared.opens_thinking))
        async for event in job.events(idle=KEEP_ALIVE_SECONDS):
            if event is None:
                yield openai.KEEP_ALIVE
                continue
            for chunk in completion.chunks(event, include_usage):
                yield openai.sse(chunk)
        yield openai.DONE
    except Exception as error:
        yield openai.sse(body_of(error))
    finally:
        job.cancel()
