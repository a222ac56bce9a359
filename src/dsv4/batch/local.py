"""This package's server as a target, without a socket: the same routes, the same bodies."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.types import Message

from dsv4.batch.request import PREFIX
from dsv4.chat.engine import Engine
from dsv4.evaluation.client import Response
from dsv4.server.app import create_app
from dsv4.server.settings import Settings

logger = logging.getLogger("dsv4.batch")

T = TypeVar("T")

PATIENT = Settings(most_body=sys.maxsize, queue_tokens=sys.maxsize, queue_seconds=1e9)
"""A batch waits as long as it takes: nothing is too much or too late."""


class LocalServer:
    """The application around an engine, on an event loop and a thread of its own.

    It closes the engine when it is closed.
    """

    def __init__(self, engine: Engine) -> None:
        self._app = create_app(engine, settings=PATIENT)
        self._loop = asyncio.new_event_loop()
        self._gone = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._life = self._app.router.lifespan_context(self._app)
        self._run(self._life.__aenter__())

    def post(self, path: str, body: Mapping[str, Any]) -> Response:
        return self._run(self._post(f"{PREFIX}/{path}", json.dumps(body).encode()))

    def settle(self) -> None:
        pass  # nothing is asked twice

    def close(self) -> None:
        """End the requests under way, and the engine."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _close(self) -> None:
        self._gone.set()
        waiting = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.gather(*waiting, return_exceptions=True)
        await self._life.__aexit__(None, None, None)

    async def _post(self, path: str, data: bytes) -> Response:
        """One request as a client over HTTP would make it, which stays until `_gone`."""
        body: list[bytes] = [data]
        head: Message = {}
        received = bytearray()

        async def receive() -> Message:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            await self._gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                head.update(message)
            else:
                received.extend(message.get("body", b""))

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": None,
            "server": None,
        }
        try:
            await self._app(scope, receive, send)
        except Exception:  # a bug, for which the client got a 500
            if not head:
                raise
            logger.exception("an answer failed")
        headers = Headers(raw=head["headers"])
        return Response(head["status"], json.loads(received), headers["x-request-id"])
