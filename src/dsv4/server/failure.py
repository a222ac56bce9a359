"""Errors as HTTP: one table from our exceptions to status and type, and the bodies in which the
dialects say it."""

from __future__ import annotations

from typing import Any

from dsv4.errors import Dsv4Error, EncodingError, RequestError, UsageError

_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
_ANTHROPIC_STATUS = {422: 400, 503: 529}


def status_of(error: Exception) -> int:
    """HTTP status of an exception: the caller's mistakes are 4xx, all else is ours."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, (EncodingError, UsageError, RecursionError)):
        return 400
    return 500


def message_of(error: Exception) -> str:
    """What an exception tells the client; what is not meant for people stays in the log."""
    if isinstance(error, RequestError):
        return _sendable(str(error))
    if isinstance(error, Dsv4Error):
        return _sendable(f"{error}; {error.hint}" if error.hint else str(error))
    if isinstance(error, RecursionError):
        return "the request is nested too deeply"
    return "the server failed to answer; see its log"


def body(
    message: str, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The error object of the hosted API. What of a request stands in it may hold half of a
    surrogate pair, which cannot be sent; it becomes `?`."""
    kind = _TYPES.get(status, "invalid_request_error")
    message, param = _sendable(message), None if param is None else _sendable(param)
    return {"error": {"message": message, "type": kind, "param": param, "code": code or kind}}


def body_of(error: Exception) -> dict[str, Any]:
    """The error object of an exception."""
    status = status_of(error)
    if isinstance(error, RequestError):
        return body(message_of(error), status, error.param, error.code)
    return body(message_of(error), status)


def anthropic_status(status: int) -> int:
    """The status with which Anthropic's API says the same."""
    return _ANTHROPIC_STATUS.get(status, status)


def anthropic_body(message: str, status: int) -> dict[str, Any]:
    """The error object of Anthropic's API, for one of its statuses."""
    kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": _sendable(message)}}


def anthropic_body_of(error: Exception) -> dict[str, Any]:
    """The error object of an exception, as Anthropic's API would send it."""
    return anthropic_body(message_of(error), anthropic_status(status_of(error)))


def response_error(error: Exception) -> dict[str, Any]:
    """The `error` of a failed response, with the codes its clients act on."""
    known = {402: "insufficient_quota", 429: "rate_limit_exceeded", 503: "server_is_overloaded"}
    code = known.get(status_of(error), "server_error")
    if isinstance(error, RequestError) and error.status == 400:
        code = error.code
    return {"code": code, "message": message_of(error)}


def _sendable(text: str) -> str:
    return text.encode(errors="replace").decode()
