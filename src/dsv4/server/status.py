"""What a server tells of itself: models, balance, health, numbers."""

from __future__ import annotations

import asyncio

from fastapi import Request
from fastapi.responses import Response

from dsv4.server.desk import Desk
from dsv4.server.sse import Json
from dsv4.version import __version__

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Status:
    """Handlers that ask nothing of the model."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._model = desk.engine.model

    async def models(self, request: Request) -> Response:
        self._desk.looking(request)
        names = self._desk.names
        return Json({"object": "list", "data": [names.entry(name) for name in names.all]})

    async def model(self, request: Request) -> Response:
        self._desk.looking(request)
        return Json(self._desk.names.entry(request.path_params["model"]))

    async def balance(self, request: Request) -> Response:
        return Json(self._desk.looking(request).balance())

    async def integrity(self, request: Request) -> Response:
        """What the engine finds when it checks itself, and what the server holds."""
        self._desk.looking(request)
        state = await asyncio.to_thread(self._desk.engine.integrity)
        return Json(state | {"jobs": self._desk.jobs, "tasks": len(asyncio.all_tasks())})

    async def health(self) -> Response:
        """Alive, and what it is doing. Needs no key."""
        service = self._desk.engine.service
        return Json(
            {
                "status": "ok",
                "model": self._model.name,
                "numerics": self._model.numerics,
                "running": service.running,
                "waiting": service.waiting,
            }
        )

    async def ready(self) -> Response:
        """Whether new requests are taken."""
        ready = not self._desk.draining
        return Json({"ready": ready}, 200 if ready else 503)

    async def version(self) -> Response:
        return Json({"version": __version__, "model": self._model.name})

    async def metrics(self) -> Response:
        return Response(self._desk.metrics.text(), media_type=PROMETHEUS)
