"""JSON asked of an API that is somewhere else, and asked again where that may help."""

from __future__ import annotations

import json
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any, NoReturn, cast

from dsv4.errors import RequestError, UsageError

TIMEOUT = 600.0
"""Seconds an answer may take."""

RETRIES = 5
"""Times a request is sent again, unless somebody says otherwise."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the first retry, doubled for each further one, up to the longest."""

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that may be others a moment later."""

CHARACTERS = 4
"""Of a token, where only the server knows its vocabulary."""

NO_ANSWER = "no_answer"
"""The code of a RequestError for a server that did not answer."""


@dataclass(frozen=True, slots=True)
class Response:
    """What a server answered, also if it refused. `request_id`: its name for the request, or
    nothing."""

    status: int
    body: dict[str, Any]
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class _Received:
    status: int
    data: bytes
    request_id: str = ""
    retry_after: float = 0.0


class Client:
    """An API by its base URL, such as http://127.0.0.1:8000/v1. Any thread may use it.

    A request that meets no server or a passing trouble is sent again, up to `retries` times, after
    pauses that double (or as long as the server asks for). An answer may take `timeout` seconds.
    Raises UsageError for what is no URL.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        retries: int = RETRIES,
        first_pause: float = FIRST_PAUSE,
        timeout: float = TIMEOUT,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url} is no URL", "such as http://127.0.0.1:8000/v1")
        self.url = url.rstrip("/")
        self._key = key
        self._retries = retries
        self._first_pause = first_pause
        self._timeout = timeout
        self._settled = threading.Event()

    def settle(self) -> None:
        """Retry nothing any more; who waits for the next attempt gets what the last one met."""
        self._settled.set()

    def post(self, path: str, body: Mapping[str, Any]) -> Response:
        """The answer to a body, whatever its status.

        Raises RequestError: 503 (`no_answer`) if there is none, 502 for one that is no JSON object.
        """
        return self.send(path, json.dumps(body).encode())

    def send(self, path: str, data: bytes) -> Response:
        """As `post`, of a body that need not be JSON."""
        pause, left = self._first_pause, self._retries
        while True:
            last = left == 0 or self._settled.is_set()
            try:
                with closing(self._open(path, data)) as answer:
                    received = _received(answer)
            except (OSError, HTTPException) as error:
                if last or self._settled.is_set():
                    raise self._unanswered(path, error) from error
                wanted = 0.0
            else:
                if received.status not in PASSING or last or self._settled.is_set():
                    return self._read(path, received)
                wanted = received.retry_after
            # Those that failed together do not come back together.
            drawn = min(pause, LONGEST_PAUSE) * random.uniform(0.5, 1.0)
            self._settled.wait(max(drawn, wanted))
            pause, left = pause * 2, left - 1

    def text(self, path: str) -> str | None:
        """What is under a path that needs no body; None if there is nothing. Raises RequestError
        if there is no server."""
        try:
            with closing(self._open(path, None)) as answer:
                received = _received(answer)
        except (OSError, HTTPException) as error:
            raise self._unanswered(path, error) from error
        return received.data.decode("utf-8", "replace") if received.status == 200 else None

    @contextmanager
    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Iterator[str]]:
        """The `data` of the events of a streamed answer, as they come; leaving the context drops
        the connection. Sent once.

        Raises RequestError: with the status of a refusal, 503 if nothing comes (any more).
        """
        try:
            with closing(self._open(path, json.dumps(body).encode())) as answer:
                if answer.status >= 400:
                    refusal = answer.read(300).decode("utf-8", "replace")
                    raise RequestError(
                        f"{self.url}/{path} answered {answer.status}: {refusal}",
                        status=answer.status,
                    )
                yield _events(answer)
        except (OSError, HTTPException) as error:
            raise self._unanswered(path, error) from error

    def _open(self, path: str, data: bytes | None) -> HTTPResponse:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        method = "GET" if data is None else "POST"
        request = urllib.request.Request(f"{self.url}/{path}", data, headers, method=method)
        try:
            return cast(HTTPResponse, urllib.request.urlopen(request, timeout=self._timeout))
        except urllib.error.HTTPError as error:
            return cast(HTTPResponse, error)  # it is one, but for its class

    def _unanswered(self, path: str, error: Exception) -> RequestError:
        return RequestError(
            f"no answer from {self.url}/{path}: {error or type(error).__name__}",
            "is a server listening there? the same command goes on",
            status=503,
            code=NO_ANSWER,
        )

    def _read(self, path: str, received: _Received) -> Response:
        try:
            body = json.loads(received.data, parse_constant=_no_number)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            shown = received.data[:300].decode("utf-8", "replace")
            raise RequestError(
                f"{self.url}/{path} answered {received.status} with no JSON object: {shown}",
                status=received.status if received.status >= 400 else 502,
                code="invalid_response",
            )
        return Response(received.status, body, received.request_id)


def _events(answer: HTTPResponse) -> Iterator[str]:
    for line in answer:
        if line.startswith(b"data:"):
            yield line[5:].decode("utf-8", "replace").strip()


def _received(answer: HTTPResponse) -> _Received:
    headers = answer.headers
    name = headers.get("x-request-id") or headers.get("request-id") or ""
    try:
        # Nobody waits for a day because a header says so. (It may also be a date: not read.)
        pause = min(max(float(headers.get("retry-after") or 0), 0.0), LONGEST_PAUSE)
    except ValueError:
        pause = 0.0
    return _Received(answer.status, answer.read(), name, pause)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
