"""Which path leads where, and what the API document says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from dsv4.server import shapes
from dsv4.server.chat_body import ChatBody
from dsv4.server.completion_body import CompletionBody
from dsv4.server.handlers import Handlers
from dsv4.server.messages_body import CountBody, MessagesBody
from dsv4.server.responses_body import ResponsesBody
from dsv4.server.status import Status
from dsv4.server.tokens import DetokenizeBody, TokenizeBody

Handler = Callable[..., Any]

_REF = "#/components/schemas/{model}"


@dataclass(frozen=True, slots=True)
class Route:
    """One thing the server does. `body`: it is asked for with POST and this."""

    paths: tuple[str, ...]
    handler: Handler
    answer: type[BaseModel] | None
    body: type[BaseModel] | None = None
    streams: bool = False
    error: type[BaseModel] = shapes.ErrorBody


def routes(handlers: Handlers, status: Status) -> tuple[Route, ...]:
    """All of them, those of OpenAI's API with and without /v1."""
    anthropic = shapes.AnthropicErrorBody
    messages = ("/v1/messages", "/anthropic/v1/messages")
    counts = tuple(f"{path}/count_tokens" for path in messages)
    return (
        Route(
            (*_both("/chat/completions"), "/beta/chat/completions"),
            handlers.chat,
            shapes.ChatCompletion,
            ChatBody,
            streams=True,
        ),
        Route(
            (*_both("/completions"), "/beta/completions"),
            handlers.completion,
            shapes.TextCompletion,
            CompletionBody,
            streams=True,
        ),
        Route(
            _both("/responses"),
            handlers.response,
            shapes.ModelResponse,
            ResponsesBody,
            streams=True,
        ),
        Route(
            messages,
            handlers.messages,
            shapes.AnthropicMessage,
            MessagesBody,
            streams=True,
            error=anthropic,
        ),
        Route(counts, handlers.count_tokens, shapes.InputTokens, CountBody, error=anthropic),
        Route(("/tokenize",), handlers.tokenize, shapes.Tokens, TokenizeBody),
        Route(("/detokenize",), handlers.detokenize, shapes.Prompt, DetokenizeBody),
        Route(_both("/models"), status.models, shapes.ModelList),
        Route(_both("/models/{model}"), status.model, shapes.ModelEntry),
        Route(("/user/balance",), status.balance, shapes.Balance),
        Route(("/debug/integrity",), status.integrity, None),
        Route(("/health",), status.health, shapes.Health),
        Route(("/ready",), status.ready, shapes.Ready),
        Route(("/version",), status.version, shapes.Version),
        Route(("/metrics",), status.metrics, None),
    )


def _both(path: str) -> tuple[str, str]:
    return path, f"/v1{path}"


def add(app: FastAPI, all_routes: tuple[Route, ...]) -> None:
    """Put routes into an application, and their bodies into its document."""
    bodies = [route.body for route in all_routes if route.body is not None]
    for route in all_routes:
        for path in route.paths:
            _add(app, route, path)
    made: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not made:
            made.update(get_openapi(title=app.title, version=app.version, routes=app.routes))
            _, extra = models_json_schema(
                [(body, "validation") for body in bodies], ref_template=_REF
            )
            made["components"]["schemas"].update(extra["$defs"])
            made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            made["security"] = [{}, {"key": []}]
        return made

    app.openapi = document  # type: ignore[method-assign]


def _add(app: FastAPI, route: Route, path: str) -> None:
    success: dict[str, Any] = {} if route.answer is None else {"model": route.answer}
    if route.streams:
        success["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    failure = {"model": route.error, "description": "What went wrong"}
    extra: dict[str, Any] = {}
    if route.body is not None:
        schema = {"$ref": _REF.format(model=route.body.__name__)}
        extra["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    if "{model}" in path:
        name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
        extra["parameters"] = [name]
    app.add_api_route(
        path,
        route.handler,
        methods=["GET" if route.body is None else "POST"],
        response_model=None,
        responses={200: success, "4XX": failure, "5XX": failure},
        openapi_extra=extra,
    )
