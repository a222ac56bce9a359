"""A server with OpenAI's API and no model: it says what follows from the request, and can be made
to fail in the ways in which servers fail."""

from __future__ import annotations

import itertools
import json
import random
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
BLOCK = 16
"""Tokens of a block of its cache."""
ROLES = {"system", "user", "assistant", "tool"}
LEAK = "<｜DSML｜tool_calls>"


class Upstream:
    """`fault`: how it fails, if at all. `count`: tokens of a prompt; words and marks unless given.
    `delay`: seconds per token, of which others under way make more. `context`: tokens of a prompt
    at most."""

    def __init__(
        self,
        fault: str = "",
        *,
        count: Callable[[Json], int] | None = None,
        delay: float = 0.0,
        context: int = 1 << 20,
    ) -> None:
        self.fault, self.delay, self.context = fault, delay, context
        self.count = count or words_of
        self._lock = threading.Lock()
        self.active = 0
        self._numbers = itertools.count()
        self._cache: dict[str, list[list[str]]] = {}
        self._last: dict[str, list[str]] = {}
        self.requests = 0

    # --- what it says -----------------------------------------------------------------------

    def refusal(self, body: Any) -> str | None:
        if not isinstance(body, dict) or body.get("model") != "fake":
            return "there is no such model"
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            return "messages are a list"
        if any(message.get("role") not in ROLES for message in messages):
            return "there is no such role"
        temperature, top_p, most = (
            body.get(key, default)
            for key, default in (("temperature", 1), ("top_p", 1), ("max_tokens", 1))
        )
        if not isinstance(temperature, (int, float)) or not 0 <= temperature <= 2:
            return "no such temperature"
        if not 0 < top_p <= 1 or most < 1:
            return "no such top_p or max_tokens"
        if self.count(body) > self.context and self.fault != "cuts long prompts":
            return "the prompt is too long"
        return None

    def answer(self, body: Json) -> Json:
        """reasoning, content, calls, finish, usage, entries of log-probabilities."""
        self.requests += 1
        prompt, most = self.count(body), body.get("max_tokens", 64)
        cached, mixed = self._cached(body)
        reasoning = content = ""
        calls: list[Json] = []
        if thinks(body):
            reasoning = said(["reasons", text_of(body)], 12)
        talks = self.fault == "talks where it has to call"
        if body.get("tools") and body.get("tool_choice") == "required" and not talks:
            calls = called(body)
        else:
            content = self._content(body, prompt)
        if self.fault == "mixes cached answers" and mixed is not None:
            content = mixed
        if self.fault == "answers depend on load" and self.active > 1:
            content = said(["loaded", next(self._numbers)], 20)
        if self.fault == "temperature 0 is random":
            content = said(["random", next(self._numbers)], 20)
        if self.fault == "thinking in the content" and reasoning:
            content, reasoning = f"<think>{reasoning}</think>{content}", ""
        words = tokens(reasoning) + tokens(content)
        if self.fault != "ignores max_tokens" and len(words) > most:
            kept = len(tokens(reasoning))
            reasoning = "".join(words[: min(kept, most)])
            content, calls, finish = "".join(words[kept : max(kept, most)]), [], "length"
            words = words[:most]
        else:
            finish = "tool_calls" if calls else "stop"
        if self.fault == "leaks markup" and calls:
            content = "\n\n" + LEAK
        used = len(words) + sum(len(json.dumps(call)) // 4 for call in calls)
        key = json.dumps(body["messages"][-1])
        self._last.setdefault(self.salt(body), []).append(content if "secret" in key else "")
        return {
            "reasoning": reasoning,
            "content": content,
            "calls": calls,
            "finish": finish,
            "usage": {
                "prompt_tokens": prompt + (self.fault == "counts one more"),
                "completion_tokens": used,
                "total_tokens": prompt + used + (self.fault == "sums wrongly"),
                "prompt_tokens_details": {"cached_tokens": cached},
            },
            "entries": [entry(word, text_of(body), i) for i, word in enumerate(words)],
        }

    def _content(self, body: Json, prompt: int) -> str:
        text = text_of(body)
        asked = re.search(r"What is the secret number of (\w+)\?$", text)
        if asked is None:
            content = said([text], 60)
            without = body.get("fields_of") == "no speculation"
            if self.fault == "speculation changes answers" and not without:
                return "Guessed " + content
            return "la la " * 60 if self.fault == "loops" and prompt > 300 else content
        found = re.search(rf"secret number of {asked[1]} is (\d+)", text)
        value = found[1] if found else "0"
        wrong = {
            "3 mod 4": prompt % 4 == 3,
            "127 mod 128": prompt % 128 == 127,
            "from 512 on": prompt > 512,
        }
        if wrong.get(self.fault, False):
            value = value[:1] + "xxx"
        return f"The secret number of {asked[1]} is {value} ."

    def _cached(self, body: Json) -> tuple[int, str | None]:
        """Tokens of the prompt that were seen before, and the answer to what began alike."""
        if self.fault == "no cache":
            return 0, None
        key = self.salt(body)
        words, seen = text_of(body).split(), self._cache.setdefault(key, [])
        best, answer = 0, None
        for number, other in enumerate(seen):
            pairs = enumerate(zip(words, other, strict=False))
            same = next((i for i, (a, b) in pairs if a != b), min(len(words), len(other)))
            if same // BLOCK * BLOCK > best:
                best = same // BLOCK * BLOCK
                answer = self._last[key][number] or None
        seen.append(words)
        return min(best, max(0, len(words) - 1)), answer if "secret" in words[-5:] else None

    def salt(self, body: Json) -> str:
        """What parts its cache."""
        return str(body.get("user_id", ""))

    # --- what stands beside the API ---------------------------------------------------------

    def page(self, path: str) -> str | None:
        """What else there is to GET."""
        return None

    def beside(self, path: str, data: bytes) -> Json | None:
        """What else there is to POST to."""
        return None

    # --- how it says it ---------------------------------------------------------------------

    def whole(self, made: Json) -> Json:
        message = {"role": "assistant", "content": made["content"] or None}
        if made["reasoning"]:
            message["reasoning_content"] = made["reasoning"]
        if made["calls"]:
            message["tool_calls"] = made["calls"]
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": made["finish"],
            "logprobs": {"content": made["entries"]},
        }
        return {"id": "x", "choices": [choice], "usage": made["usage"]}

    def chunks(self, made: Json) -> Iterator[Json]:
        for name, key in (("reasoning_content", "reasoning"), ("content", "content")):
            for word in tokens(made[key]):
                yield {"choices": [{"index": 0, "delta": {name: word}}]}
        for index, call in enumerate(made["calls"]):
            head = {**call["function"], "arguments": ""}
            whole = call["function"]["arguments"]
            pieces = [whole[at : at + 7] for at in range(0, len(whole), 7)]
            if self.fault == "drops a tool delta":
                del pieces[1:2]
            yield {
                "choices": [{"delta": {"tool_calls": [{**call, "index": index, "function": head}]}}]
            }
            for piece in pieces:
                part = {"index": index, "function": {"arguments": piece}}
                yield {"choices": [{"delta": {"tool_calls": [part]}}]}
        yield {"choices": [{"delta": {}, "finish_reason": made["finish"]}]}
        yield {"choices": [], "usage": made["usage"]}

    @contextmanager
    def slot(self) -> Iterator[None]:
        self._enter(1)
        try:
            if self.fault == "answers depend on load":
                time.sleep(0.005)  # those that come together are under way together
            yield
        finally:
            self._enter(-1)

    def _enter(self, step: int) -> None:
        with self._lock:
            self.active += step


def text_of(body: Json) -> str:
    """All that a prompt holds."""
    parts = [json.dumps(body["tools"])] if body.get("tools") else []
    for message in body["messages"]:
        parts += [message.get("content") or "", json.dumps(message.get("tool_calls") or "")[1:-1]]
    return " ".join(parts).strip()


def words_of(body: Json) -> int:
    """Tokens of a prompt, where words and marks are tokens."""
    deep = 79 if thinks(body) and body.get("reasoning_effort") == "max" else 0
    return len(re.findall(r"\w+|[^\w\s]", text_of(body))) + deep


def thinks(body: Json) -> bool:
    return (body.get("thinking") or {}).get("type") == "enabled"


def said(seed: list[Any], count: int) -> str:
    rng = random.Random(zlib.crc32(repr(seed).encode()))
    return (
        " ".join(
            rng.choice("the a dog cat sea boat ran sat red blue".split()) for _ in range(count)
        )
        + "."
    )


def tokens(text: str) -> list[str]:
    """A word with the space in front of it is a token."""
    return re.findall(r"\s*\S+", text)


def entry(word: str, prompt: str, at: int) -> Json:
    level = -0.1 - (zlib.crc32(prompt.encode()) % 97) / 1000
    others = [{"token": word, "logprob": level}, {"token": "other", "logprob": level - 2}]
    return {"token": word, "logprob": level, "top_logprobs": others}


def called(body: Json) -> list[Json]:
    """What a model that does as it is told would call."""
    asked = body["messages"][-1]["content"] or ""
    function = body["tools"][0]["function"]
    if "note" in asked and len(body["tools"]) > 1:
        function = body["tools"][1]["function"]
    times = 3 if "London" in asked else 1
    made = []
    for i in range(times):
        properties = function["parameters"]["properties"]
        arguments = {
            name: True if schema["type"] == "boolean" else f"{asked} {i}"
            for name, schema in properties.items()
        }
        written = json.dumps(arguments, ensure_ascii=False)
        made.append(
            {"id": f"call_{i}", "type": "function",
             "function": {"name": function["name"], "arguments": written}}
        )  # fmt: skip
    return made


def _handler(upstream: Upstream) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            if (shown := upstream.page(self.path)) is not None:
                return self._json(200, shown)
            if self.path != "/v1/models":
                return self._json(404, {"error": {"message": "nothing is here"}})
            self._json(200, {"data": [{"id": "fake", "max_model_len": upstream.context}]})

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if (beside := upstream.beside(self.path, data)) is not None:
                return self._json(200, beside)
            if self.path != "/v1/chat/completions":
                return self._json(404, {"error": {"message": "nothing is here"}})
            try:
                body = json.loads(data)
                refused = upstream.refusal(body)
            except (ValueError, AttributeError, TypeError) as error:
                refused = str(error)
            if refused is not None and upstream.fault == "refuses with 500":
                return self._json(500, {"error": {"message": refused}})
            if refused is not None and upstream.fault == "answers mistakes":
                body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
            elif refused is not None:
                return self._json(400, {"error": {"message": refused}})
            with upstream.slot():
                made = upstream.answer(body)
                if body.get("stream"):
                    self._stream(made)
                else:
                    time.sleep(upstream.delay * len(made["entries"]) * upstream.active**2)
                    self._json(200, upstream.whole(made))

        def _stream(self, made: Json) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            gone = False
            chunks = list(upstream.chunks(made))
            if upstream.fault == "drops a word" and len(chunks) > 4:
                del chunks[2]
            for chunk in chunks:
                time.sleep(upstream.delay)
                try:
                    if not gone:
                        self.wfile.write(f"data: {json.dumps({'id': 'x', **chunk})}\n\n".encode())
                        self.wfile.flush()
                except OSError:
                    gone = True
                if gone and upstream.fault != "does not cancel":
                    return
            if not gone and upstream.fault != "no end of stream":
                self.wfile.write(b"data: [DONE]\n\n")

        def _json(self, status: int, body: Json | str) -> None:
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hung up


@contextmanager
def running(upstream: Upstream) -> Iterator[str]:
    """The URL of a server on a free port."""
    server = _Server(("127.0.0.1", 0), _handler(upstream))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
