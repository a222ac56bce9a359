"""A server between a harness and an endpoint: it keeps every answer, counts, and adds what the
harness does not know of.

A harness that was interrupted begins anew, or asks again from somewhere in the middle; what it asks
a second time comes from the records and is not paid for again. Of requests that are alike, the
first one of a run gets the first answer that was kept, the second one the second, and so on.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dsv4.errors import Dsv4Error, RequestError, UsageError
from dsv4.evaluation.client import CHARACTERS, Client
from dsv4.evaluation.records import Record, Records
from dsv4.evaluation.spending import Spending
from dsv4.pricing.price import Tokens
from dsv4.pricing.usage import tokens_of

LONGEST = 65536
"""Tokens of an answer whose request sets no limit, for what it may cost."""

KEY = "relay"
"""What a harness is given as its key: the endpoint's own is known to the relay alone."""

_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")

Answer = tuple[int, dict[str, Any]]
"""Status and body."""


class Relay:
    """Listens on a free port of this machine; a context manager. `url` is its base URL.

    fields: of every body, unless it sets them. When `spending` allows no more it answers 402. On
    leaving, what is under way is waited for and kept. Raises as `Records`.
    """

    def __init__(
        self,
        client: Client,
        model: str,
        path: Path,
        spending: Spending,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        self._client, self._model, self._spending = client, model, spending
        self._fields = dict(fields or {})
        self._records = Records(path, f"{client.url} {model}")
        self._spending.add(self._records.known.values())
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.sent = self.repeated = 0
        """Requests of this run that were sent on, and those that had an answer."""
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}
        )
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()  # waits for the requests under way
        self._records.__exit__()

    @property
    def tokens(self) -> Tokens:
        """Of all answers that are kept."""
        return sum((Tokens(r.hit, r.miss, r.tokens) for r in self._known()), Tokens())

    @property
    def answers(self) -> int:
        return len(self._known())

    def _known(self) -> list[Record]:
        with self._lock:
            return list(self._records.known.values())

    def answer(self, path: str, body: Mapping[str, Any]) -> Answer:
        """The answer to a request, kept or new."""
        if body.get("stream"):
            return _refusal(400, "the relay of dsv4 eval does not stream")
        body = {**self._fields, **body, "model": self._model}
        text = json.dumps([path, body], sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        with self._lock:
            id = f"{digest}/{self._seen[digest]}"
            self._seen[digest] += 1
            known = self._records.known.get(id)
            if known is not None:
                self.repeated += 1
                return 200, json.loads(known.text)
            if not self._spending.reserve(id, _expected(text, body)):
                return _refusal(402, "the limit of cost is reached, or the run is ending")
            self.sent += 1
        began = time.perf_counter()
        try:
            response = self._client.post(path, body)
        except RequestError as error:
            response = None
            refusal = _refusal(error.status, str(error))
        with self._lock:
            if response is None or response.status != 200:
                self._spending.release(id)
                self._seen[digest] -= 1  # asked again it is the same request
                return refusal if response is None else (response.status, response.body)
            seconds = round(time.perf_counter() - began, 4)
            self._records.add(record := _record(id, path, digest, response.body, seconds))
            self._spending.add([record])
        return 200, response.body


def _record(id: str, path: str, digest: str, body: Mapping[str, Any], seconds: float) -> Record:
    usage = body.get("usage")
    try:
        used = tokens_of(usage) if isinstance(usage, dict) else Tokens()
    except UsageError:
        used = Tokens()
    return Record(
        id,
        path,
        digest,
        {},
        seconds,
        text=json.dumps(body, ensure_ascii=False),
        tokens=used.output,
        hit=used.hit,
        miss=used.miss,
        when=round(time.time(), 3),
    )


def _expected(text: str, body: Mapping[str, Any]) -> Tokens:
    limits = [body[key] for key in _LIMITS if type(body.get(key)) is int]
    return Tokens(miss=len(text) // CHARACTERS, output=limits[0] if limits else LONGEST)


def _refusal(status: int, message: str) -> Answer:
    return status, {"error": {"message": message, "type": "relay", "code": str(status)}}


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # those under way are waited for

    def __init__(self, relay: Relay) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.relay = relay


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)))
            if not isinstance(body, dict):
                raise ValueError("the body is no object")
            path = self.path.removeprefix("/").removeprefix("v1/")
            status, said = self.server.relay.answer(path, body)
        except (ValueError, TypeError, Dsv4Error) as error:
            status, said = _refusal(400, f"no request that can be relayed: {error}")
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing: the harness shows what it does."""
