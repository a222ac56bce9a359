"""The results of a batch: one line each, written as they come, read when a run goes on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from dsv4.batch.request import Request
from dsv4.errors import DataError, RequestError, UsageError
from dsv4.evaluation.client import Response
from dsv4.pricing.price import Tokens
from dsv4.pricing.usage import time_of, tokens_of

if sys.platform != "win32":
    import fcntl

_HINT = "give another file for the results, or delete that one"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is remembered of a result. `failure`: why it failed, in few words; None: it did not.

    `tokens`, `when`: what the answer says it used, and at which time it was made.
    """

    failure: str | None
    tokens: Tokens
    when: datetime


def line_of(request: Request, answer: Response | RequestError) -> dict[str, Any]:
    """A result in OpenAI's format. An HTTP status is a response, whatever it is; `error` is for
    what has none."""
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    if isinstance(answer, Response):
        response = {
            "status_code": answer.status,
            "request_id": answer.request_id,
            "body": answer.body,
        }
    else:
        error = {"code": answer.code, "message": str(answer)}
    return {
        "id": request.id,
        "custom_id": request.custom_id,
        "response": response,
        "error": error,
    }


def outcome_of(line: dict[str, Any]) -> Outcome:
    """What a result says. Raises KeyError, TypeError or AttributeError if it is none."""
    response, error = line["response"], line["error"]
    now = datetime.now(UTC)
    if response is None:
        return Outcome(str(error["code"]), Tokens(), now)
    status, body = response["status_code"], response["body"]
    failure = None if status < 400 else f"{status} {_code(body)}".strip()
    try:
        return Outcome(failure, tokens_of(body.get("usage") or {}), time_of(body) or now)
    except UsageError:  # an API need not count
        return Outcome(failure, Tokens(), now)


class Found(NamedTuple):
    """What of a file of results counts: custom_id -> outcome, and (first byte, bytes) of the
    lines."""

    known: dict[str, Outcome]
    kept: list[tuple[int, int]]


def read(path: Path, requests: Sequence[Request], *, retry_failed: bool = False) -> Found:
    """The results in a file, which need not be there, as a run that goes on takes them.

    Raises UsageError for results of other requests, DataError for what is something else.
    """
    ids = {request.custom_id: request.id for request in requests}
    found = Found({}, [])
    if not path.exists():
        return found
    start = 0
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            if not data.endswith(b"\n"):
                break  # it was being written
            where = (start, len(data))
            start += len(data)
            try:
                line = json.loads(data)
                name, made_of, outcome = line["custom_id"], line["id"], outcome_of(line)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{path}, line {number} is no result of a batch", _HINT) from error
            if name not in ids:
                raise UsageError(
                    f"{path}, line {number}: no request has the custom_id {name!r}", _HINT
                )
            if made_of != ids[name]:
                raise UsageError(
                    f"{path}, line {number}: the request {name!r} is another one now", _HINT
                )
            again = outcome.failure is not None and (retry_failed or line["response"] is None)
            if not again:
                found.known[name] = outcome
                found.kept.append(where)
    return found


class Results:
    """The file of a batch's results; a context manager, of one process at a time.

    A half-written last line is dropped, and results without a response, whose requests are asked
    again; with `retry_failed` all that failed are. Raises what `read` raises, and UsageError for a
    file that another process writes.
    """

    def __init__(
        self, path: Path, requests: Sequence[Request], *, retry_failed: bool = False
    ) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _locked(path)
            try:
                found = read(path, requests, retry_failed=retry_failed)
                self._leave(found.kept)
            except BaseException:
                os.close(self._file)
                raise
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        self.known = found.known
        """custom_id -> what came of it, also in earlier runs."""

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def add(self, request: Request, answer: Response | RequestError) -> Outcome:
        """Keep a result; it survives the end of the process at any moment after this."""
        line = line_of(request, answer)
        data = json.dumps(line).encode() + b"\n"
        while data:
            data = data[os.write(self._file, data) :]
        outcome = self.known[request.custom_id] = outcome_of(line)
        return outcome

    def _leave(self, kept: Sequence[tuple[int, int]]) -> None:
        """Leave only these lines; a process that is killed here leaves all or these."""
        whole = sum(length for _, length in kept)
        if all(start + length <= whole for start, length in kept):
            os.ftruncate(self._file, whole)  # only the end goes
            return
        name = self.path.with_name(f"{self.path.name}.new")
        name.unlink(missing_ok=True)
        new = _locked(name)
        with self.path.open("rb") as old, os.fdopen(new, "wb", closefd=False) as file:
            for start, length in kept:
                old.seek(start)
                file.write(old.read(length))
        os.fsync(new)
        os.replace(name, self.path)
        os.close(self._file)
        self._file = new


def _locked(path: Path) -> int:
    """A descriptor to append with, which holds the file for this process until it is closed or
    the process ends. Raises UsageError, OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    if sys.platform == "win32":
        return descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had it may just have put another file in its place.
        if os.stat(path).st_ino != os.fstat(descriptor).st_ino:
            raise BlockingIOError
    except BlockingIOError as error:
        os.close(descriptor)
        raise UsageError(f"another process writes {path}", "wait for it, or stop it") from error
    return descriptor


def _code(body: dict[str, Any]) -> str:
    """What an error object tells programs, as far as there is one."""
    error = body.get("error")
    found = error.get("code") or error.get("type") if isinstance(error, dict) else error
    return found if isinstance(found, str) else ""
