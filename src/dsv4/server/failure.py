"""Errors as HTTP: one table from our exceptions to status, type and body."""

from __future__ import annotations

from typing import Any

from dsv4.errors import Dsv4Error, EncodingError, RequestError, UsageError

_TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
}


def status_of(error: Exception) -> int:
    """HTTP status of an exception: the caller's mistakes are 4xx, all else is ours."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, (EncodingError, UsageError)):
        return 400
    return 500


def body(
    message: str, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The error object of the hosted API. What of a request stands in it may hold half of a
    surrogate pair, which cannot be sent; it becomes `?`."""
    kind = _TYPES.get(status, "invalid_request_error")
    message, param = _sendable(message), None if param is None else _sendable(param)
    return {"error": {"message": message, "type": kind, "param": param, "code": code or kind}}


def _sendable(text: str) -> str:
    return text.encode(errors="replace").decode()


def body_of(error: Exception) -> dict[str, Any]:
    """The error object of an exception; what is not meant for people stays in the log."""
    status = status_of(error)
    if isinstance(error, RequestError):
        return body(str(error), status, error.param, error.code)
    if isinstance(error, Dsv4Error):
        message = f"{error}; {error.hint}" if error.hint else str(error)
        return body(message, status)
    return body("the server failed to answer; see its log", 500)
