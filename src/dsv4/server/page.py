"""The web page at `/`: files of the package, and the prices it shows."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from dsv4.pricing.price import Prices
from dsv4.server.sse import Json

FOLDER = Path(__file__).parent / "web"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Always asked for, and answered with 304 while it is the same: an update is seen at once.
    "Cache-Control": "no-cache",
}


def mount(
    app: FastAPI, prices: Prices, *, thinking: bool, price: str = "deepseek-v4-flash"
) -> None:
    """Add the page to an application.

    `thinking`: whether the model thinks unless told otherwise; `price`: the model whose prices
    the page shows at first.
    """
    files = {path.name: _File(path) for path in FOLDER.iterdir() if path.suffix in KINDS}

    async def index(request: Request) -> Response:
        return files["index.html"].answer(request)

    async def icon(request: Request) -> Response:
        return files["icon.svg"].answer(request)

    async def asset(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404)
        return files[name].answer(request)

    async def about() -> Response:
        values = {"thinking": thinking, "price": price, "prices": _now(prices)}
        return Json(values, headers={"Cache-Control": "no-cache"})

    app.add_api_route("/web/about.json", about, methods=["GET"], include_in_schema=False)
    for path, handler in (("/", index), ("/favicon.ico", icon), ("/web/{name}", asset)):
        app.add_api_route(path, handler, methods=["GET", "HEAD"], include_in_schema=False)


class _File:
    """A file as it was when the server started."""

    def __init__(self, path: Path) -> None:
        self._bytes = path.read_bytes()
        tag = f'"{hashlib.sha256(self._bytes).hexdigest()[:16]}"'
        self._headers = HEADERS | {"ETag": tag, "Content-Type": KINDS[path.suffix]}

    def answer(self, request: Request) -> Response:
        known = request.headers.get("if-none-match", "")
        if self._headers["ETag"] in known:
            return Response(status_code=304, headers=self._headers)
        return Response(self._bytes, headers=self._headers)


def _now(prices: Prices) -> list[dict[str, str]]:
    """Every model with the rate of this moment."""
    when = datetime.now(UTC)
    shown = []
    for model in prices:
        price = model.at(when)
        if price is not None:
            rate = price.at(when)
            named = {"name": model.name, "vendor": model.vendor}
            figures = {"hit": rate.hit, "miss": rate.miss, "output": rate.output}
            shown.append(named | {kind: f"{value:f}" for kind, value in figures.items()})
    return shown
