"""The requests of a batch: a JSONL file that is checked as a whole before anything is sent."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from dsv4.errors import UsageError

PREFIX = "/v1"
"""What the `url` of a request begins with, and the base URL of an API ends in."""

ENDPOINTS = tuple(f"{PREFIX}/{name}" for name in ("chat/completions", "completions", "responses"))
"""What this package's server answers."""

MOST_SHOWN = 10
"""Lines that one error names."""

_PATH = re.compile(rf"{PREFIX}(?:/[A-Za-z0-9_-]+)+")
_KEYS = {"custom_id": str, "method": str, "url": str, "body": dict}


@dataclass(frozen=True, slots=True)
class Request:
    """One line: where it stands, and what tells it apart.

    `id` is a digest of the whole request, so that a result shows what it is the result of.
    `path`: of its `url`, what follows the base URL of an API. `start`, `size`: bytes in the file.
    """

    custom_id: str
    id: str
    path: str
    number: int
    start: int
    size: int


class Requests(Sequence[Request]):
    """All requests of a file, in its order. Bodies stay on disk: the file may be larger than
    memory."""

    def __init__(self, path: Path, requests: Sequence[Request]) -> None:
        self.path = path
        self._requests = requests

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, index: Any) -> Any:
        return self._requests[index]

    def body(self, request: Request) -> dict[str, Any]:
        """The body of one. Raises UsageError if the file changed since it was read."""
        with self.path.open("rb") as file:
            file.seek(request.start)
            line = file.read(request.size)
        try:
            values = _values(line)
            if _id(values) != request.id:
                raise _Wrong("is another request")
        except _Wrong as error:
            raise UsageError(
                f"{self.path} changed while it was used: line {request.number} {error}",
                "run it again",
            ) from error
        body: dict[str, Any] = values["body"]
        return body


def read(path: Path, endpoints: Container[str] | None = None) -> Requests:
    """The requests of a file; `endpoints`: those that can be answered (None: any).

    Raises UsageError, which names every malformed line, or the first ones of many.
    """
    found: list[Request] = []
    numbers: dict[str, int] = {}
    wrong: list[str] = []
    try:
        for number, start, line in _lines(path):
            try:
                values = _values(line)
                _check(values, endpoints)
                name = values["custom_id"]
                if name in numbers:
                    raise _Wrong(f"has the custom_id {name!r} of line {numbers[name]}")
            except _Wrong as error:
                wrong.append(f"line {number} {error}")
                continue
            numbers[name] = number
            url = values["url"].removeprefix(f"{PREFIX}/")
            found.append(Request(name, _id(values), url, number, start, len(line)))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if wrong:
        more = len(wrong) - MOST_SHOWN
        shown = wrong[:MOST_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise UsageError(
            f"{path}: " + "\n  ".join(["nothing was sent", *shown]),
            'a line is {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", '
            '"body": {...}}',
        )
    if not found:
        raise UsageError(f"{path} holds no requests", "one JSON object a line")
    return Requests(path, found)


class _Wrong(Exception):
    """What is wrong with a line, as the rest of a sentence that begins with it."""


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number, first byte, bytes) of every line that is not empty."""
    with path.open("rb") as file:
        start = 0
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, start, line
            start += len(line)


def _values(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line.rstrip().decode("utf-8-sig"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise _Wrong(f"is not UTF-8: byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        raise _Wrong(f"is not JSON: {error.msg}, column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise _Wrong(f"is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise _Wrong("is no JSON object")
    return values


def _check(values: dict[str, Any], endpoints: Container[str] | None) -> None:
    for key, kind in _KEYS.items():
        if key not in values:
            raise _Wrong(f"lacks {key}")
        if not isinstance(values[key], kind):
            raise _Wrong(f"has a {key} that is no {'object' if kind is dict else 'string'}")
    if not values["custom_id"]:
        raise _Wrong("has an empty custom_id")
    if values["method"] != "POST":
        raise _Wrong(f"has the method {values['method']!r}; it has to be POST")
    url = values["url"]
    if not _PATH.fullmatch(url):
        raise _Wrong(f"has the url {url!r}; it has to begin with {PREFIX}/, without a host")
    if endpoints is not None and url not in endpoints:
        raise _Wrong(f"has the url {url!r}; there are {', '.join(ENDPOINTS)}")
    if values["body"].get("stream"):
        raise _Wrong("asks for a stream, which a batch cannot give")


def _id(values: dict[str, Any]) -> str:
    """What a result of this request is called: the same request always has the same id."""
    written = json.dumps([values.get(key) for key in _KEYS], sort_keys=True)
    return f"batch_req_{hashlib.sha256(written.encode()).hexdigest()[:32]}"


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
