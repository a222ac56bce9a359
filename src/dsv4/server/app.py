"""The HTTP application: what there is, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from dsv4.chat.engine import Engine
from dsv4.engine.service import RETRY_AFTER
from dsv4.errors import Dsv4Error
from dsv4.pricing.file import built_in
from dsv4.server import failure, page, routes, usage
from dsv4.server.accounts import Accounts, Keys
from dsv4.server.conduct import Conduct
from dsv4.server.desk import Desk
from dsv4.server.handlers import Handlers
from dsv4.server.ledger import Ledger
from dsv4.server.settings import Settings
from dsv4.server.sse import Json
from dsv4.server.status import Status
from dsv4.version import __version__


class _Application(FastAPI):
    """Its conduct stands outside of all else: an answer that reports a bug has its id too."""

    def build_middleware_stack(self) -> ASGIApp:
        return Conduct(super().build_middleware_stack(), self.state.desk.settings.origins)


def create_app(
    engine: Engine, accounts: Accounts | None = None, settings: Settings | None = None
) -> FastAPI:
    """The application around one loaded model. Without accounts, everybody may ask.

    Its `state.desk` knows what is under way.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    app = _Application(
        title="dsv4", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    desk = app.state.desk = Desk(engine, accounts or Keys(), settings or Settings())
    routes.add(app, routes.routes(Handlers(desk), Status(desk)))
    if isinstance(accounts, Ledger):
        usage.mount(app, accounts)
    prices = accounts.prices if isinstance(accounts, Ledger) else built_in()
    page.mount(app, prices, thinking=engine.model.defaults.thinking)
    for kind in (Dsv4Error, RequestValidationError, RecursionError, Exception):
        app.add_exception_handler(kind, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    return app


def _anthropic(request: Request) -> bool:
    """Whether the client of a request speaks Anthropic's dialect."""
    path = request.url.path
    return path.startswith(("/v1/messages", "/anthropic/"))


async def _on_error(request: Request, error: Exception) -> Response:
    status = failure.status_of(error)
    headers = {"Retry-After": str(RETRY_AFTER)} if status in (429, 503) else None
    if _anthropic(request):
        body = failure.anthropic_body_of(error)
        return Json(body, failure.anthropic_status(status), headers)
    return Json(failure.body_of(error), status, headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status, message = error.status_code, str(error.detail)
    describe = failure.anthropic_body if _anthropic(request) else failure.body
    return Json(describe(message, status), status, error.headers)
