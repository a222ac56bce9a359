"""GET /usage: what keys used, what it cost, and what it would cost elsewhere."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request

from dsv4.server.desk import key_of
from dsv4.server.ledger import Ledger


def mount(app: FastAPI, ledger: Ledger) -> None:
    """Add GET /usage and /v1/usage; a spent key may still ask."""

    async def usage(request: Request) -> dict[str, Any]:
        account = ledger.find(key_of(request))
        return await asyncio.to_thread(account.usage)

    for prefix in ("", "/v1"):
        app.add_api_route(f"{prefix}/usage", usage, methods=["GET"], include_in_schema=False)
