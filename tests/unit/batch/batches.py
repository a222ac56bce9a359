"""Batches for tests: lines, files, and servers that answer as they are told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dsv4.evaluation.client import Response

Reply = tuple[int, dict[str, str], bytes] | None
Say = Callable[[str, int], Reply]
"""(what a request asks, how often it was asked before) -> status, headers and body of the answer;
None: the connection breaks."""


def line(name: str, text: str = "hi", **body: Any) -> dict[str, Any]:
    """One request."""
    asked = {"model": "scripted", "messages": [{"role": "user", "content": text}], **body}
    return {
        "custom_id": name,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": asked,
    }


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(one) for one in path.read_text(encoding="utf-8").splitlines()]


def answer(text: str, prompt: int = 10, output: int = 5, **more: Any) -> dict[str, Any]:
    """The body of an answer."""
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": output},
        **more,
    }


def good(text: str, **more: Any) -> Reply:
    return 200, {"X-Request-Id": f"of {text}"}, json.dumps(answer(text, **more)).encode()


def bad(status: int, code: str = "trouble", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, json.dumps({"error": {"message": "no", "code": code}}).encode()


@contextmanager
def api(say: Say) -> Iterator[tuple[str, list[str]]]:
    """(base URL, what was asked, in order) of a server."""
    asked: list[str] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            with lock:
                before = asked.count(text)
                asked.append(text)
            reply = say(text, before)
            if reply is None:
                self.close_connection = True
                return
            status, headers, data = reply
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Said:
    """A target in this process. `most`: requests that were under way at once."""

    def __init__(self, say: Callable[[str], Response]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self.asked: list[str] = []
        self.now = self.most = 0
        self.settled = False

    def post(self, path: str, body: Mapping[str, Any]) -> Response:
        text = body["messages"][-1]["content"]
        with self._lock:
            self.asked.append(text)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            return self._say(text)
        finally:
            with self._lock:
                self.now -= 1

    def settle(self) -> None:
        self.settled = True
