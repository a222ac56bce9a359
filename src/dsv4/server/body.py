"""Bodies of requests: read within their limits, parsed, checked."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect

from dsv4.errors import RequestError
from dsv4.server.settings import Settings
from dsv4.server.workers import Workers


class Lenient(BaseModel):
    """Unknown fields are ignored, but no value is taken for one of another type."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())


Body = TypeVar("Body", bound=Lenient)


async def read(request: Request, kind: type[Body], settings: Settings, workers: Workers) -> Body:
    """The request's body, checked by one of the workers.

    Raises RequestError: 408 (it stalled), 413, 429, 499 (the client left), and those of `parse`.
    """
    data = bytearray()
    parts = request.stream()
    try:
        while True:
            async with asyncio.timeout(settings.body_seconds):
                data += await anext(parts)
            if len(data) > settings.most_body:
                raise RequestError(
                    f"the body exceeds {settings.most_body} bytes",
                    status=413,
                    code="request_too_large",
                )
    except StopAsyncIteration:
        pass
    except TimeoutError as error:
        raise RequestError("the request's body did not arrive", status=408) from error
    except ClientDisconnect as error:
        raise RequestError("the client left before its request was read", status=499) from error
    return await workers.run(parse, data, kind)  # a long one would hold up every stream


def parse(data: bytearray, kind: type[Body]) -> Body:
    """A body, checked. Raises RequestError: 400 (no JSON) or 422 (fields)."""
    try:
        values = json.loads(data, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise RequestError(f"{where}: {first['msg']}", status=422, param=where) from error


def _no_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def first_given(*values: Any) -> Any:
    """The first that is not None; the last of all is given."""
    return next(value for value in values if value is not None)
