"""Around every request: its id, and which web pages may ask."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Conduct:
    """ASGI middleware. Echoes X-Request-Id, or makes one; answers the preflights of web pages
    from `origins` (`*`: all) with 204 and lets them read. Others get no leave to."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asked = headers.get("x-request-id", "")
        extra = {"X-Request-Id": asked if _ID.fullmatch(asked) else uuid.uuid4().hex}
        extra |= self._leave(headers.get("origin"))

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(extra)
            await send(message)

        preflight = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        if preflight and "Access-Control-Allow-Origin" in extra:
            extra |= {
                "Access-Control-Allow-Methods": "GET, POST",
                "Access-Control-Allow-Headers": headers.get("access-control-request-headers", "*"),
                "Access-Control-Max-Age": "600",
            }
            await send_more({"type": "http.response.start", "status": 204, "headers": []})
            await send_more({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send_more)

    def _leave(self, origin: str | None) -> dict[str, str]:
        if origin is None or not ("*" in self._origins or origin in self._origins):
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "X-Request-Id, Retry-After",
            "Vary": "Origin",
        }
