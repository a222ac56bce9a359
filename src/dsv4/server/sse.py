"""JSON as it goes out: whole bodies and server-sent events."""

from __future__ import annotations

import json
from typing import Any

from fastapi.responses import Response


def encode(value: Any) -> str:
    """JSON text. What of a request stands in it may hold half of a surrogate pair, which
    cannot be sent; it becomes `?`."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text.encode(errors="replace").decode()


class Json(Response):
    """A response with a JSON body."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encode(content).encode()


def data(value: Any) -> str:
    """An event without a name."""
    return f"data: {encode(value)}\n\n"


def event(value: dict[str, Any]) -> str:
    """An event named by the `type` of its value."""
    return f"event: {value['type']}\n{data(value)}"


KEEP_ALIVE = ": keep-alive\n\n"
DONE = "data: [DONE]\n\n"
